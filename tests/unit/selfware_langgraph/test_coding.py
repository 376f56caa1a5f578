"""A value comes back byte for byte from every coding, and what hardly changed takes hardly any bytes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfware_langgraph.coding import Coding, Encoded, decode, encode

LARGE = random.Random(7).randbytes(300_000)


@given(value=st.binary(max_size=400), base=st.none() | st.binary(max_size=400), times=st.integers(1, 3))
@settings(max_examples=200)
def test_any_value_comes_back_from_any_base(value: bytes, base: bytes | None, times: int) -> None:
    value, base = value * times, None if base is None else base * times
    assert decode(encode(value, base), base) == value


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_large_edited_value_comes_back_and_is_short(seed: int) -> None:
    chance = random.Random(seed)
    value = bytearray(LARGE)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(value))
        value[at : at + chance.randrange(3000)] = chance.randbytes(chance.randrange(3000))
    encoded = encode(bytes(value), LARGE)
    assert decode(encoded, LARGE) == bytes(value)
    assert encoded.coding is Coding.PATCH
    assert len(encoded.data) < 30_000


@pytest.mark.parametrize(
    ("value", "base", "coding"),
    [
        (b"short", b"short too", Coding.PLAIN),
        (b"a" * 1000, None, Coding.ZSTD),
        (LARGE[:9000] + b"more", LARGE[:9000], Coding.AFTER),
        (LARGE + b"more", LARGE, Coding.PATCH),
        (LARGE[::-1], LARGE, Coding.PLAIN),  # nothing in common, and random bytes do not compress
    ],
)
def test_each_value_gets_the_coding_that_fits(value: bytes, base: bytes | None, coding: Coding) -> None:
    encoded = encode(value, base)
    assert encoded.coding is coding
    assert decode(encoded, base) == value


def test_what_cannot_be_decoded_is_one_error() -> None:
    encoded = encode(LARGE + b"more", LARGE)
    for broken in (
        Encoded(Coding.PATCH, b"no zstd", 7),
        Encoded(Coding.ZSTD, encoded.data, encoded.size_bytes),
        Encoded(Coding.PLAIN, b"four", 5),
    ):
        with pytest.raises(ValueError, match="a value"):
            decode(broken, LARGE)
    with pytest.raises(ValueError, match="is missing"):
        decode(encoded)
