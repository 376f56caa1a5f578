"""The command line and the environment that vLLM is started with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from selfware_common.settings import Llm
from selfware_engine import vllm

SOCKET = Path("/run/selfware/engine/m.sock")
LLM = Llm(provider="vllm", model="org/coder")


def value(argv: tuple[str, ...], option: str) -> str:
    return argv[argv.index(option) + 1]


def test_every_setting_of_vllm_reaches_its_command_line() -> None:
    llm = replace(
        LLM, tensor_parallel_size=4, gpu_memory_utilization=0.85, max_model_len=131072, max_num_seqs=64,
        vllm_arguments=("--dtype", "bfloat16"),
    )  # fmt: skip
    argv = vllm.argv(llm, SOCKET)
    assert argv[:3] == ("vllm", "serve", "org/coder")
    assert value(argv, "--served-model-name") == "org/coder"
    assert value(argv, "--uds") == str(SOCKET)
    assert value(argv, "--tensor-parallel-size") == "4"
    assert value(argv, "--gpu-memory-utilization") == "0.85"
    assert value(argv, "--max-model-len") == "131072"
    assert value(argv, "--max-num-seqs") == "64"
    assert value(argv, "--scheduling-policy") == "priority"
    assert {"--enable-prompt-tokens-details", "--enable-request-id-headers"} <= set(argv)
    assert argv[-2:] == ("--dtype", "bfloat16")


@pytest.mark.parametrize(("on", "switch"), [(True, "--enable-"), (False, "--no-enable-")])
def test_what_is_switched_off_is_switched_off_in_so_many_words(on: bool, switch: str) -> None:
    argv = vllm.argv(replace(LLM, enable_prefix_caching=on, enable_chunked_prefill=on), SOCKET)
    assert {f"{switch}prefix-caching", f"{switch}chunked-prefill"} <= set(argv)


def test_a_model_of_ones_own_keeps_the_name_that_clients_ask_for() -> None:
    argv = vllm.argv(replace(LLM, model="coder", model_path="/srv/models/coder-7b"), SOCKET)
    assert (argv[2], value(argv, "--served-model-name")) == ("/srv/models/coder-7b", "coder")


def test_the_module_is_told_the_model_with_an_option() -> None:
    command = ("/opt/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server")
    argv = vllm.argv(replace(LLM, vllm_command=command), SOCKET)
    assert argv[:5] == (*command, "--model", "org/coder")
    assert "serve" not in argv


def test_vllm_inherits_nothing_of_our_interpreter_and_no_reason_to_go_online() -> None:
    ours = {"PATH": "/bin", "PYTHONPATH": "/ours", "VIRTUAL_ENV": "/ours", "NOTIFY_SOCKET": "/n", "HF_HUB_OFFLINE": "0"}
    env = vllm.environment(ours)
    assert not {"PYTHONPATH", "VIRTUAL_ENV", "NOTIFY_SOCKET"} & set(env)
    assert (env["PATH"], env["HF_HUB_OFFLINE"], env["TRANSFORMERS_OFFLINE"]) == ("/bin", "1", "1")
    assert env["VLLM_HOST_IP"] == "127.0.0.1"
    assert vllm.environment({"VLLM_HOST_IP": "10.0.0.1"})["VLLM_HOST_IP"] == "10.0.0.1"


def test_a_command_that_is_not_there_is_named_with_the_way_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(vllm.VllmMissingError, match=r"no command vllm .*environment of its own.*vllm_command"):
        vllm.check(LLM, {"PATH": str(tmp_path)})
    with pytest.raises(vllm.VllmMissingError):
        vllm.check(replace(LLM, vllm_command=()))


def test_a_model_that_is_not_here_is_not_fetched(tmp_path: Path) -> None:
    llm = replace(LLM, vllm_command=("true",))
    env = {"PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path)}
    looked = tmp_path / "hub/models--org--coder/snapshots"
    with pytest.raises(vllm.VllmModelMissingError, match=f"org/coder is not on this machine: {looked} does not exist"):
        vllm.check(llm, env)
    looked.mkdir(parents=True)
    vllm.check(llm, env)
    with pytest.raises(vllm.VllmModelMissingError):
        vllm.check(replace(llm, model_path=str(tmp_path / "none")), env)
    vllm.check(replace(llm, model_path=str(tmp_path)), env)


def test_the_name_of_a_model_that_nobody_named() -> None:
    assert vllm.own_name("/srv/models/coder-7b") == "coder-7b"
    assert vllm.own_name("org/coder") == "org/coder"
