"""What selfware.toml means to systemd, as drop-ins."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from selfware_common.errors import ConfigError
from selfware_common.settings import Backoff, ColdTier, HealthCheck, Llm, Settings, Supervision, System
from selfware_generator.names import engine_unit, unit_name_escape
from selfware_generator.plan import START_ORDER, Plan, fallback, plan

ROOT = Path(__file__).resolve().parents[3]
SOURCE = Path("/etc/selfware/selfware.toml")
DEFAULT_ENGINE = r"selfware-engine@qwen2.5\x2dcoder\x2d0.5b.service"


def made(source: Path = SOURCE, **sections: object) -> Plan:
    return plan(replace(Settings(), **sections), source)  # type: ignore[arg-type]


def text_of(files: Plan, unit: str) -> str:
    return files[f"{unit}.d/50-selfware-toml.conf"]


def values(files: Plan, unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text_of(files, unit), re.MULTILINE)


def units(line: list[str]) -> set[str]:
    return {name.removeprefix("selfware-").removesuffix(".service") for name in " ".join(line).split()}


def parts_of(strategy: str) -> dict[str, set[str]]:
    files = made(supervision=Supervision(strategy=strategy))
    return {daemon: units(values(files, f"selfware-{daemon}.service", "PartOf")) for daemon in START_ORDER}


def with_cold(**values: object) -> Plan:
    return made(checkpoint=replace(Settings().checkpoint, cold=ColdTier(**values)))  # type: ignore[arg-type]


def test_checkpointd_reaches_a_network_only_if_old_checkpoints_go_there() -> None:
    unit = "selfware-checkpointd.service"
    assert values(made(), unit, "PrivateNetwork") == []
    files = with_cold(url="s3://bucket/prefix", endpoint="https://store:9000")
    assert values(files, unit, "PrivateNetwork") == ["no"]
    assert values(files, unit, "IPAddressDeny") == [""]
    assert values(files, unit, "LoadCredential")[0] == "checkpoint.cold.access_key_id"
    assert all("store:9000" not in text for text in files.values())


def test_checkpointd_may_write_to_the_directory_where_old_checkpoints_go() -> None:
    files = with_cold(directory="/mnt/archive/selfware")
    assert values(files, "selfware-checkpointd.service", "ReadWritePaths") == ["-/mnt/archive/selfware"]
    for wrong in ("relative", "/mnt/a b", "/mnt/%h", "/mnt\nExecStart=/bin/sh", "/mnt/../etc"):
        with pytest.raises(ConfigError, match="absolute path"):
            with_cold(directory=wrong)


def test_keys_that_lie_there_are_given_to_checkpointd_alone_also_if_the_settings_cannot_be_read() -> None:
    found = {"checkpoint-key": True, "checkpoint-key-old": False}
    unit = "selfware-checkpointd.service"
    for files in (plan(Settings(), SOURCE, found), fallback(found)):
        assert values(files, unit, "LoadCredentialEncrypted") == ["checkpoint-key"]
        assert values(files, unit, "LoadCredential") == ["checkpoint-key-old"]
        assert not any("LoadCredential" in text for path, text in files.items() if not path.startswith(unit))
    assert not any("LoadCredential" in text for text in made().values())


def test_the_keys_of_a_cold_store_may_be_encrypted_and_are_given_only_if_there_is_one() -> None:
    found = {"checkpoint.cold.access_key_id": True}
    unit = "selfware-checkpointd.service"
    assert "checkpoint.cold" not in text_of(plan(Settings(), SOURCE, found), unit)
    settings = replace(Settings(), checkpoint=replace(Settings().checkpoint, cold=ColdTier(url="s3://bucket")))
    files = plan(settings, SOURCE, found)
    assert values(files, unit, "LoadCredentialEncrypted") == ["checkpoint.cold.access_key_id"]
    assert "checkpoint.cold.secret_access_key" in values(files, unit, "LoadCredential")


def test_checkpointd_may_write_to_the_directory_of_its_store() -> None:
    files = made(checkpoint=replace(Settings().checkpoint, storage_path="/srv/store"))
    assert values(files, "selfware-checkpointd.service", "ReadWritePaths") == ["-/srv/store"]


def test_one_for_one_couples_nothing() -> None:
    assert not any(parts_of("OneForOne").values())


def test_rest_for_one_takes_along_what_starts_later() -> None:
    assert parts_of("RestForOne") == {
        "checkpointd": set(),
        "resourced": {"checkpointd"},
        "oversightd": {"checkpointd", "resourced"},
        "inferenced": {"checkpointd", "resourced", "oversightd"},
        "agent": {"checkpointd", "resourced", "oversightd", "inferenced"},
    }


def test_one_for_all_takes_everything_along() -> None:
    assert parts_of("OneForAll") == {daemon: set(START_ORDER) - {daemon} for daemon in START_ORDER}


@pytest.mark.parametrize("strategy", ["OneForOne", "RestForOne", "OneForAll"])
def test_no_strategy_makes_an_ordering_cycle_with_the_shipped_units(strategy: str) -> None:
    files = made(supervision=Supervision(strategy=strategy))
    after: dict[str, set[str]] = {}
    for daemon in START_ORDER:
        shipped = (ROOT / "units" / f"selfware-{daemon}.service").read_text(encoding="utf-8")
        both = re.findall(r"^After=(.*)$", shipped, re.MULTILINE)
        both += values(files, f"selfware-{daemon}.service", "After")
        after[daemon] = units(both)
        assert not re.findall(r"^Before=", shipped + text_of(files, f"selfware-{daemon}.service"), re.MULTILINE)
    order = [name for name in TopologicalSorter(after).static_order() if name in START_ORDER]
    assert len(order) == len(START_ORDER)
    if strategy != "OneForOne":
        assert tuple(order) == START_ORDER


@pytest.mark.parametrize("strategy", ["OneForOne", "RestForOne", "OneForAll"])
def test_nothing_is_ever_bound(strategy: str) -> None:
    files = made(supervision=Supervision(strategy=strategy))
    assert not any("BindsTo" in text or "Requires" in text for text in files.values())


def test_the_defaults_say_what_the_shipped_units_say() -> None:
    files = made()
    for daemon in START_ORDER:
        unit = f"selfware-{daemon}.service"
        shipped = (ROOT / "units" / unit).read_text(encoding="utf-8")
        for key in ("StartLimitBurst", "WatchdogSec", "TimeoutStopSec"):
            for value in values(files, unit, key):
                assert f"\n{key}={value}\n" in shipped, (unit, key)


def test_the_restart_limit_counts_as_if_nobody_had_waited() -> None:
    files = made(supervision=Supervision(max_restarts=5, max_seconds=60))
    assert values(files, "selfware-agent.service", "StartLimitBurst") == ["5"]
    assert values(files, "selfware-agent.service", "StartLimitIntervalSec") == [f"{60 + 0 + 1 + 2 + 4 + 8}"]
    fixed = Supervision(max_restarts=3, max_seconds=10.5, backoff_strategy=Backoff("Fixed", 2.0, 60.0))
    assert values(made(supervision=fixed), "selfware-agent.service", "StartLimitIntervalSec") == [f"{10.5 + 0 + 2 + 2}"]


@pytest.mark.parametrize(
    ("backoff", "arguments"),
    [
        (Backoff("Fixed", 2.0, 60.0), "--type Fixed --base 2 --max 60 --forget 600"),
        (Backoff("Linear", 0.25, 30.0), "--type Linear --base 0.25 --max 30 --forget 600"),
        (Backoff("Exponential", 1.5, 120.0), "--type Exponential --base 1.5 --max 120 --forget 1200"),
    ],
)
def test_each_backoff_becomes_a_step_before_the_start_and_one_after_the_end(backoff: Backoff, arguments: str) -> None:
    files = made(supervision=Supervision(backoff_strategy=backoff))
    program, forget = "-/usr/lib/selfware/bin/selfware-backoff", arguments[arguments.index("--forget") :]
    for unit, state in [("checkpointd.service", "checkpointd/backoff"), ("engine@.service", "engine/%i.backoff")]:
        rest = f"--state /run/selfware/{state}"
        assert values(files, f"selfware-{unit}", "ExecStartPre") == [f"{program} {arguments} {rest}"]
        assert values(files, f"selfware-{unit}", "ExecStopPost") == [f"{program} --failed {forget} {rest}"]


@pytest.mark.parametrize("backoff", [Backoff("Fixed", 0.0, 60.0), Backoff("Exponential", 1.0, 0.0)])
def test_no_delay_means_no_step(backoff: Backoff) -> None:
    files = made(supervision=Supervision(backoff_strategy=backoff))
    assert not any("Exec" in text for text in files.values())
    assert values(files, "selfware-agent.service", "StartLimitIntervalSec") == ["60"]


@pytest.mark.parametrize("longest", [0.0, 1.0, 60.0, 3600.0])
def test_a_start_may_take_longer_than_the_longest_delay(longest: float) -> None:
    files = made(supervision=Supervision(backoff_strategy=Backoff("Exponential", 1.0, longest)))
    for daemon in (*START_ORDER, "engine@"):
        assert float(values(files, f"selfware-{daemon}.service", "TimeoutStartSec")[0]) > longest + 30


def test_a_daemon_hangs_when_it_missed_as_many_checks_as_the_threshold_says() -> None:
    health = HealthCheck(interval_seconds=2.5, failure_threshold=5)
    files = made(supervision=Supervision(health_check=health))
    for daemon in (*START_ORDER, "engine@"):
        assert values(files, f"selfware-{daemon}.service", "WatchdogSec") == ["12.5"]


def test_the_last_checkpoint_gets_its_time() -> None:
    files = made(system=System(max_runtime_hours=2.0, shutdown_grace_period_seconds=100.0))
    for daemon in START_ORDER:
        expected = ["115"] if daemon in {"agent", "checkpointd", "oversightd"} else []
        assert values(files, f"selfware-{daemon}.service", "TimeoutStopSec") == expected
        backstop = [str(2 * 3600 + 100 + 600)] if daemon == "agent" else []
        assert values(files, f"selfware-{daemon}.service", "RuntimeMaxSec") == backstop


@pytest.mark.parametrize("provider", ["embedded", "llamacpp", "vllm"])
def test_an_engine_of_our_own_is_wanted_and_inferenced_does_not_wait_for_it(provider: str) -> None:
    files = made(llm=Llm(provider=provider, model="Qwen/coder-7b"))
    engine = r"selfware-engine@Qwen-coder\x2d7b.service"
    assert values(files, "selfware.target", "Wants") == [engine]
    assert values(files, "selfware-inferenced.service", "Wants") == [engine]
    assert engine not in values(files, "selfware-inferenced.service", "After")
    start = ["1800"] if provider == "vllm" else ["300"]
    assert values(files, "selfware-engine@.service", "TimeoutStartSec") == start


@pytest.mark.parametrize(
    "llm", [Llm(provider="vllm", base_url="http://box:8000/v1"), Llm(provider="openai"), Llm(provider="ollama")]
)
def test_an_engine_of_somebody_else_is_not_ours_to_start(llm: Llm) -> None:
    files = made(llm=llm)
    assert "selfware.target.d/50-selfware-toml.conf" not in files
    assert not any("selfware-engine@" in text for text in files.values())


def test_a_drop_in_says_where_it_comes_from_and_how_to_change_it() -> None:
    for text in made().values():
        assert text.startswith("# Written by selfware-generator from /etc/selfware/selfware.toml")
        assert "daemon-reload" in text


def test_every_path_stays_below_the_directory_and_has_the_one_name() -> None:
    for path in (*made(llm=Llm(model="../../etc/x")), *fallback()):
        assert re.fullmatch(r"selfware(-[a-z]+@?\.service|\.target)\.d/50-selfware-toml\.conf", path), path


EVIL = "x\n[Service]\nExecStart=/bin/sh\n# %n %i ${HOME} ; & \t\\ \"'"


def test_a_model_name_cannot_bring_a_directive_of_its_own() -> None:
    usual = made()
    for path, text in made(llm=Llm(model=EVIL)).items():
        assert text.count("\n") == usual[path].count("\n")
        assert "/bin/sh" not in text
    engine = values(made(llm=Llm(model=EVIL)), "selfware.target", "Wants")
    assert re.fullmatch(r"selfware-engine@[A-Za-z0-9:_.\\-]+\.service", engine[0])


def test_the_path_of_the_file_stays_a_comment() -> None:
    usual = made()
    for path, text in made(source=Path("/tmp/" + EVIL)).items():
        assert text.count("\n") == usual[path].count("\n")
        assert not re.search(r"^ExecStart=", text, re.MULTILINE)
        assert not re.search(r"^#.*\\$", text, re.MULTILINE)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e300])
@pytest.mark.parametrize(
    "section",
    [
        lambda value: {"supervision": Supervision(max_seconds=value)},
        lambda value: {"supervision": Supervision(backoff_strategy=Backoff(base_seconds=value))},
        lambda value: {"supervision": Supervision(backoff_strategy=Backoff(max_seconds=value))},
        lambda value: {"supervision": Supervision(health_check=HealthCheck(interval_seconds=value))},
        lambda value: {"system": System(max_runtime_hours=value)},
        lambda value: {"system": System(shutdown_grace_period_seconds=value)},
    ],
)
def test_a_number_that_systemd_cannot_hold_is_an_error_that_names_it(section: object, value: float) -> None:
    with pytest.raises(ConfigError, match=r"/etc/selfware/selfware\.toml: '(supervision|system)\..*must be"):
        made(**section(value))  # type: ignore[operator]


def test_whole_numbers_have_a_limit_too() -> None:
    for supervision in (
        Supervision(max_restarts=10**12),
        Supervision(health_check=HealthCheck(failure_threshold=10**400)),
    ):
        with pytest.raises(ConfigError, match="must be at most"):
            made(supervision=supervision)


@pytest.mark.parametrize("model", ["", "m" * 240])
def test_a_model_that_no_unit_can_be_named_after_is_an_error(model: str) -> None:
    with pytest.raises(ConfigError, match=r"'llm\.model'"):
        made(llm=Llm(model=model))


def test_without_settings_only_the_engine_of_the_default_model_is_wanted() -> None:
    files = fallback()
    assert list(files) == ["selfware.target.d/50-selfware-toml.conf"]
    assert values(files, "selfware.target", "Wants") == [DEFAULT_ENGINE]
    assert values(made(), "selfware.target", "Wants") == [DEFAULT_ENGINE]


NAMES = ["qwen2.5-coder-0.5b", "Qwen/Qwen2.5-Coder", ".hidden", "a b", "ä", "a%n", "x:y_z", "a\\b", "a.b/.c"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_escaped_as_systemd_escape_does(name: str) -> None:
    if shutil.which("systemd-escape") is None:
        pytest.skip("systemd-escape is not installed")
    done = subprocess.run(["systemd-escape", "--", name], capture_output=True, text=True, check=True)
    assert unit_name_escape(name) == done.stdout.rstrip("\n")


def test_the_name_of_an_engine_holds_nothing_that_a_unit_name_may_not() -> None:
    assert engine_unit("qwen2.5-coder-0.5b") == DEFAULT_ENGINE
    assert unit_name_escape("/a/b") == "-a-b"
