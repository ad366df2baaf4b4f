"""Time and score the whole command on fields with known truth.

    python -m benchmarks.run dense sparse --seeds 1 2 3 --threads 2
    python -m benchmarks.run dense --solver lsqr --set stop.max_passes=8 --out trial.jsonl
    python -m benchmarks.run my_field.fits -c nircam_sw

A field is a scene by name, a group of scenes (`ladder`), a real image (`real`: all of them; without truth, so
that only cost, residual and number of stars are recorded), or a FITS file of your own. Each (field, seed) runs
`crowdfit fit` in its own process, from the reading of the image to the last file written; wall time, CPU time
and peak memory are those of the operating system. A run on a small field comes first and is timed on its own,
so that compilation is not part of the figures. One JSON line per run goes to the result file.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scenes import DEFAULT_FOLDER, REAL_FIELDS, has_truth, jobs, scene_file
from benchmarks.score import read_catalog, read_truth, score
from crowdfit import __version__
from crowdfit.config import config_hash, load_config
from crowdfit.errors import CrowdfitError
from crowdfit.io.run_record import read_record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "runs.jsonl"
PACKAGES = ("numpy", "scipy", "numba", "astropy", "sep", "h5py", "pydantic")


@dataclass(frozen=True)
class Setup:
    """How to run the command: threads, configuration (name, file or None) and dotted settings."""

    threads: int = 2
    config: str | None = None
    settings: tuple[str, ...] = ()
    folder: Path = DEFAULT_FOLDER

    def arguments(self) -> list[str]:
        """Return the options that go to `crowdfit fit`."""
        options = ["--threads", str(self.threads), "-q"]
        if self.config:
            options += ["-c", self.config]
        for setting in self.settings:
            options += ["--set", setting]
        return options


def measure(command: Sequence[str], log: Path) -> dict[str, Any]:
    """Run a command from the root of the checkout; return its exit status, times and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "cost.json"
        launcher = [sys.executable, "-S", str(ROOT / "benchmarks" / "timed.py"), str(result), str(log)]
        subprocess.run([*launcher, *command], check=True, cwd=ROOT)
        cost: dict[str, Any] = json.loads(result.read_text())
    return cost


def run_field(field: Path, setup: Setup) -> dict[str, Any]:
    """Fit one field with the command and score its catalogue.

    Returns
    -------
    dict
        `status`, `wall_s`, `cpu_s`, `peak_mb`; when the exit status is 0 `fit` (facts from the run
        record), `counts` and, with truth, `score`; else `message`.
    """
    with tempfile.TemporaryDirectory(prefix=f"{field.stem}_", dir=setup.folder) as out:
        log = Path(out) / "log.txt"
        options = setup.arguments()
        cost = measure([sys.executable, "-m", "crowdfit", "fit", str(field), "-o", out, *options], log)
        if cost["status"] != 0:
            return cost | {"message": log.read_text(errors="replace").strip()[-500:]}
        found = read_catalog(Path(out) / f"{field.stem}_catalog.fits")
        facts = _facts(Path(out) / f"{field.stem}_run.h5")
    with np.errstate(invalid="ignore"):
        counts = {"n_cat": len(found), "n_snr10": int(np.sum(found.flux > 10 * found.err))}
    record = cost | {"fit": facts, "counts": counts}
    return record | ({"score": score(read_truth(field), found).as_dict()} if has_truth(field) else {})


def _facts(path: Path) -> dict[str, Any]:
    """Return passes, stop reason, FWHM, chi and seconds by stage from a run record, if there is one."""
    if not path.exists():
        return {}
    record = read_record(path)
    passes = [record[k].stats for k in sorted(record)]
    stages: dict[str, float] = {}
    for stats in passes:
        for name, seconds in stats["stage_seconds"].items():
            stages[name] = round(stages.get(name, 0.0) + seconds, 3)
    return {
        "passes": len(passes),
        "stop_reason": record.stop_reason,
        "fwhm": round(float(passes[-1]["fwhm"]), 4),
        "chi": round(float(passes[-1]["chi"]), 4),
        "stage_seconds": stages,
    }


