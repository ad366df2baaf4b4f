"""Plots of benchmark runs: figures by S/N, by density, against time, and along the density ladder."""

import re
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.groups import DENSITY_LABELS, LIMIT, SNR_LABELS, Group, by_density, fact, rank, scored


def plot_all(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Draw the plots of every field with truth into a folder and return their files.

    Parameters
    ----------
    groups : sequence of Group
        What to draw.
    folder : Path
        Made if missing. `FIELD_snr.png`: F1 and scatter by S/N; `FIELD_time.png`: F1 and scatter against wall
        time; `FIELD_density.png`: median and width of the pulls by density; `ladder.png`: F1, scatter and time
        against pixels per star, when rungs of the ladder are there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    usable = [group for group in groups if group.is_scored and not group.failure]
    written = []
    for field in dict.fromkeys(group.field for group in usable):
        chosen = [group for group in usable if group.field == field]
        for kind, draw in (("snr", plot_snr), ("time", plot_time), ("density", plot_density)):
            written.append(_save(draw(chosen), folder / f"{field}_{kind}.png", field))
    if rungs := [group for group in usable if _pixels(group)]:
        written.append(_save(plot_ladder(rungs), folder / "ladder.png", "density ladder"))
    return written


def _save(figure: Figure, path: Path, title: str) -> Path:
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    return path


def _figure(n_panels: int) -> tuple[Figure, list[Any]]:
    """Return a figure with so many panels side by side."""
    figure = Figure(figsize=(4.6 * n_panels, 3.8), layout="constrained")
    return figure, [figure.add_subplot(1, n_panels, number + 1) for number in range(n_panels)]


def _style(code: str) -> dict[str, Any]:
    """Return how a code is drawn: the limit black and dashed, us thick."""
    if code == LIMIT:
        return {"color": "black", "linestyle": "--", "marker": "o", "markersize": 3}
    return {"linewidth": 2.5 if rank(code) == 1 else 1.2, "marker": "o", "markersize": 4}


def _label(group: Group) -> str:
    return group.name + (f", {group.threads} threads" if group.threads else "")


def plot_snr(groups: Sequence[Group]) -> Figure:
    """Return F1 and flux scatter by S/N bin, one line for each code."""
    figure, panels = _figure(2)
    shown = (("f1", "F1", "linear"), ("scatter", "flux scatter", "log"))
    for panel, (name, title, scale) in zip(panels, shown, strict=True):
        for group in groups:
            values = [group.median(scored(name, label)) for label in SNR_LABELS]
            panel.plot(range(len(values)), values, label=_label(group), **_style(group.code))
        panel.set(xlabel="S/N", ylabel=title, yscale=scale)
        panel.set_xticks(range(len(SNR_LABELS)), SNR_LABELS)
    panels[0].legend(fontsize=7)
    return figure


def plot_time(groups: Sequence[Group]) -> Figure:
    """Return F1 and flux scatter against wall time; the limit, which takes none, is a line."""
    figure, panels = _figure(2)
    values = (("F1, S/N > 10", scored("f1_snr10")), ("scatter, S/N 50-200", scored("scatter", "50-200")))
    for panel, (title, value) in zip(panels, values, strict=True):
        for group in groups:
            seconds, height = group.median(fact("wall_s")), group.median(value)
            if isnan(seconds):
                panel.axhline(height, label=_label(group), color="black", linestyle="--")
            else:
                panel.plot([seconds], [height], label=_label(group), **_style(group.code))
        panel.set(xlabel="wall time (s)", ylabel=title, xscale="log")
    panels[0].legend(fontsize=7)
    return figure


def plot_density(groups: Sequence[Group]) -> Figure:
    """Return median and width of the pulls by local density, stars above S/N 10."""
    figure, panels = _figure(2)
    shown = (("pull_med", "pull, median"), ("pull_mad", "pull, width"))
    for panel, (name, title) in zip(panels, shown, strict=True):
        for group in groups:
            values = [group.median(by_density(name, label)) for label in DENSITY_LABELS]
            panel.plot(range(len(values)), values, label=_label(group), **_style(group.code))
        panel.axhline(float(name == "pull_mad"), color="grey", linewidth=0.8)
        panel.set(xlabel="stars per square FWHM", ylabel=title)
        panel.set_xticks(range(len(DENSITY_LABELS)), DENSITY_LABELS, rotation=40)
    panels[0].legend(fontsize=7)
    return figure


def _pixels(group: Group) -> int:
    """Return the pixels per star of a rung of the ladder, 0 for other fields."""
    found = re.fullmatch(r"ladder(\d+)", group.field)
    return int(found[1]) if found else 0


def plot_ladder(groups: Sequence[Group]) -> Figure:
    """Return F1, flux scatter and wall time against pixels per star."""
    figure, panels = _figure(3)
    values = (
        ("F1, S/N > 10", scored("f1_snr10"), "linear"),
        ("scatter, S/N 50-200", scored("scatter", "50-200"), "log"),
        ("wall time (s)", fact("wall_s"), "log"),
    )
    for panel, (title, value, scale) in zip(panels, values, strict=True):
        for label in dict.fromkeys(map(_label, groups)):
            chosen = sorted((g for g in groups if _label(g) == label), key=_pixels)
            heights = [group.median(value) for group in chosen]
            panel.plot(list(map(_pixels, chosen)), heights, label=label, **_style(chosen[0].code))
        panel.set(xlabel="pixels per star", ylabel=title, xscale="log", yscale=scale)
        panel.invert_xaxis()
    panels[0].legend(fontsize=7)
    return figure
