"""DBOS on SQLite, as its documentation shows it: a workflow of durable steps.

python -m tests.bench.peers.dbos_steps steps DIR COUNT       one workflow of COUNT steps, 2 KB each
python -m tests.bench.peers.dbos_steps effect DIR new|again  a step that appends a line, then sleeps
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from dbos import DBOS, SetWorkflowID

from tests.bench.history import text_of_step

WORKFLOW = "bench"


@DBOS.step()
def work(step: int) -> str:
    return text_of_step(step, 2048)


@DBOS.workflow()
def many(count: int) -> int:
    for step in range(1, count + 1):
        work(step)
    return count


@DBOS.step()
def append(directory: str) -> str:
    with (Path(directory) / "effects").open("a") as file:
        file.write("effect\n")
    time.sleep(1)
    return "done"


@DBOS.workflow()
def once(directory: str) -> str:
    return append(directory)


def main(verb: str, directory: str, argument: str) -> None:
    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{directory}/dbos.db",
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )
    DBOS.launch()  # takes up again what was interrupted
    if argument == "again":
        assert DBOS.retrieve_workflow(WORKFLOW).get_result() == "done"
    else:
        with SetWorkflowID(WORKFLOW):
            if verb == "steps":
                many(int(argument))
            else:
                once(directory)
    DBOS.destroy()


if __name__ == "__main__":
    main(*sys.argv[1:])
