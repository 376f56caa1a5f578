"""The boxes of one session's journal: each segment has one for its records, and another one for when it is sealed.

They are called after the session and the segment's first event, so a segment opens in its own place only. A segment
whose header is damaged does not say which key it was: then each key is tried.

Owns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfware_checkpointd.segment import HEADER_BYTES, SEALED_HEADER_BYTES, Scan, key_id_of, scan
from selfware_checkpointd.vault import NO_VAULT, Box, Vault


class JournalKeys:
    """What the vault has for one session."""

    def __init__(self, session_id: str, vault: Vault = NO_VAULT) -> None:
        self._session_id = session_id
        self._vault = vault
        self.key_id = vault.key_id
        """Of the key that seals; None: what is written now is not encrypted."""

    @property
    def header_bytes(self) -> int:
        """Of a segment that begins now."""
        return HEADER_BYTES if self.key_id is None else SEALED_HEADER_BYTES

    def for_segment(self, first_sequence: int) -> Box | None:
        """What records of a segment that begins now are sealed with, if they are."""
        box = self._vault.sealing(self._name(b"journal", first_sequence))
        return box.kept_ready() if box else None

    def of_segment(self, data: bytes, first_sequence: int) -> Sequence[Box]:
        """What may open the records of these bytes; KeyMissingError if they name a key that is not here."""
        name = self._name(b"journal", first_sequence)
        key_id = key_id_of(data, first_sequence)
        if key_id is not None:
            return [self._vault.opening(key_id, name, self._what()).kept_ready()]
        return [box.kept_ready() for box in self._vault.all_boxes(name)]

    def scan(self, data: bytes, first_sequence: int, start: int = 0, expected: int | None = None) -> Scan:
        """Read these bytes of a segment; KeyMissingError as above."""
        return scan(data, first_sequence, start, expected, self.of_segment(data, first_sequence))

    def for_sealed(self, first_sequence: int, key_id: bytes | None = None) -> Box | None:
        """What a sealed segment is encrypted with, if it is: with this key if one is named, else with the present
        one."""
        name = self._name(b"sealed", first_sequence)
        return self._vault.sealing(name) if key_id is None else self._vault.opening(key_id, name, self._what())

    def of_sealed(self, key_id: bytes | None, first_sequence: int) -> Sequence[Box]:
        """What may open it; key_id is what its header names, None if that is damaged."""
        name = self._name(b"sealed", first_sequence)
        return self._vault.all_boxes(name) if key_id is None else [self._vault.opening(key_id, name, self._what())]

    def opens(self, key_id: bytes | None) -> bool:
        """Is this key here? None: it needs none."""
        return key_id is None or self._vault.opens(key_id)

    def _name(self, kind: bytes, first_sequence: int) -> bytes:
        return b"%b %b %d" % (kind, self._session_id.encode(), first_sequence)

    def _what(self) -> str:
        return f"The journal of session {self._session_id}"
