"""How much memory the process holds, and how much more it could take; NaN where the system does not tell.

On systems without the module `resource` (Windows) nothing is known. A ceiling on memory is never reached there;
`crowdfit.fit_image` says so when one is set.
"""

import os
import sys
from pathlib import Path

import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_STATM, _STATUS = Path("/proc/self/statm"), Path("/proc/self/status")
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_UNIT = 1024 if sys.platform == "darwin" else 1
"""macOS counts bytes where Linux counts kilobytes."""


def peak_mb() -> float:
    """Return the largest resident size of the process so far (MB)."""
    try:
        # the other figure begins with that of the process that started this one
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, IndexError, ValueError, StopIteration):
        pass
    if resource is None:
        return np.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / _UNIT


def resident_mb() -> float:
    """Return the resident size of the process now (MB); where the system does not tell, the largest so far."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return peak_mb()
    return pages * resource.getpagesize() / 2**20


def highest_mb(peak_before: float) -> float:
    """Return the peak if it is above that of before, else the size now: what is known of the time between (MB)."""
    peak = peak_mb()
    return peak if peak > peak_before else resident_mb()


def free_mb() -> float:
    """Return how much more memory the process could take (MB), NaN where the system does not tell.

    On Linux what the kernel calls available, or what the limits of the process's control groups leave if that is
    less; elsewhere half of the memory that the machine has.
    """
    try:
        lines = _MEMINFO.read_text().splitlines()
        left = [int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable")]
    except (OSError, IndexError, ValueError):
        left = []
    if left:
        return min(left + _left_in_groups())
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**21
    except (AttributeError, OSError, ValueError):
        return np.nan


def _left_in_groups() -> list[float]:
    """Return what each memory limit of a control group of the process leaves (MB), of both versions of such groups."""
    try:
        lines = _CGROUP.read_text().splitlines()
    except OSError:
        return []
    left = []
    for _, kinds, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if kinds and "memory" not in kinds.split(","):
            continue
        top = _GROUPS / "memory" if kinds else _GROUPS
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if kinds
            else ("memory.max", "memory.current", "inactive_file")
        )
        group = top / path.lstrip("/")
        # inside a container the path is that outside, and its files lie at the top
        for folder in {top, group, *(parent for parent in group.parents if top in parent.parents)}:
            left += _left_in_group(folder, *names)
    return left


def _left_in_group(folder: Path, limit: str, usage: str, cache: str) -> list[float]:
    """Return what the limit of one control group leaves (MB), nothing where there is none; its file cache can go."""
    try:
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return [max(most - used + int(counts.get(cache, 0)), 0) / 2**20]
    except (OSError, ValueError):
        return []
