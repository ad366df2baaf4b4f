"""How long the command takes until the first pass begins, in fresh processes with kernels compiled before.

    python -m benchmarks.startup dense --runs 7
    python -m benchmarks.startup my_field.fits other_field.fits

Each run is the command itself: `crowdfit fit FIELD --log-json LOG`. The log says, with the CPU time of the
process and the time of day, when packages were imported, when the image was read, when the first PSF was made
and when the first pass began; then the process is interrupted. Wall times count from just before the process
was started. What it costs to load compiled kernels from numba's cache is asked in one more process per field,
in which the loading is timed: before the first pass and in it.
"""

import argparse
import json
import logging
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.run import ROOT
from benchmarks.scenes import BENCH_SCENES, DEFAULT_FOLDER, scene_file

PHASES = {"imports": "imports", "reading": "reading", "first PSF": "first PSF", "start": "run record, frame"}
"""What the log calls the end of each phase, and what the phase is called here; in order."""
PATIENCE = 600.0
"""A process that has not begun its first pass by then is given up (s)."""


def run_once(field: Path) -> dict[str, dict[str, float]]:
    """Return the CPU and wall seconds of each phase of one fresh process, and their totals.

    Parameters
    ----------
    field : Path
        FITS image.

    Returns
    -------
    dict
        ``{"cpu": {phase: seconds, ..., "total": seconds}, "wall": {...}}``, phases as in `PHASES`.

    Raises
    ------
    RuntimeError
        The command ended, or dawdled, before its first pass.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.json"
        command = [sys.executable, "-m", "crowdfit", "fit", str(field), "-o", folder, "-q"]
        begin = time.time()
        process = subprocess.Popen(
            [*command, "--log-json", str(log)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        try:
            marks = _marks(process, log)
        finally:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate()
    if marks is None:
        raise RuntimeError(
            f"{field}: no first pass began (status {process.returncode}): {said.strip()[-500:]}"
        )
    cpu = [0.0] + [marks[name]["cpu_s"] for name in PHASES]
    wall = [begin] + [datetime.fromisoformat(marks[name]["time"]).timestamp() for name in PHASES]
    return {"cpu": _phases(cpu), "wall": _phases(wall)}


def _marks(process: "subprocess.Popen[str]", log: Path) -> dict[str, Any] | None:
    """Return the lines of the log that end a phase, by phase, once all are there; None if they never come."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        ended = process.poll() is not None
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        marks = {entry["done"]: entry for entry in entries if "done" in entry}
        if marks.keys() >= PHASES.keys():
            return marks
        if ended:
            return None
        time.sleep(0.02)
    return None


def _phases(clock: Sequence[float]) -> dict[str, float]:
    """Return the differences of clock readings by phase, and the total."""
    steps = [after - before for before, after in zip(clock, clock[1:], strict=False)]
    return dict(zip(PHASES, steps, strict=True)) | {"total": clock[-1] - clock[0]}


def kernel_loads(field: Path) -> dict[str, list[float]]:
    """Return the CPU seconds of each load of a compiled kernel, in this process: `before` pass 1 and `during` it.

    Also what numba does at the first load of a process, which is most of it. Call it in a fresh process.
    """
    from numba.core.caching import FunctionCache  # noqa: PLC0415

    import crowdfit  # noqa: PLC0415 - this process may be there to start others only

    loads: dict[str, list[float]] = {"before": [], "during": []}
    now = ["before"]
    load = FunctionCache.load_overload

    def timed(*args: Any) -> Any:
        begin = time.process_time()
        found = load(*args)
        loads[now[0]].append(time.process_time() - begin)
        return found

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "done", "") == "start":
                now[0] = "during"

    class Enough(Exception):
        pass

    def stop(_state: object) -> None:
        raise Enough

    log, watch = logging.getLogger("crowdfit"), Watch()
    level = log.level
    log.addHandler(watch)
    log.setLevel(logging.DEBUG)
    FunctionCache.load_overload = timed
    try:
        crowdfit.fit_image(field, progress=stop)
    except Enough:
        pass
    finally:
        FunctionCache.load_overload = load
        log.removeHandler(watch)
        log.setLevel(level)
    return loads


def table(runs: Sequence[dict[str, dict[str, float]]], loads: dict[str, list[float]]) -> str:
    """Return the phases as rows, least and median CPU and wall seconds as columns, and a line on the kernels."""
    lines = [f"{'':<20}{'cpu min':>9}{'median':>9}{'wall min':>10}{'median':>9}"]
    for name, title in (PHASES | {"total": "until the first pass"}).items():
        cpu, wall = ([run[clock][name] for run in runs] for clock in ("cpu", "wall"))
        lines.append(
            f"{title:<20}{min(cpu):9.2f}{statistics.median(cpu):9.2f}{min(wall):10.2f}{statistics.median(wall):9.2f}"
        )
    before, during = loads["before"], loads["during"]
    lines.append(
        f"loading of compiled kernels, cpu s: {sum(before):.2f} ({len(before)}) of the above, "
        f"{sum(during):.2f} ({len(during)}) in the first pass"
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
        loads = json.loads(subprocess.run(inner, cwd=ROOT, check=True, capture_output=True).stdout)
        print(f"{field}, {given.runs} runs\n{table([run_once(field) for _ in range(given.runs)], loads)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
