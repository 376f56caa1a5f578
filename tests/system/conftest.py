"""Fixtures of the system tests: images, containers and virtual machines, and honest skips where they cannot be had.

SELFWARE_SYSTEM_TESTS=required turns every such skip into a failure, for a machine that is meant to run them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from tests.system import image as images
from tests.system import machine as machines
from tests.system import qemu

T = TypeVar("T")
MARKERS = {"machine_factory": "nspawn", "vm_factory": "qemu"}
MACHINE_TIMEOUT_SECONDS, VM_TIMEOUT_SECONDS = 600, 1800  # the first test builds the image

MachineFactory = Callable[..., machines.Machine]
VmFactory = Callable[..., qemu.VirtualMachine]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "nspawn: boots a systemd in a container (root, systemd-container, mmdebstrap)")
    config.addinivalue_line("markers", "qemu: boots an emulated machine; half a minute each (qemu-system-x86)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by what a test asks for, so that `-m 'not qemu'` leaves out what takes long."""
    for item in items:
        for fixture, marker in MARKERS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(getattr(pytest.mark, marker))
                if item.get_closest_marker("timeout") is None:
                    seconds = VM_TIMEOUT_SECONDS if marker == "qemu" else MACHINE_TIMEOUT_SECONDS
                    item.add_marker(pytest.mark.timeout(seconds))


@pytest.fixture(scope="session")
def image() -> Path:
    """The root image of the containers."""
    needs(machines.available())
    return built(images.machine_image)


@pytest.fixture(scope="session")
def disk() -> images.Disk:
    """The disk of the virtual machines."""
    needs(qemu.available())
    return built(images.disk_image)


@pytest.fixture(scope="session")
def machine_factory(image: Path) -> MachineFactory:
    """`with machine_factory(debs=[...]) as machine:` boots a fresh container."""

    def make(debs: Sequence[Path] = ()) -> machines.Machine:
        return machines.Machine(image, debs)

    return make


@pytest.fixture
def machine(machine_factory: MachineFactory) -> Iterator[machines.Machine]:
    """A fresh container for one test."""
    with machine_factory() as booted:
        yield booted


@pytest.fixture(scope="session")
def vm_factory(disk: images.Disk) -> VmFactory:
    """`with vm_factory() as vm: vm.boot()` makes a virtual machine with a disk of its own."""

    def make(memory_mib: int = 2048, kernel_options: str = "") -> qemu.VirtualMachine:
        return qemu.VirtualMachine(disk, memory_mib, kernel_options)

    return make


def needs(reason: str) -> None:
    """Skip for that reason, or fail where these tests are required."""
    if reason and os.environ.get("SELFWARE_SYSTEM_TESTS") == "required":
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(reason)


def built(build: Callable[[], T]) -> T:
    """What that builds; a machine that cannot build it (no mmdebstrap, no mirror) cannot run the tests."""
    try:
        return build()
    except (images.ImageError, FileNotFoundError) as error:
        needs(f"no image: {error}")
        raise
