"""What a run was computed with: versions for records, devices and threads for the user."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from napari_diffseg import __version__

_PACKAGES = ("torch", "numpy", "scipy", "nibabel", "safetensors")


@dataclass(frozen=True)
class Device:
    """A device that ``--device`` can be given."""

    name: str
    description: str


def software_versions() -> dict[str, str]:
    """Return the versions that decide what a run computes, by name; torch is not imported."""
    versions = {"napari-diffseg": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a source tree on the path, without metadata
            versions[package] = "unknown"
    return versions


def describe_platform() -> str:
    """Return operating system and machine in a few words."""
    return f"{platform.system()} {platform.release()}, {platform.machine()}"


def list_devices() -> list[Device]:
    """Return the devices of this machine, the one that ``auto`` stands for first."""
    import torch

    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        memory_gb = properties.total_memory / 2**30
        devices.append(Device(f"cuda:{index}", f"{properties.name}, {memory_gb:.0f} GB"))
    if torch.backends.mps.is_available():
        devices.append(Device("mps", "Apple GPU"))
    cores = os.cpu_count() or 1
    threads = torch.get_num_threads()
    devices.append(
        Device("cpu", f"{_count(cores, 'core')}, torch uses {_count(threads, 'thread')}")
    )
    return devices


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
