"""How much memory the process holds; NaN on systems without the module `resource` (Windows).

A ceiling on memory is never reached there; `crowdfit.fit_image` says so when one is set.
"""

import sys
from pathlib import Path

import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_STATM = Path("/proc/self/statm")
_UNIT = 1024 if sys.platform == "darwin" else 1
"""macOS counts bytes where Linux counts kilobytes."""


def peak_mb() -> float:
    """Return the largest resident size of the process so far (MB)."""
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