def provenance() -> dict[str, Any]:
    """Return what a figure depends on besides field and settings: time, commit, versions, machine."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {"crowdfit": __version__, "python": platform.python_version()}
        | {name: _version(name) for name in PACKAGES},
        "host": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()},
    }


def environment(setup: Setup) -> dict[str, Any]:
    """Return `provenance`, and the code with its version, threads and configuration."""
    return provenance() | {
        "code": "crowdfit",
        "version": __version__,
        "threads": setup.threads,
        "config": setup.config,
        "settings": list(setup.settings),
        "config_hash": config_hash(load_config(setup.config, setup.settings)),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _cpu() -> str:
    """Return the name of the processor as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _commit() -> str:
    """Return the short hash of the checkout, with `+` when files differ from it."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


COLUMNS = (
    ("wall s", lambda r: r.get("wall_s", nan), ".1f"),
    ("cpu s", lambda r: r.get("cpu_s", nan), ".1f"),
    ("MB", lambda r: r.get("peak_mb", nan), ".0f"),
    ("F1>10", lambda r: figure(r, "f1_snr10"), ".3f"),
    ("compl", lambda r: figure(r, "completeness_snr10"), ".3f"),
    ("false", lambda r: figure(r, "false_frac_snr10"), ".3f"),
    ("F1>5", lambda r: figure(r, "f1_snr5"), ".3f"),
    ("scat 50-200", lambda r: figure(r, "scatter", "50-200"), ".4f"),
    ("scat >200", lambda r: figure(r, "scatter", "200-inf"), ".4f"),
    ("bias 50-200", lambda r: figure(r, "bias_mmag", "50-200"), ".1f"),
    ("bias >200", lambda r: figure(r, "bias_mmag", "200-inf"), ".1f"),
    ("pull >200", lambda r: figure(r, "pull_mad", "200-inf"), ".2f"),
)
"""Heading, value and format of the printed table."""


def figure(record: dict[str, Any], name: str, snr: str | None = None) -> float:
    """Return one figure of a record, of one S/N bin when that is named; NaN when it is not there."""
    found = record.get("score", {})
    if snr is not None:
        found = next((entry for entry in found.get("bins", ()) if entry["snr"] == snr), {})
    value = found.get(name)
    return nan if value is None else float(value)


def table(records: Iterable[dict[str, Any]]) -> str:
    """Return the figures as text: one line a run, and the medians of each field and code with several runs."""
    records = list(records)
    lines = [_cells("field", "seed", (heading for heading, _, _ in COLUMNS))]
    for key in dict.fromkeys(map(label, records)):
        runs = [record for record in records if label(record) == key]
        done = [record for record in runs if record["status"] == 0]
        lines += [_line(record) for record in runs]
        if len(done) > 1:
            medians = (_format(median(value(r) for r in done), style) for _, value, style in COLUMNS)
            lines.append(_cells(key, "med", medians))
    return "\n".join(lines)


def label(record: dict[str, Any]) -> str:
    """Return the name of the field, and of the code when it is not crowdfit."""
    code = record.get("code", "crowdfit")
    return str(record["field"]) if code == "crowdfit" else f"{record['field']} {code}"


def median(values: Iterable[float]) -> float:
    """Return the median of what is not NaN; NaN of nothing."""
    kept = [value for value in values if not isnan(value)]
    return statistics.median(kept) if kept else nan


def _line(record: dict[str, Any]) -> str:
    if record["status"] != 0:
        return _cells(label(record), record["seed"], [f"failed ({record['status']}): {record['message']}"])
    cells = (_format(value(record), style) for _, value, style in COLUMNS)
    return _cells(label(record), record["seed"], cells)


def _format(value: float, style: str) -> str:
    return "-" if isnan(value) else format(value, style)


def _cells(field: str, seed: object, cells: Iterable[str]) -> str:
    widths = (max(len(heading), 6) for heading, _, _ in COLUMNS)
    return f"{field:18s} {seed!s:>4s}  " + "  ".join(c.rjust(w) for c, w in zip(cells, widths, strict=False))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description="Time and score `crowdfit fit`.")
    parser.add_argument("fields", nargs="+", metavar="FIELD", help="scene, group, real field, or FITS file")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="seeds of the scenes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-c", "--config", help="shipped configuration or YAML file")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--solver", help="short for --set solve.kind=SOLVER")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON lines are appended to this file")
    parser.add_argument("--work", type=Path, default=DEFAULT_FOLDER, help="folder for scenes and fits")
    parser.add_argument("--no-warm-up", action="store_true", help="do not run a small field first")
    return parser.parse_args(argv)


def append(record: dict[str, Any], path: Path) -> None:
    """Add a record to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lines:
        lines.write(json.dumps(record) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the table and append the JSON lines; 1 if a fit failed, 2 if the request is wrong."""
    args = _arguments(argv)
    settings = [*args.settings, *([f"solve.kind={args.solver}"] if args.solver else [])]
    setup = Setup(args.threads, args.config, tuple(settings), args.work.resolve())
    setup.folder.mkdir(parents=True, exist_ok=True)
    try:
        wanted = jobs(args.fields, args.seeds, setup.folder)
        setups = [replace(setup, config=setup.config or job.config) for job in wanted]
        facts = {each: environment(each) for each in setups}
    except CrowdfitError as error:
        print(error, file=sys.stderr)
        return 2
    if not args.no_warm_up:
        first = run_field(scene_file("smoke", 1, setup.folder), setup)
        print(f"warm-up on a small field: {first['wall_s']:.1f} s, status {first['status']}", flush=True)
    records = []
    for job, each in zip(wanted, setups, strict=True):
        if job.field in REAL_FIELDS and not job.path.exists():
            print(f"{job.field}: missing, there is no {job.path}", flush=True)
            continue
        records.append(facts[each] | {"field": job.field, "seed": job.seed} | run_field(job.path, each))
        print(_line(records[-1]), flush=True)
        append(records[-1], args.out)
    print("\n" + table(records))
    return 0 if all(record["status"] == 0 for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
