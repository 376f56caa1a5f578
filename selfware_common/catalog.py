"""The events that the journal explains: their message ids, fixed for ever.

An entry logged with `extra=log.event(ID, field=value)` is shown by `journalctl -x` with the text that
packaging/catalog/selfware.catalog has for the id: what happened and what to do. FIELDS lists the fields that the text
names, so an entry must carry them. Nothing here writes a log.
"""

from __future__ import annotations

APPROVAL_NEEDED = "346e841db21c4930a30b0f76ecf81bce"
TASK_SOLVED = "14900b70ba8c4b91afa2ab7c3b0edd3c"
TASK_FAILED = "2d1ace12b7cc41a09b92791ab2fa31f8"
DAEMON_GAVE_UP = "da450c3e87124204a17e4520677f5a42"
CHECKPOINT_DAMAGED = "22218e5da9da47baa04465faa5360f7c"
DISK_FULL = "39e55e1689bf4ebcb176bb915c0fd2af"
RECOVERED = "cf6544566fca4a79985e042a1c19ea38"
OUTCOME_UNKNOWN = "1c2f56a4191b43519bf5c4e771b7812d"
COMPONENT_UNHEALTHY = "99bdfad64b0d49f4b19788b56205b1e9"

FIELDS: dict[str, tuple[str, ...]] = {
    APPROVAL_NEEDED: ("approval_id", "task_id"),
    TASK_SOLVED: ("task_id",),
    TASK_FAILED: ("task_id",),
    DAEMON_GAVE_UP: ("unit",),
    CHECKPOINT_DAMAGED: ("checkpoint_id",),
    DISK_FULL: ("path",),
    RECOVERED: ("session_id",),
    OUTCOME_UNKNOWN: ("effect_id", "task_id"),
    COMPONENT_UNHEALTHY: ("component",),
}
"""What `log.event` must be given beside each id."""
