"""Nothing is kept where a unit has a directory of its own, or none."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from selfware_common.errors import ConfigError
from selfware_common.private_places import PLACES, reason, refuse
from selfware_common.settings import Checkpoint, ColdTier, Settings

SOURCE = Path("/etc/selfware/selfware.toml")
COMMON = Path(__file__).resolve().parents[3] / "units" / "selfware-.service.d" / "10-common.conf"


def settings(storage_path: str = "", directory: str = "") -> Settings:
    return replace(Settings(), checkpoint=Checkpoint(storage_path=storage_path, cold=ColdTier(directory=directory)))


@pytest.mark.parametrize("place", ["/var/tmp/cold", "/tmp", "/home/me/archive", "/root/x", "/srv/../tmp/x"])
def test_a_place_that_a_unit_does_not_see_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match=rf"'checkpoint\.cold\.directory' must not be {re.escape(place)}: "):
        refuse(settings(directory=place), SOURCE)
    with pytest.raises(ConfigError, match=r"'checkpoint\.storage_path' must not be"):
        refuse(settings(storage_path=place), SOURCE)


def test_a_link_to_such_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/var/tmp/cold")
    with pytest.raises(ConfigError, match="deleted when that daemon stops"):
        refuse(settings(directory=str(tmp_path / "link")), SOURCE)


@pytest.mark.parametrize("place", ["/mnt/archive", "/srv/tmp", "/homework", "/media/me/disk", "/var/lib/x"])
def test_other_places_are_fine(place: str) -> None:
    assert reason(Path(place)) == ""
    refuse(settings(place, place), SOURCE)


def test_the_units_say_so() -> None:
    text = COMMON.read_text(encoding="utf-8")
    assert "\nPrivateTmp=yes\n" in text and "\nProtectHome=yes\n" in text
    assert {"/tmp", "/var/tmp", "/home", "/root", "/run/user"} <= PLACES.keys()
