"""`selfware-escalate UNIT`: one record, one line in the journal that reaches every terminal, one webhook call.

systemd says why in $MONITOR_SERVICE_RESULT and its like (systemd.exec(5), since 251).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

from selfware_common import escalations, log, paths, settings
from selfware_common.catalog import DAEMON_GAVE_UP
from selfware_common.errors import SelfwareError

REACH_SECONDS = 10.0


def main() -> int:
    """0 once it is on record; a webhook that does not answer is said, and is no failure."""
    logger = log.setup("selfware-escalate")
    if len(sys.argv) != 2:
        logger.error("usage: selfware-escalate UNIT")
        return 2
    unit = sys.argv[1]
    why = reason(os.environ)
    sentence = f"{unit} failed for good ({why}); 'sudo selfwarectl start' brings it back, nothing is lost"
    where = paths.from_environment()
    escalations.write(where, escalations.Escalation(unit, why, time.time_ns()))
    logger.log(log.EMERGENCY, "%s", sentence, extra=log.event(DAEMON_GAVE_UP, unit=unit))
    try:
        notifications = settings.load(where.config_file).intervention.notifications
    except SelfwareError as error:
        logger.error("nobody else was told: %s", error)
        return 0
    for url in (notifications.webhook_url, notifications.slack_webhook):
        if url:
            _post(url, unit, sentence, logger)
    return 0


def reason(environ: Mapping[str, str]) -> str:
    """What systemd says of the end, in words."""
    result = environ.get("MONITOR_SERVICE_RESULT", "")
    words = _RESULTS.get(result, f"result {result}" if result else "no reason given")
    status = environ.get("MONITOR_EXIT_STATUS", "")
    return f"{words}, status {status}" if status else words


_RESULTS = {
    "start-limit-hit": "it was restarted too often",
    "watchdog": "it hung",
    "oom-kill": "memory ran out",
    "timeout": "it did not start or stop in time",
    "exit-code": "it ended with an error",
    "signal": "it was killed",
    "core-dump": "it crashed",
}


def _post(url: str, unit: str, sentence: str, logger: logging.Logger) -> None:
    body = json.dumps({"text": sentence, "kind": "unit_failed", "unit": unit}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=REACH_SECONDS):
            logger.info("told the webhook")
    except (OSError, urllib.error.URLError, ValueError) as error:
        logger.error("the webhook could not be told: %s", error)


if __name__ == "__main__":
    sys.exit(main())
