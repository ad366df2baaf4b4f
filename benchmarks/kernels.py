"""Micro-benchmarks of the compiled kernels, on the arguments they really get.

    python -m benchmarks.kernels dense --passes 3 --threads 1 2

A fit of the scene runs with every kernel call recorded: how often, how long, and the arguments of its
largest call. That call is then repeated by itself, on fresh copies. So the list of kernels, their arguments
and their share of the time are those of the fit and cannot grow stale.

Bytes count each array argument once, whatever the kernel does with it; operations are counted in a copy of the
kernel (`benchmarks.operations`). `limit` is the share of what the machine can do (`benchmarks.machine`): the time
that memory or arithmetic, whichever takes longer, needs at least, over the time taken. Above 1 the arrays came
from a cache. The arithmetic limit is that of vectors in single precision, without branches or gathers.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
from numba.core.registry import CPUDispatcher

from benchmarks.machine import Machine, measure_machine
from benchmarks.operations import count_operations
from benchmarks.scenes import bench_scene
from crowdfit.api import fit_image
from crowdfit.simulate import Simulated, simulate

PREFIX = "crowdfit._kernels."


class Recorder:
    """Stands in for a kernel: calls it, adds up its time, keeps a copy of its largest arguments."""

    def __init__(self, kernel: Callable[..., Any]) -> None:
        self.kernel = kernel
        self.name = f"{kernel.__module__.removeprefix(PREFIX)}.{kernel.__name__}"
        self.calls = 0
        self.seconds = 0.0
        self.size = -1
        self.arguments: tuple[Any, ...] = ()

    def __call__(self, *args: Any) -> Any:
        """Call the kernel."""
        size = count_bytes(args)
        if size > self.size:
            self.size, self.arguments = size, copies(args)
        begin = time.perf_counter()
        result = self.kernel(*args)
        self.seconds += time.perf_counter() - begin
        self.calls += 1
        return result

    def repeat(self, threads: int, times: int = 3) -> float:
        """Return the shortest time of the largest call (s)."""
        numba.set_num_threads(threads)
        best = np.inf
        for _ in range(times):
            args = copies(self.arguments)
            begin = time.perf_counter()
            self.kernel(*args)
            best = min(best, time.perf_counter() - begin)
        return best

    def count(self) -> int:
        """Return the floating-point operations of the largest call."""
        return count_operations(self.kernel, copies(self.arguments))


def copies(args: Any) -> Any:
    """Return arguments with their arrays copied; named tuples stay what they are."""
    if isinstance(args, np.ndarray):
        return args.copy()
    if isinstance(args, tuple):
        items = [copies(item) for item in args]
        return type(args)(*items) if hasattr(args, "_fields") else tuple(items)
    return args


def count_bytes(args: Any) -> int:
    """Return the bytes of all arrays among the arguments."""
    if isinstance(args, np.ndarray):
        return args.nbytes
    return sum(count_bytes(item) for item in args) if isinstance(args, tuple) else 0


@contextmanager
def recorded() -> Iterator[dict[str, Recorder]]:
    """Replace the kernels wherever Python calls them; give the recorders by kernel name.

    Kernels that call each other keep their compiled links, so everything must be compiled before.
    """
    recorders: dict[str, Recorder] = {}
    replaced = []
    for module in [m for name, m in sys.modules.items() if name.startswith("crowdfit")]:
        for name, value in list(vars(module).items()):
            if isinstance(value, CPUDispatcher) and value.__module__.startswith(PREFIX):
                kernel = f"{value.__module__}.{value.py_func.__name__}"
                recorder = recorders.setdefault(kernel, Recorder(value))
                replaced.append((module, name, value))
                setattr(module, name, recorder)
    try:
        yield recorders
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)


def record_fit(made: Simulated, passes: int) -> tuple[list[Recorder], float]:
    """Fit a field twice, once to compile; return the kernels that were called, and the wall time (s)."""
    image, err, dq = made.data, made.err, made.dq
    fit_image(image, err, dq, stop__max_passes=passes)
    with recorded() as recorders:
        begin = time.perf_counter()
        fit_image(image, err, dq, stop__max_passes=passes)
        wall = time.perf_counter() - begin
    return [r for r in recorders.values() if r.calls], wall


def report(recorders: Sequence[Recorder], wall: float, machines: Mapping[int, Machine], pixels: int) -> str:
    """Return the table: share of the fit, then the largest call on each number of threads.

    Parameters
    ----------
    recorders : sequence of Recorder
        Kernels that were called.
    wall : float
        Wall time of the fit (s).
    machines : mapping of int to Machine
        What the machine can do, by number of threads; the last one is compared with.
    pixels : int
        Of the image.
    """
    threads, machine = list(machines), list(machines.values())[-1]
    heads = "".join(f"{f'ms x{n}':>10s}" for n in threads)
    rates = f"{'MB':>8s}{'Mflop':>9s}{'GB/s':>8s}{'Gflop/s':>9s}{'Mpix/s':>8s}{'limit':>8s}"
    lines = [
        *(
            f"x{n}: {m.bytes_per_s / 1e9:.1f} GB/s, {m.ops_per_s / 1e9:.1f} Gflop/s"
            for n, m in machines.items()
        ),
        f"{'kernel':32s}{'calls':>7s}{'s':>8s}{'share':>7s}{heads}{rates}  of",
    ]
    for r in sorted(recorders, key=lambda r: -r.seconds):
        best = [r.repeat(n) for n in threads]
        n_ops = r.count()
        used = machine.least_seconds(r.size, n_ops) / best[-1]
        cells = "".join(f"{1e3 * seconds:10.2f}" for seconds in best)
        cells += f"{r.size / 1e6:8.2f}{n_ops / 1e6:9.2f}{r.size / best[-1] / 1e9:8.2f}"
        cells += f"{n_ops / best[-1] / 1e9:9.2f}{pixels / best[-1] / 1e6:8.1f}{used:8.1%}"
        about = f"{r.name:32s}{r.calls:7d}{r.seconds:8.2f}{r.seconds / wall:7.1%}"
        lines.append(f"{about}{cells}  {machine.binds(r.size, n_ops)}")
    total = sum(r.seconds for r in recorders)
    return "\n".join([*lines, f"{'all kernels':39s}{total:8.2f}{total / wall:7.1%}   of {wall:.2f} s"])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table for one scene."""
    parser = argparse.ArgumentParser(prog="benchmarks.kernels", description="Time the compiled kernels.")
    parser.add_argument("scene", nargs="?", default="smoke")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--passes", type=int, default=3, help="passes of the fit that is recorded")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    args = parser.parse_args(argv)
    threads = [n for n in args.threads if n <= numba.get_num_threads()]
    made = simulate(bench_scene(args.scene, args.seed))
    recorders, wall = record_fit(made, args.passes)
    print(report(recorders, wall, {n: measure_machine(n) for n in threads}, made.data.size))


if __name__ == "__main__":
    main()
