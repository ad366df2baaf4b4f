"""How long the command takes until the first pass begins, in fresh processes with kernels compiled before.

    python -m benchmarks.startup dense --runs 7
    python -m benchmarks.startup my_field.fits other_field.fits

Each run is the command itself: `crowdfit fit FIELD --log-json LOG`. The log says, with the CPU time of the
process and the time of day, when packages were imported, when the image was read, when the first PSF was made,
when the first pass began and when it ended; then the process is killed. Wall times count from just before
the process was started. The first pass stands below the total, so that work that is only put off shows there.

What it costs to load compiled kernels from numba's cache is asked in one more process per field, in which the
loading is timed: before the first pass, and in it. Only the kernels that are in use by then are loaded.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.run import ROOT
from benchmarks.scenes import BENCH_SCENES, DEFAULT_FOLDER, scene_file

BEFORE = {"imports": "imports", "reading": "reading", "first PSF": "first PSF", "start": "frame, run record"}
"""What the log calls the ends of the phases before the first pass, in order, and what a reader calls the phases."""
MARKS = (*BEFORE, "pass")
PATIENCE = 600.0
"""A process that has not ended its first pass by then is given up (s)."""

Seconds = dict[str, float]


class EnoughError(Exception):
    """Ends a fit whose first pass is over."""


def run_once(field: Path, *settings: str) -> dict[str, Seconds]:
    """Run the command on a field in a fresh process until its first pass has ended.

    Parameters
    ----------
    field : Path
        FITS image.
    *settings : str
        ``key=value``, as after ``--set``.

    Returns
    -------
    dict
        ``{"cpu": {phase: seconds}, "wall": {phase: seconds}}``, phases as in `MARKS` and "total", which is
        without the first pass.

    Raises
    ------
    RuntimeError
        The command ended, or dawdled, before the end of its first pass.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.json"
        command = [
            sys.executable,
            "-m",
            "crowdfit",
            "fit",
            str(field),
            "-o",
            folder,
            "-q",
            "--log-json",
            str(log),
        ]
        for setting in settings:
            command += ["--set", setting]
        begin = time.time()
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        try:
            marks = _marks(process, log)
        finally:
            process.kill()
            _, said = process.communicate()
    if marks is None:
        raise RuntimeError(f"{field}: no first pass (status {process.returncode}): {said.strip()[-500:]}")
    cpu = [0.0, *(marks[name]["cpu_s"] for name in MARKS)]
    wall = [begin, *(datetime.fromisoformat(marks[name]["time"]).timestamp() for name in MARKS)]
    return {"cpu": _phases(cpu), "wall": _phases(wall)}


def _marks(process: "subprocess.Popen[str]", log: Path) -> dict[str, Any] | None:
    """Return the first line of the log that ends each phase, once all are there; None if they never come."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        ended = process.poll() is not None
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        marks = {entry["done"]: entry for entry in reversed(entries) if "done" in entry}
        if marks.keys() >= set(MARKS):
            return marks
        if ended:
            return None
        time.sleep(0.02)
    return None


def _phases(clock: Sequence[float]) -> Seconds:
    """Return the differences of clock readings by phase, and the time until the first pass as "total"."""
    steps = [after - before for before, after in zip(clock, clock[1:], strict=False)]
    return dict(zip(MARKS, steps, strict=True)) | {"total": clock[-2] - clock[0]}


def kernel_loads(field: Path) -> dict[str, list[float]]:
    """Return the CPU seconds of each load of a compiled kernel: `before` the first pass, and `during` it.

    With all that numba does at the first load of a process, which is most of it; so call it in a fresh process.
    """
    from numba.core.caching import FunctionCache  # noqa: PLC0415 - the process that starts others needs neither

    import crowdfit  # noqa: PLC0415

    loads: dict[str, list[float]] = {"before": [], "during": []}
    now = ["before"]
    load: Any = FunctionCache.load_overload

    def timed(*args: Any) -> Any:
        begin = time.process_time()
        found = load(*args)
        loads[now[0]].append(time.process_time() - begin)
        return found

    def follow(record: logging.LogRecord) -> bool:
        if getattr(record, "done", "") == "start":
            now[0] = "during"
        return True

    def stop(_state: object) -> None:
        raise EnoughError

    with mock.patch.object(FunctionCache, "load_overload", timed), _filtering("crowdfit.run", follow):
        try:
            crowdfit.fit_image(field, progress=stop)
        except EnoughError:
            return loads
    raise RuntimeError(f"{field}: the fit ended without a pass")


@contextmanager
def _filtering(name: str, look: Any) -> Iterator[None]:
    """Show every record of a logger to `look`."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addFilter(look)
    try:
        yield
    finally:
        log.removeFilter(look)
        log.setLevel(level)


def table(runs: Sequence[dict[str, Seconds]], loads: dict[str, list[float]]) -> str:
    """Return the phases as rows, least and median CPU and wall seconds as columns, and a line on the kernels."""
    lines = [f"{'':<22}{'cpu min':>9}{'median':>9}{'wall min':>10}{'median':>9}"]
    for name, title in (BEFORE | {"total": "until the first pass", "pass": "the first pass"}).items():
        cpu, wall = ([run[clock][name] for run in runs] for clock in ("cpu", "wall"))
        figures = (
            f"{min(cpu):9.2f}{statistics.median(cpu):9.2f}{min(wall):10.2f}{statistics.median(wall):9.2f}"
        )
        lines.append(f"{title:<22}{figures}")
    before, during = loads["before"], loads["during"]
    lines.append(
        f"of this, loading compiled kernels (cpu): {sum(before):.2f} ({len(before)} kernels) before the first pass, "
        f"{sum(during):.2f} ({len(during)}) in it"
    )
    return "\n".join(lines)


def _fields(names: Sequence[str]) -> list[Path]:
    """Return the files of scenes by name, and of files by path."""
    DEFAULT_FOLDER.mkdir(parents=True, exist_ok=True)
    return [scene_file(name, 1) if name in BENCH_SCENES else Path(name) for name in names]


def main(argv: Sequence[str] | None = None) -> int:
    """Time the start on every field and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("fields", nargs="+", help=f"{', '.join(BENCH_SCENES)}, or a FITS image")
    parser.add_argument("--runs", type=int, default=5, help="fresh processes for each field")
    parser.add_argument(
        "--kernels", action="store_true", help="print what loading kernels costs here, as JSON"
    )
    given = parser.parse_args(argv)
    for field in _fields(given.fields):
        if given.kernels:
            print(json.dumps(kernel_loads(field)))
            continue
        inner = [sys.executable, "-m", "benchmarks.startup", str(field), "--kernels"]
        subprocess.run(inner, cwd=ROOT, check=True, capture_output=True)  # compiles what is not compiled yet
        run_once(field)  # brings files into memory
        loads = json.loads(subprocess.run(inner, cwd=ROOT, check=True, capture_output=True).stdout)
        print(f"{field}, {given.runs} runs\n{table([run_once(field) for _ in range(given.runs)], loads)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
