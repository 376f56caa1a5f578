"""What ledger, audit and journal say of an effect: when it is new, when it is asked about, when it ended."""

from __future__ import annotations

import logging

from selfware_common import catalog, log
from selfware_oversightd.canonical import Proposal
from selfware_oversightd.records import EffectRecord, Outcome, State

LOG = logging.getLogger("selfware-oversightd")


def about(record: EffectRecord) -> dict[str, str]:
    """The body of the audit row about a proposal."""
    return {
        "effect_id": record.effect_id,
        "task_id": record.task_id,
        "session_id": record.session_id,
        "digest": record.digest,
        "class": record.approval_class,
        "summary": record.summary,
        "rule": record.rule,
    }


def new_record(proposal: Proposal, workspace: str, rule: str, now: int) -> EffectRecord:
    """Allowed unless somebody says otherwise."""
    return EffectRecord(
        effect_id=proposal.effect_id,
        digest=proposal.digest,
        state=State.HELD,
        kind=proposal.kind,
        approval_class=proposal.approval_class,
        summary=proposal.summary,
        canonical=proposal.canonical,
        workspace=workspace,
        session_id=proposal.session_id,
        task_id=proposal.task_id,
        reason=proposal.reason,
        rule=rule,
        created_unix_nanos=now,
    )


def about_end(record: EffectRecord, outcome: Outcome) -> dict[str, object]:
    """The body of the audit row about its end."""
    return {
        "effect_id": record.effect_id,
        "state": outcome.state,
        "sentence": outcome.sentence,
        "exit_status": outcome.exit_status,
        "output_bytes": outcome.output_bytes,
    }


def log_question(record: EffectRecord, approval_id: str) -> None:
    """Somebody has to decide."""
    ids = {"approval_id": approval_id, "task_id": record.task_id, "effect_id": record.effect_id}
    LOG.warning(
        "%s waits for a person: %s", approval_id, record.summary, extra=log.event(catalog.APPROVAL_NEEDED, **ids)
    )


def log_end(record: EffectRecord) -> None:
    """It ended; an unknown outcome is a warning."""
    ids = {"effect_id": record.effect_id, "task_id": record.task_id, "session_id": record.session_id}
    is_unknown = record.state is State.UNKNOWN
    extra = log.event(catalog.OUTCOME_UNKNOWN, **ids) if is_unknown else log.fields(**ids)
    LOG.log(logging.WARNING if is_unknown else logging.INFO, "%s: %s", record.summary, record.sentence, extra=extra)
