"""What there is to run on: accelerators and their memory, host memory, the container's limit, disk, cores."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch


@dataclass(frozen=True)
class Device:
    """An accelerator. `capability` is NVIDIA's compute capability; `free_bytes` is what a new process can take."""

    name: str
    label: str
    total_bytes: int
    free_bytes: int
    has_bf16: bool
    capability: tuple[int, int] | None = None
    shares_host_memory: bool = False

    @property
    def kind(self) -> str:
        """`cuda` or `mps`."""
        return self.name.partition(":")[0]


@dataclass(frozen=True)
class ContainerLimit:
    """Memory that the process's control group may use, and what of it is in use and cannot be given back."""

    limit_bytes: int
    used_bytes: int


@dataclass(frozen=True)
class Machine:
    """What there is to run on. Devices come with the most free memory first."""

    devices: tuple[Device, ...]
    host_total_bytes: int
    host_available_bytes: int
    disk_free_bytes: int
    num_cores: int
    container: ContainerLimit | None = None

    @property
    def host_free_bytes(self) -> int:
        """Host memory that a new process can take: what is available, or what the container allows if that is less."""
        if self.container is None:
            return self.host_available_bytes
        return max(0, min(self.host_available_bytes, self.container.limit_bytes - self.container.used_bytes))

    @property
    def is_limited(self) -> bool:
        """Whether the container allows less memory than the machine has."""
        return self.container is not None and self.container.limit_bytes < self.host_total_bytes


def count_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def this_machine(disk: Path) -> Machine:
    """What this machine has now; `disk` is an existing folder on the disk that holds, or would hold, models."""
    memory = psutil.virtual_memory()
    return Machine(
        devices=tuple(sorted(_devices(), key=lambda device: -device.free_bytes)),
        host_total_bytes=memory.total,
        host_available_bytes=memory.available,
        disk_free_bytes=shutil.disk_usage(disk).free,
        num_cores=count_cores(),
        container=container_limit(),
    )


def free_bytes(device: torch.device) -> int:
    """Memory that this process can still take on a device, what PyTorch holds in reserve included."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserved


def _devices() -> Iterable[Device]:
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        capability = torch.cuda.get_device_capability(index)
        yield Device(
            name=f"cuda:{index}",
            label=torch.cuda.get_device_name(index),
            total_bytes=total,
            free_bytes=free,
            has_bf16=capability >= (8, 0),
            capability=capability,
        )
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        yield Device(
            name="mps",
            label="Apple GPU",
            total_bytes=total,
            free_bytes=max(0, total - torch.mps.driver_allocated_memory()),
            has_bf16=torch.backends.mps.is_macos_or_newer(14, 0),
            shares_host_memory=True,
        )


def container_limit(root: Path = Path("/")) -> ContainerLimit | None:
    """The tightest memory limit among this process's control group and the groups above it; None without one.

    Reads control groups of version 2 and, where memory is still managed by it, version 1.

    Args:
        root: where the system's files are.
    """
    limits = [limit for group in _memory_groups(root) if (limit := _limit_of(group)) is not None]
    return min(limits, key=lambda limit: limit.limit_bytes - limit.used_bytes, default=None)


def _memory_groups(root: Path) -> Iterable[Path]:
    """Folders of the control groups that bound this process's memory, the innermost first."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        # Inside a container the path may be the host's, and the group's own files lie at the top.
        group = top / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def _limit_of(group: Path) -> ContainerLimit | None:
    for limit_file, used_file, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = _number_in(group / limit_file)
        if limit is not None and limit < psutil.virtual_memory().total:  # version 1 writes a huge number for none
            used = _number_in(group / used_file) or 0
            return ContainerLimit(limit, max(0, used - _statistic(group / "memory.stat", cache_key)))
    return None


def _number_in(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _statistic(file: Path, key: str) -> int:
    """A line of `memory.stat`; pages of files that nobody uses are counted as used but are given back at once."""
    try:
        pairs = (line.split() for line in file.read_text().splitlines())
        return next((int(value) for name, value in pairs if name == key), 0)
    except (OSError, ValueError):
        return 0
