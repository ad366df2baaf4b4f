"""Thousands of bad inputs through the command line: no traceback, no hang, no flood of memory, nothing half written.

    python -m tests.fuzz --cases 1000 --seed 1

prints every case that breaks one of these rules, with what was done in it, and ends with status 1 if there was one.
A case is made again by its seed and number: `--first 417 --cases 1 --keep FOLDER` leaves its files in a folder.
`tests/test_fuzz.py` runs a fixed sample.
"""

import argparse
import contextlib
import io
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from astropy.io import fits

from crowdfit.cli import main
from crowdfit.job import DONE, REFUSED
from tests import fuzz_cases
from tests.fuzz_cases import Case

SECONDS = 60
"""A field of 64 x 64 pixels that takes longer hangs."""
MEMORY_MB = 600
"""So much may one small image add to the largest size of the process."""
ADDRESS_MB = 12_000
"""The process is refused more than this, so that a header cannot take the machine down."""
KNOWN_LINE = re.compile(
    r"crowdfit: (error|first run|warning)(?!: (Runtime|User|Deprecation|Optimize)Warning)"
)
"""What may stand on stderr; a warning of numpy about an overflow tells the user nothing."""


class Outcome(NamedTuple):
    """How a case ended: exit status, what was wrong with that, and what it took."""

    status: int | None
    problems: list[str]
    seconds: float
    memory_mb: float
    said: str


class TooLongError(BaseException):
    """The time is up; no `except Exception` stops it."""


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise `TooLongError` after so many seconds."""

    def ring(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(case: Case, folder: Path) -> Outcome:
    """Run the command of a case and judge what came of it."""
    problems: list[str] = []
    status: int | None = None
    out, err = io.StringIO(), io.StringIO()
    began, before = time.perf_counter(), peak_mb()
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.simplefilter("always")
        try:
            with alarm(SECONDS):
                status = main(case.arguments)
        except TooLongError:
            problems.append(f"more than {SECONDS} s: " + where(sys.exc_info()[2]))
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            problems.append(f"{type(error).__name__}: {error} " + where(error.__traceback__))
    seconds, memory = time.perf_counter() - began, peak_mb() - before
    said = err.getvalue()
    problems += [f"raw warning: {w.message} ({w.filename}:{w.lineno})" for w in caught]
    if memory > MEMORY_MB:
        problems.append(f"memory grew by {memory:.0f} MB")
    if status is not None:
        problems += judged(status, said, folder / "out")
    return Outcome(status, problems, seconds, memory, said)


def judged(status: int, said: str, out: Path) -> list[str]:
    """Return what is wrong with an exit status, the lines on stderr and the files that are left."""
    problems = []
    lines = said.splitlines()
    if status not in (DONE, REFUSED):
        problems.append(f"status {status}")
    if "Traceback" in said:
        problems.append("a traceback on stderr")
    if status == REFUSED and not any(line.startswith("crowdfit: error: ") for line in lines):
        problems.append("refused without saying why")
    problems += [f"stray line: {line[:200]!r}" for line in lines if not KNOWN_LINE.match(line)]
    problems += [f"an error line of {len(line)} letters" for line in lines if len(line) > 2000]
    left = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if status == REFUSED and left:
        problems.append(f"refused, but left {left}")
    return problems + [problem for name in left for problem in unreadable(out / name)]


def unreadable(path: Path) -> list[str]:
    """Return what is wrong with a file that a run has left."""
    try:
        if path.suffix == ".fits":
            with fits.open(path) as hdus:
                hdus.verify("exception")
                [hdu.data for hdu in hdus]  # noqa: B018 - it is read
        elif path.suffix == ".h5":
            h5py.File(path).close()
        elif path.suffix == ".html":
            if "</html>" not in path.read_text():
                return [f"{path.name} is cut"]
        else:
            return [f"{path.name} should not be there"]
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it
        return [f"{path.name}: {error}"]
    return []


def peak_mb() -> float:
    """Return the largest resident size of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def where(trace: Any) -> str:
    """Return the last places of a traceback on one line."""
    return " < ".join(
        f"{Path(f.filename).name}:{f.lineno}" for f in reversed(traceback.extract_tb(trace)[-6:])
    )


def warm_up(folder: Path) -> None:
    """Have the kernels compiled, and everything imported, so that no case pays for it."""
    rng = np.random.default_rng(0)
    fuzz_cases.good_image(rng, folder)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(["fit", str(folder / "f.fits"), "-o", str(folder / "out")])


def run_number(seed: int, number: int, folder: Path) -> tuple[Case, Outcome]:
    """Make and run one case in a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy about the cards that we write on purpose
        case = fuzz_cases.make(seed, number, folder)
    return case, run(case, folder)


def options() -> argparse.Namespace:
    """Return the arguments of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="leave the files here instead of in a temporary folder")
    return parser.parse_args()


def run_all(wanted: argparse.Namespace) -> int:
    """Run the cases and return how many broke a rule."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_MB << 20, ADDRESS_MB << 20))
    with tempfile.TemporaryDirectory() as folder:
        warm_up(Path(folder))
    broken, counts, longest, largest = 0, {}, 0.0, 0.0
    for number in range(wanted.first, wanted.first + wanted.cases):
        with contextlib.ExitStack() as stack:
            folder = wanted.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            case, outcome = run_number(wanted.seed, number, folder)
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
        longest, largest = max(longest, outcome.seconds), max(largest, outcome.memory_mb)
        if outcome.problems:
            broken += 1
            print(
                f"case {wanted.seed}/{number}: {outcome.problems}\n    {fuzz_cases.told(case)[:600]}",
                flush=True,
            )
    print(
        f"{wanted.cases} cases of seed {wanted.seed}: {broken} broken; by status {counts}; longest {longest:.1f} s; "
        f"most memory added by one {largest:.0f} MB; peak {peak_mb():.0f} MB"
    )
    return broken


if __name__ == "__main__":
    sys.exit(run_all(options()) > 0)
