"""Tables and plots from the JSON lines of benchmark runs.

    python -m benchmarks.report                                   # everything in results/, to the screen
    python -m benchmarks.report results/*.jsonl --into --plots results/plots
    python -m benchmarks.report mine.jsonl --fields dense cluster
    python -m benchmarks.report mine.jsonl --errors               # only pulls: widths, and medians in brackets

Records are those of `benchmarks.run`, `benchmarks.floor` and of the rivals' runner. They are grouped by field,
code (with its settings, when there are any) and number of threads; of equal runs of one seed the newest counts,
and every figure is the median over the seeds. A run that failed is named with its message, never dropped.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path

from benchmarks.groups import (
    DENSITY_LABELS,
    SNR_LABELS,
    Group,
    Value,
    by_density,
    fact,
    grouped,
    read_records,
    scored,
)
from benchmarks.plots import plot_all
from benchmarks.run import RESULTS
from crowdfit.errors import InputError

README = Path(__file__).with_name("README.md")
MARKERS = ("<!-- results: begin, made by benchmarks.report -->", "<!-- results: end -->")

COSTS: tuple[tuple[str, Value, str], ...] = (
    ("wall s", fact("wall_s"), ".1f"),
    ("cpu s", fact("cpu_s"), ".1f"),
    ("MB", fact("peak_mb"), ".0f"),
)
MAIN = (
    *COSTS,
    ("F1 > 10", scored("f1_snr10"), ".3f"),
    ("complete > 10", scored("completeness_snr10"), ".3f"),
    ("false > 10", scored("false_frac_snr10"), ".3f"),
    ("F1 > 5", scored("f1_snr5"), ".3f"),
    ("scatter 50-200", scored("scatter", "50-200"), ".4f"),
    ("scatter > 200", scored("scatter", "200-inf"), ".4f"),
    ("bias > 200, mmag", scored("bias_mmag", "200-inf"), ".1f"),
    ("pull > 200", scored("pull_mad", "200-inf"), ".2f"),
    ("position > 200, pix", scored("pos_med", "200-inf"), ".4f"),
    ("zero point, mmag", scored("zp_mmag"), ".1f"),
)
"""Columns of the main table: heading, value, format."""
BARE = (
    *COSTS,
    ("sources", fact("n_cat", "counts"), ".0f"),
    ("S/N > 10", fact("n_snr10", "counts"), ".0f"),
    ("passes", fact("passes", "fit"), ".0f"),
    ("FWHM, pix", fact("fwhm", "fit"), ".2f"),
    ("chi", fact("chi", "fit"), ".3f"),
)
"""Columns for fields without truth."""
BY_SNR = (
    ("F1", "f1", ".3f"),
    ("Flux bias (mmag)", "bias_mmag", ".1f"),
    ("Flux scatter", "scatter", ".4f"),
    ("Pull, median", "pull_med", ".2f"),
    ("Pull, width", "pull_mad", ".2f"),
    ("Position error (pix)", "pos_med", ".4f"),
    ("Position pull, width", "pos_pull", ".2f"),
)
BY_DENSITY = tuple(entry for entry in BY_SNR if entry[1] != "pos_med")
"""Tables by bin: title, figure, format."""
WIDTHS, LARGEST_MEDIAN = (0.9, 1.15), 0.2
"""Errors mean what they say when pulls have widths in this range and medians no larger than this."""


def markdown(groups: Sequence[Group]) -> str:
    """Return all tables as Markdown, with a line on what was run where."""
    scored_groups = [group for group in groups if group.is_scored or group.failure]
    bare = [group for group in groups if not (group.is_scored or group.failure)]
    parts = [provenance_text(groups)]
    if scored_groups:
        parts.append(_table(scored_groups, MAIN))
    if bare:
        parts += ["Real images, which have no truth:", _table(bare, BARE)]
    for title, labels, tables, value in (
        ("by S/N", SNR_LABELS, BY_SNR, scored),
        ("by density (stars above S/N 5 per square FWHM; stars above S/N 10)", DENSITY_LABELS, BY_DENSITY, by_density),
    ):  # fmt: skip
        for heading, name, style in tables:
            columns = tuple((label, value(name, label), style) for label in labels)
            if text := _table([g for g in groups if g.is_scored], columns, costs=False):
                parts += [f"{heading} {title}:", text]
    return "\n\n".join(part for part in parts if part) + "\n"


def errors_table(groups: Sequence[Group]) -> str:
    """Return the pulls of flux and of position by S/N above 10 as Markdown: widths, and medians in brackets.

    What is out of `WIDTHS`, or above `LARGEST_MEDIAN` either way, is in bold.
    """
    labels = SNR_LABELS[1:]
    heads = ["field", "code", "seeds"]
    heads += [f"{what} {label}" for what in ("flux", "position") for label in labels]
    lines = [heads, ["---"] * len(heads)]
    for group in groups:
        cells = [
            f"{_marked(group, 'pull_mad', label)} ({_marked(group, 'pull_med', label)})" for label in labels
        ] + [_marked(group, "pos_pull", label) for label in labels]
        if group.is_scored:
            lines.append([f"`{group.field}`", group.name, group.seeds, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _marked(group: Group, name: str, label: str) -> str:
    """Return the median of a figure of pulls in an S/N bin as text, bold where errors do not mean what they say."""
    value = round(group.median(scored(name, label)), 2)
    text = "-" if isnan(value) else format(value, "+z.2f" if name == "pull_med" else "z.2f")
    low, high = (-LARGEST_MEDIAN, LARGEST_MEDIAN) if name == "pull_med" else WIDTHS
    return f"**{text}**" if value < low or value > high else text


def _table(groups: Sequence[Group], columns: Sequence[tuple[str, Value, str]], *, costs: bool = True) -> str:
    """Return a Markdown table, a line for each group; nothing when no cell has a value."""
    rows = [[_shown(group.median(value), style) for _, value, style in columns] for group in groups]
    if not costs:
        filled = [(group, row) for group, row in zip(groups, rows, strict=True) if set(row) != {"-"}]
        groups, rows = [group for group, _ in filled], [row for _, row in filled]
    if not rows:
        return ""
    facts = ["field", "code", "seeds", "threads"] if costs else ["field", "code"]
    lines = [facts + [heading for heading, _, _ in columns]]
    lines.append(["---"] * len(lines[0]))
    for group, row in zip(groups, rows, strict=True):
        about = [f"`{group.field}`", group.name, group.seeds, str(group.threads or "-")][: len(facts)]
        lines.append(about + ([f"failed: {group.failure}".replace("|", "/")] if group.failure else row))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _shown(value: float, style: str) -> str:
    """Return a number as text; no sign before a zero, "-" for NaN."""
    return "-" if isnan(value) else format(value, f"z{style}")


def provenance_text(groups: Iterable[Group]) -> str:
    """Return when, where and with what the runs were made; several answers are all listed."""
    runs = [run for group in groups for run in group.runs]
    days = sorted({str(run["time"])[:10] for run in runs if run.get("time")})
    commits = sorted({str(run["commit"]) for run in runs if run.get("commit")})
    hosts = sorted(
        {f"{run['host'].get('cpu')}, {run['host'].get('cores')} cores" for run in runs if run.get("host")}
    )
    pythons = sorted(
        {str(run["versions"]["python"]) for run in runs if "python" in (run.get("versions") or {})}
    )
    facts = (("made", days), ("commit", commits), ("host", hosts), ("Python", pythons))
    words = "; ".join(f"{name} {' and '.join(values)}" for name, values in facts if values)
    return f"Medians over the seeds; {words}." if words else "Medians over the seeds."


def write_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the markers of a file.

    Raises
    ------
    InputError
        A file without the two markers, in order, each on a line of its own.
    """
    old = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"^{re.escape(MARKERS[0])}\n.*?^{re.escape(MARKERS[1])}$", re.DOTALL | re.MULTILINE)
    if len(pattern.findall(old)) != 1:
        raise InputError(f"{path}: the lines {MARKERS[0]} and {MARKERS[1]} must be there once, in this order")
    block = f"{MARKERS[0]}\n{text}{MARKERS[1]}"
    path.write_text(pattern.sub(lambda _: block, old), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables and plots; 2 when there is nothing to report."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.report", description="Tables and plots of benchmark runs."
    )
    parser.add_argument(
        "files", nargs="*", type=Path, help="JSON lines; all in benchmarks/results if none is given"
    )
    parser.add_argument("--fields", nargs="+", metavar="FIELD", help="only these fields")
    parser.add_argument(
        "--into", nargs="?", type=Path, const=README, metavar="FILE",
        help="write the tables between the markers of this file (benchmarks/README.md) instead of printing them",
    )  # fmt: skip
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw plots into this folder")
    parser.add_argument("--errors", action="store_true", help="only the pulls: do errors mean what they say?")
    args = parser.parse_args(argv)
    try:
        records = read_records(args.files or sorted(RESULTS.parent.glob("*.jsonl")))
        groups = grouped(r for r in records if not args.fields or r["field"] in args.fields)
        if not groups:
            raise InputError("no runs to report; make some with python -m benchmarks.run dense")
        text = errors_table(groups) if args.errors else markdown(groups)
        if args.into is None:
            print(text, end="")
        else:
            write_between_markers(args.into, text)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if args.plots is not None:
        print("\n".join(map(str, plot_all(groups, args.plots))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
