"""The numba options of every kernel, in one place, with the reasons.

* ``cache``: compile once per machine, not once per process.
* ``error_model="numpy"``: a division by zero gives inf, without a branch in every division.
* ``nogil``: the progress display stays alive.
* ``fastmath`` is a subset without ``nnan`` and ``ninf``, so `isnan` still works. It lets sums run in
  vector registers. The order of additions is fixed by the compiled code, not by the thread count, so
  results keep the same bits on any number of threads.
* ``parallel`` loops run over tiles or over sources that own disjoint outputs, never into shared pixels.
"""

from pathlib import Path

from numba import njit

FAST = {"contract", "reassoc", "nsz", "arcp"}

kernel = njit(cache=True, error_model="numpy", nogil=True, fastmath=FAST)
tile_kernel = njit(cache=True, error_model="numpy", nogil=True, fastmath=FAST, parallel=True)


def cache_is_cold() -> bool:
    """Return whether the kernels still have to be compiled on this machine."""
    from crowdfit._kernels.stamps import fill_stamps  # noqa: PLC0415

    stats = getattr(fill_stamps, "stats", None)
    if stats is None:  # NUMBA_DISABLE_JIT: there is nothing to compile
        return False
    folder = Path(stats.cache_path)
    return not any(folder.glob("stamps.fill_stamps-*.nbi"))
