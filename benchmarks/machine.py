"""What this machine can do: bytes a second from memory, and floating-point operations a second.

Measured and not looked up, as the best of several tries: that is the limit that a kernel is compared with. The
threads share the memory, so its speed is measured with all of them; each has arithmetic of its own, so that is
measured with one and multiplied.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

F32 = NDArray[np.float32]

COPY_MB = 256
"""Size of the array that is copied: larger than what one core keeps of a cache shared by the machine."""
LANES = 64
"""Independent chains of multiply-adds: enough for the latency of two units of the widest registers."""
STEPS = 2_000_000
"""Multiply-adds of each chain."""


class Machine(NamedTuple):
    """Bytes read and written per second by a copy, and single-precision operations per second."""

    bytes_per_s: float
    ops_per_s: float

    def least_seconds(self, n_bytes: float, n_ops: float) -> float:
        """Return the time below which this machine cannot move so many bytes and make so many operations."""
        return max(n_bytes / self.bytes_per_s, n_ops / self.ops_per_s)

    def binds(self, n_bytes: float, n_ops: float) -> str:
        """Return which of the two takes longer."""
        return "memory" if n_bytes / self.bytes_per_s >= n_ops / self.ops_per_s else "arithmetic"


@njit(parallel=True)
def _copy(source: F32, target: F32, parts: int) -> None:
    """Copy in as many pieces as there are threads."""
    size = source.size // parts
    for part in prange(parts):
        for i in range(part * size, (part + 1) * size):
            target[i] = source[i]


@njit(fastmath=True)
def _multiply_add(start: F32, steps: int) -> float:
    """Run `LANES` chains of a = a b + c and return their sum, so that they are needed."""
    b, c = start[0], start[1]
    a = np.empty(LANES, np.float32)
    for k in range(LANES):
        a[k] = start[2] + np.float32(k)
    for _ in range(steps):
        for k in range(LANES):
            a[k] = a[k] * b + c
    total = np.float32(0)
    for k in range(LANES):
        total += a[k]
    return float(total)


def measure_machine(threads: int, tries: int = 5) -> Machine:
    """Return the limits of this machine.

    Parameters
    ----------
    threads : int
        Threads that work at the same time.
    tries : int
        The best of so many counts.
    """
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        source = np.ones(COPY_MB * 2**18, np.float32)
        target = np.empty_like(source)
        copied = _best(lambda: _copy(source, target, threads), tries)
        start = np.array([0.999999, 1e-6, 1.0], np.float32)
        worked = _best(lambda: _multiply_add(start, STEPS), tries)
    finally:
        numba.set_num_threads(before)
    return Machine(2.0 * source.nbytes / copied, 2.0 * LANES * STEPS * threads / worked)


def _best(work: Callable[[], Any], tries: int) -> float:
    """Return the shortest time of a piece of work (s), compiled before."""
    work()
    times = []
    for _ in range(tries):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)
