"""The numba options of every kernel, in one place, with the reasons.

* ``cache``: compile once per machine, not once per process.
* ``error_model="numpy"``: a division by zero gives inf, without a branch in every division.
* ``nogil``: the progress display stays alive.
* ``fastmath`` is a subset without ``nnan`` and ``ninf``, so `isnan` still works. It lets sums run in
  vector registers. The order of additions is fixed by the compiled code, not by the thread count, so
  results keep the same bits on any number of threads.
* ``forceinline``, for the bodies of such loops: a kernel that is called has a copy of its own beside that in its
  caller, optimised apart. Which of the two runs differs between the process that compiles and those that read
  the cache, and where `fastmath` may order products anew so would the last bits.
* ``parallel`` loops run over tiles or over sources that own disjoint outputs, never into shared pixels.
"""

from pathlib import Path
from typing import Any

from numba import njit

FAST = {"contract", "reassoc", "nsz", "arcp"}

kernel = njit(cache=True, error_model="numpy", nogil=True, fastmath=FAST)
inlined_kernel = njit(cache=True, error_model="numpy", nogil=True, fastmath=FAST, forceinline=True)
tile_kernel = njit(cache=True, error_model="numpy", nogil=True, fastmath=FAST, parallel=True)


def cache_is_cold() -> bool:
    """Return whether the kernels of a fit still have to be compiled on this machine."""
    from crowdfit._kernels.stamps import fill_stamps  # noqa: PLC0415

    return _is_cold(fill_stamps, "stamps.fill_stamps")


def drawing_is_cold() -> bool:
    """Return whether the kernels that draw stars still have to be compiled on this machine."""
    from crowdfit._kernels.render import add_stars  # noqa: PLC0415

    return _is_cold(add_stars, "render.add_stars")


def _is_cold(compiled: Any, name: str) -> bool:
    """Return whether a compiled function, called `name` in the cache, is not in the cache."""
    stats = getattr(compiled, "stats", None)
    if stats is None:  # NUMBA_DISABLE_JIT: there is nothing to compile
        return False
    return not any(Path(stats.cache_path).glob(f"{name}-*.nbi"))
