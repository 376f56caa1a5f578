"""What opens the parts of one pack, and what belongs around each: their places, so that none opens in another one.

Owns nothing.
"""

from __future__ import annotations

from selfware_checkpointd.manifest import checkpoint_id
from selfware_checkpointd.vault import NO_VAULT, Box, Vault


def box_name(number: int) -> bytes:
    """What the box of a pack is called."""
    return b"pack %d" % number


def around_frame(count: int, first: int) -> bytes:
    """For a group's frame: how many chunks it holds, and the number of the first."""
    return b"chunks%b%b" % (count.to_bytes(4, "little"), first.to_bytes(4, "little"))


def around_manifest(header: bytes) -> bytes:
    """For the manifest: the pack's header, with the session id."""
    return b"manifest" + header


class PackBoxes:
    """Of one pack: one for each key that something in it names, which is one key."""

    def __init__(self, number: int, vault: Vault) -> None:
        self._number = number
        self._vault = vault
        self._boxes: dict[bytes, Box] = {}

    @classmethod
    def only(cls, box: Box | None) -> PackBoxes:
        """When it is known already."""
        boxes = cls(0, NO_VAULT)
        boxes._boxes = {box.key_id: box} if box is not None else {}
        return boxes

    def of(self, key_id: bytes) -> Box:
        """The box of this key; KeyMissingError if that is not here."""
        if key_id not in self._boxes:
            what = f"Checkpoint {checkpoint_id(self._number)}"
            self._boxes[key_id] = self._vault.opening(key_id, box_name(self._number), what)
        return self._boxes[key_id]
