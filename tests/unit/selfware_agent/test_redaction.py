"""Secrets of a known form go, whole and nothing else."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest

from selfware_agent import config, hands
from selfware_agent.redaction import Redactor
from selfware_common.errors import ConfigError
from selfware_common.rpc import oversight_pb2
from selfware_common.settings import Checkpoint, Settings

KNOWN = Redactor.of(True, ())
WORDS = string.ascii_letters + string.digits


def word(length: int, letters: str = WORDS) -> str:
    """Made here, so that no secret, not even a false one, lies in the repository."""
    return "".join(random.Random(length).choices(letters, k=length))


SECRETS = [
    "gh" + "p_" + word(36),
    "github" + "_pat_" + word(82),
    "glp" + "at-" + word(20),
    "AK" + "IA" + word(16, "ABCDEFGH234567"),
    "xox" + "b-" + word(24),
    "AI" + "za" + word(35),
    "sk" + "-ant-" + word(60),
    "sk" + "-" + word(48),
    "sk_" + "live_" + word(24),
    "np" + "m_" + word(36),
    "-----BEGIN RSA " + "PRIVATE KEY-----\n" + word(64) + "\n-----END RSA " + "PRIVATE KEY-----",
    "-----BEGIN " + "PRIVATE KEY-----\n" + word(64),
]


@pytest.mark.parametrize("secret", SECRETS, ids=range(len(SECRETS)))
def test_a_known_form_goes_wherever_it_stands(secret: str) -> None:
    for text in (secret, f"export TOKEN={secret}\n", f'{{"key": "{secret}", "n": 1}}', f"a {secret} b {secret} c"):
        cleaned, count = KNOWN.clean(text)
        assert count >= 1
        assert secret[-16:] not in cleaned
        assert "[redacted: " in cleaned
    assert KNOWN.clean(f"before {secret}")[0].startswith("before [redacted: ")


def test_of_an_address_only_the_password_goes_and_of_a_setting_only_the_value() -> None:
    assert KNOWN.clean("git clone https://me:hunter2@host/x.git")[0] == (
        "git clone https://me:[redacted: password]@host/x.git"
    )
    line = "aws_secret_access_key = " + word(40, WORDS)
    assert KNOWN.clean(line)[0] == "aws_secret_access_key = [redacted: AWS secret key]"


@pytest.mark.parametrize(
    "text",
    [
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "id 123e4567-e89b-12d3-a456-426614174000",
        "sk-learn is a library, task-261126-abcdef ended",
        "see https://example.org:8080/a@b and mailto:x@y.z, http://h/a:b@c",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "password: see the vault",
    ],
)
def test_what_only_looks_random_stays(text: str) -> None:
    assert KNOWN.clean(text) == (text, 0)


def test_the_operator_adds_patterns_or_turns_it_off() -> None:
    own = Redactor.of(True, (r"ACME-(?P<secret>\d{6})", r"tok_\w+"))
    assert own.clean("ACME-123456 tok_abc")[0] == "ACME-[redacted: secret] [redacted: secret]"
    assert Redactor.of(False, (r"tok_\w+",)).clean(SECRETS[0]) == (SECRETS[0], 0)
    settings = Settings(checkpoint=Checkpoint(redact_patterns=("a(b",)))
    with pytest.raises(ConfigError, match=r"redact_patterns: 'a\(b' is not a regular expression"):
        config.redactor(settings, Path("/etc/selfware/selfware.toml"))


def test_a_file_of_which_something_was_taken_out_is_never_put_back() -> None:
    """`whole` says that the content may be written again."""
    for output, whole in (("plain\n", True), (f"KEY={SECRETS[0]}\n", False)):
        result = oversight_pb2.Result(ok=True, output=output, output_bytes=len(output))
        update = oversight_pb2.PerformUpdate(state=oversight_pb2.EFFECT_STATE_DONE, result=result)
        assert hands._outcome(update, KNOWN).whole is whole


def test_a_pattern_of_which_only_one_alternative_names_the_secret_leaks_neither() -> None:
    own = Redactor.of(True, (r"token=(?P<secret>\w+)|apikey=\w+",))
    assert own.clean("a token=hunter2 b apikey=hunter3 c") == ("a token=[redacted: secret] b [redacted: secret] c", 2)
