"""One minute that shows the harness and the fit still work: a small dense field, fitted, scored and reported.

    python -m benchmarks.smoke

Exit status 1 when a figure is worse than it has any reason to be. Time is printed and not judged, since it
says more about the machine.
"""

import sys
from typing import Any

from benchmarks.floor import floor
from benchmarks.groups import grouped
from benchmarks.report import markdown
from benchmarks.run import Setup, environment, run_field, table
from benchmarks.scenes import DEFAULT_FOLDER, scene_file

LIMITS = {"f1_snr10": 0.80, "f1_snr5": 0.60}
"""Least values; the full `dense` field reaches more."""
MAX_BIAS = 30.0
"""Largest bias of the stars with S/N 50 to 200 (mmag)."""


def complaints(record: dict[str, Any]) -> list[str]:
    """Return what is wrong with the figures of a run, one line each."""
    if record["status"] != 0:
        return [f"the fit ended with status {record['status']}: {record['message']}"]
    figures = record["score"]
    wrong = [
        f"{key} is {figures[key]}, below {limit}"
        for key, limit in LIMITS.items()
        if not figures[key] >= limit
    ]
    bias = next(b["bias_mmag"] for b in figures["bins"] if b["snr"] == "50-200")
    if bias is None or abs(bias) > MAX_BIAS:
        wrong.append(f"bias at S/N 50-200 is {bias} mmag, beyond {MAX_BIAS}")
    return wrong


def main() -> int:
    """Run and judge the small field."""
    DEFAULT_FOLDER.mkdir(parents=True, exist_ok=True)
    setup = Setup()
    about = environment(setup) | {"field": "smoke", "seed": 1}
    records = [about | run_field(scene_file("smoke", 1), setup), floor("smoke", 1)]
    print(table(records))
    print(markdown(grouped(records)))
    wrong = complaints(records[0])
    print("\n".join(wrong) or "smoke: fine")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
