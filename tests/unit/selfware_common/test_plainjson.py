"""The JSON of short-lived programs is the same as everybody's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from selfware_common import plainjson

ROOT = Path(__file__).resolve().parents[3]
VALUES = [None, True, 0, -(2**70), 1.5, "", 'é\u2028\n"\\', [], {}, {"a": [1, {"b": None}], "": "x"}, [[["deep"]]]]


@pytest.mark.parametrize("value", VALUES)
def test_it_says_and_reads_what_json_does(value: object) -> None:
    assert plainjson.dumps(value) == json.dumps(value)
    assert plainjson.loads(json.dumps(value)) == value
    assert plainjson.loads(json.dumps(value) + "\n") == value


@pytest.mark.parametrize("text", ["", "{", '{"a" 1}', "nonsense", "1 2", '"\n"'])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        plainjson.loads(text)


def test_what_json_cannot_say_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        plainjson.dumps({"a": object()})


def test_a_client_of_the_bulk_socket_imports_little() -> None:
    code = "import sys; sys.path.append(sys.argv[1]); import selfware_common.state.saving; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-IS", "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    slow = {"re", "enum", "typing", "dataclasses", "pathlib", "socket", "json", "asyncio", "grpc", "mmap", "logging"}
    assert not slow & set(run.stdout.split())
