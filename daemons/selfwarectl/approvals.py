"""`approvals`, `approve`, `reject`: the questions that wait for a person, and the person's word carried to oversightd.

Nothing is decided here. An approval names the digest of the action that was shown, so it cannot be taken for another.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import click

from selfwarectl import output, reach


@click.group()
def approvals() -> None:
    """See the questions that wait, or waited, for a person."""


@approvals.command("ls")
@output.json_option
def ls() -> None:
    """List the questions that wait now.

    \b
    Examples:
      selfwarectl approvals ls
      selfwarectl approvals ls --json
    """
    _list(fetch("pending"), "no question waits for you")


@approvals.command("history")
@output.json_option
def history() -> None:
    """List all questions, answered and expired ones too.

    \b
    Examples:
      selfwarectl approvals history
    """
    _list(fetch("all"), "nothing was ever asked")


@approvals.command("show")
@click.argument("approval_id", metavar="ID")
@output.json_option
def show(approval_id: str) -> None:
    """Show one question with the exact action it is about.

    \b
    Examples:
      selfwarectl approvals show appr-7
    """
    one = fetch_one(approval_id)
    if output.wants_json():
        output.emit(one)
        return
    output.pairs(
        {
            "id": one["id"],
            "state": one["state"],
            "class": one.get("class", ""),
            "summary": one.get("summary", ""),
            "task": one.get("task_id", ""),
            "workspace": one.get("workspace", ""),
            "asked": output.local_time(one.get("created_unix_nanos", 0)),
            "expires": output.local_time(one.get("expires_unix_nanos", 0)),
            "decided": output.local_time(one.get("decided_unix_nanos", 0)),
            "decided by uid": one.get("decided_by_uid", "") if one.get("decided_unix_nanos") else "",
            "digest": one.get("digest", ""),
        }
    )
    if one.get("reason"):
        output.say("the model's reason:")
        output.block(str(one["reason"]))
    output.say("the action:")
    output.block(str(one.get("canonical", "")))


@click.command()
@click.argument("approval_id", metavar="ID")
@click.option("--digest", default="", help="Approve only if the action still has this digest.")
@output.json_option
def approve(approval_id: str, digest: str) -> None:
    """Let a waiting action run, once.

    \b
    Examples:
      selfwarectl approve appr-7
      selfwarectl approve 7 --digest 5f1c...
    """
    one = fetch_one(approval_id)
    _decide(one, "approve", {"digest": digest or one["digest"]}, "approved")


@click.command()
@click.argument("approval_id", metavar="ID")
@click.option("-r", "--reason", default="", help="Told to the agent.")
@output.json_option
def reject(approval_id: str, reason: str) -> None:
    """Refuse a waiting action; it never runs.

    \b
    Examples:
      selfwarectl reject appr-7 -r "use the staging server"
    """
    _decide(fetch_one(approval_id), "reject", {"reason": reason}, "rejected")


def fetch(state: str) -> list[dict[str, Any]]:
    """Questions as oversightd tells them: "pending" or "all"."""
    told = reach.operator("GET", f"/interventions?state={state}")
    found = told.get("interventions", []) if isinstance(told, dict) else told
    return [one for one in found if isinstance(one, dict) and "id" in one]


def fetch_one(wanted: str) -> dict[str, Any]:
    """The one question whose id is, or begins with, `wanted`."""
    exact = f"appr-{wanted}" if wanted.isdigit() else wanted
    try:
        one = reach.operator("GET", f"/interventions/{quote(exact, safe='')}")
    except reach.FailedError:
        known = {str(one["id"]): one for one in fetch("all")}
        return known[reach.find(wanted, list(known), "question", "selfwarectl approvals history")]
    return dict(one)


def withdraw(one: dict[str, Any], reason: str) -> None:
    """Refuse a question that nobody needs answered any more; one that was answered meanwhile stays so."""
    with suppress(reach.RefusedError):
        reach.operator("POST", f"/interventions/{quote(str(one['id']), safe='')}/reject", {"reason": reason})


def _list(found: list[dict[str, Any]], empty: str) -> None:
    if output.wants_json():
        output.emit({"interventions": found})
        return
    rows = [
        (
            one["id"],
            one.get("state", ""),
            one.get("class", ""),
            _left(one),
            one.get("task_id", ""),
            one.get("summary", ""),
        )
        for one in found
    ]
    output.table(("ID", "STATE", "CLASS", "LEFT", "TASK", "SUMMARY"), rows, empty=empty)


def _left(one: dict[str, Any]) -> str:
    expires = int(one.get("expires_unix_nanos") or 0)
    if one.get("state") != "pending" or not expires:
        return "-"
    return output.duration(expires / 1e9 - time.time())


def _decide(one: dict[str, Any], verb: str, body: dict[str, str], done: str) -> None:
    answer = reach.operator("POST", f"/interventions/{quote(str(one['id']), safe='')}/{verb}", body)
    if output.wants_json():
        output.emit(answer)
    else:
        output.say(f"{done} {one['id']}: {one.get('summary', '')}")
