"""Ids may be shortened, and every kind of refusal becomes the right exit status."""

from __future__ import annotations

import json

import pytest

from selfware_common.errors import SelfwareError
from selfwarectl import reach

KNOWN = ["ckpt-00000004", "ckpt-00000042", "ckpt-00000043"]


def find(wanted: str) -> str:
    return reach.find(wanted, KNOWN, "checkpoint", "selfwarectl checkpoints ls")


def test_an_id_is_found_whole_by_its_beginning_or_by_its_number() -> None:
    assert find("ckpt-00000043") == "ckpt-00000043"
    assert find("42") == "ckpt-00000042"
    assert find("4") == "ckpt-00000004"
    assert reach.find("ab", ["abc", "xyz"], "task", "") == "abc"


def test_an_ambiguous_beginning_is_a_usage_error_that_lists_the_candidates() -> None:
    with pytest.raises(reach.AmbiguousIdError, match="ckpt-00000042, ckpt-00000043") as caught:
        find("ckpt-0000004")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("wanted", ["", "nothing", "5"])
def test_an_unknown_id_says_where_to_look(wanted: str) -> None:
    with pytest.raises(reach.NoSuchIdError, match="selfwarectl checkpoints ls"):
        find(wanted)


@pytest.mark.parametrize(("status", "exit_code"), [(400, 2), (403, 4), (404, 1), (409, 4), (500, 1), (507, 1)])
def test_http_refusals_keep_their_sentence_and_hint(status: int, exit_code: int) -> None:
    body = json.dumps({"error": {"sentence": "appr-7 has expired.", "hint": "Ask again.", "kind": "conflict"}}).encode()
    with pytest.raises(SelfwareError) as caught:
        reach._answer(status, body, "POST /x")
    assert caught.value.sentence == "appr-7 has expired. Ask again."
    assert caught.value.exit_code == exit_code


def test_an_answer_that_is_not_json_is_a_failure_and_not_a_traceback() -> None:
    with pytest.raises(reach.FailedError, match="no JSON"):
        reach._answer(502, b"<html>", "GET /status")
