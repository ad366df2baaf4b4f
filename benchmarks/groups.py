"""Records of benchmark runs, read from JSON lines and grouped by field, code and number of threads."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from benchmarks.run import figure, median
from benchmarks.score import BINS, DENSITIES
from crowdfit.errors import InputError

LIMIT = "floor"
"""The code that stands for what no fit can beat; it comes last in every table."""
OURS = "crowdfit"

SNR_LABELS = tuple(f"{low:g}-{'inf' if high >= 1e9 else f'{high:g}'}" for low, high in BINS)
DENSITY_LABELS = tuple(f"{low:g}-{high:g}" for low, high in zip(DENSITIES[:-1], DENSITIES[1:], strict=True))
"""Labels of the bins, as the scorer writes them."""

Record = dict[str, Any]
Value = Callable[[Record], float]


@dataclass(frozen=True)
class Group:
    """Runs of one code on one field, one for each seed; only failed ones when `failure` is not empty."""

    field: str
    code: str
    threads: int | None
    runs: tuple[Record, ...]
    failure: str = ""

    def median(self, value: Value) -> float:
        """Return the median of a figure over the seeds; NaN when no run has it."""
        return nan if self.failure else median(map(value, self.runs))

    @property
    def seeds(self) -> str:
        """The seeds, in order."""
        return ", ".join(str(run["seed"]) for run in sorted(self.runs, key=lambda run: int(run["seed"])))

    @property
    def name(self) -> str:
        """The code with the version of its package."""
        versions = {str(run["version"]) for run in self.runs if run.get("version")}
        return " ".join([self.code, *sorted(versions)])

    @property
    def is_scored(self) -> bool:
        """Whether there was a truth to compare with."""
        return any("score" in run for run in self.runs)


def read_records(paths: Iterable[Path]) -> list[Record]:
    """Return the records of files of JSON lines.

    Raises
    ------
    InputError
        No such file, or a line that is no record; the message names file and line.
    """
    records = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); give files of JSON lines"
            ) from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                records.append(_record(line, f"{path}, line {number}"))
    return records


def _record(line: str, where: str) -> Record:
    """Return the record in a line, with its code."""
    try:
        record: Record = json.loads(line)
        return {"code": OURS} | {key: record[key] for key in ("field", "seed", "status")} | record
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{where}: no record of a benchmark ({error}); it needs field, seed and status"
        ) from error


def grouped(records: Iterable[Record]) -> list[Group]:
    """Return the runs by field, code and threads: fields as they came, in each the limit last and us before it."""
    groups: dict[tuple[str, str, int | None], dict[int, Record]] = {}
    for record in sorted(records, key=lambda record: str(record.get("time", ""))):
        runs = groups.setdefault((record["field"], _code(record), record.get("threads")), {})
        # a failure does not replace a run that worked, but a newer run of the same kind does
        if record["status"] == 0 or runs.get(record["seed"], record)["status"] != 0:
            runs[record["seed"]] = record
    fields = list(dict.fromkeys(field for field, _, _ in groups))
    found = [_group(*key, tuple(runs.values())) for key, runs in groups.items()]
    return sorted(found, key=lambda g: (fields.index(g.field), rank(g.code), g.code, g.threads or 0))


def _group(field: str, code: str, threads: int | None, runs: tuple[Record, ...]) -> Group:
    done = tuple(run for run in runs if run["status"] == 0)
    if done:
        return Group(field, code, threads, done)
    message = str(runs[-1].get("message", "")).strip().splitlines() or [f"status {runs[-1]['status']}"]
    return Group(field, code, threads, runs, message[-1])


def _code(record: Record) -> str:
    """Return the name of the code with what was set, so that trials are not mixed."""
    set_to = [str(item) for item in record.get("settings") or ()]
    if record.get("config"):
        set_to.insert(0, Path(str(record["config"])).stem)
    return str(record["code"]) + (f" ({', '.join(set_to)})" if set_to else "")


def rank(code: str) -> int:
    """Return the place of a code in a table: rivals, us, the limit."""
    return 2 if code == LIMIT else int(code.split(" (", maxsplit=1)[0] == OURS)


def fact(key: str, within: str | None = None) -> Value:
    """Return what gives a number of a record, of one of its dictionaries when that is named."""

    def value(record: Record) -> float:
        found = (record.get(within) or {} if within else record).get(key)
        return nan if found is None else float(found)

    return value


def scored(name: str, snr: str | None = None) -> Value:
    """Return what gives a figure of the score, of one S/N bin when that is named."""
    return lambda record: figure(record, name, snr)


def by_density(name: str, density: str) -> Value:
    """Return what gives a figure of a density bin."""

    def value(record: Record) -> float:
        bins = record.get("score", {}).get("density_bins") or ()
        found = next((entry.get(name) for entry in bins if entry["density"] == density), None)
        return nan if found is None else float(found)

    return value
