"""Plots of numbers: their grid, ticks, numbers and labels, put in place by arithmetic.

The axis of matplotlib measures its words several times to find room for them and makes five objects of each
tick, which takes longer than all the rest of a plot. Here an axis is a few objects in known places.
"""

import math
from collections.abc import Iterable
from functools import cache, partial
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image as Pillow

from crowdfit.report import canvas
from crowdfit.report.canvas import Picture

HUES = (canvas.BLUE, canvas.ORANGE, "#4c8c4a", "#8661ad", "#b59a2e", "#5f9ea0", "#9a9fa6")
"""Colours that are told apart."""

DENSITY = LinearSegmentedColormap.from_list("density", ["#d3e2f2", "#6fa0d0", canvas.BLUE, "#163f73"])
"""Colours of the density of points."""

LINE: Final = 1.8 * canvas.SIZE / 72
"""Room for a label along an axis (inches)."""

RIGHT, BOTTOM, TOP = 0.16, 0.5, 0.32
"""Room beside, below and above the axes of a figure (inches)."""

AWAY: Final = (canvas.TICK + canvas.GAP) / 72
"""Distance of numbers from their axis (inches)."""

SPACING: Final = 0.25
"""Least distance of numbered powers of ten (inches)."""

Numbers = dict[float, str]
"""Values with a tick, and the text of their numbers."""


@cache
def palette() -> Pillow.Image:
    """Return the colours of plots: those of lines and words in shades down to white, and the scale of densities.

    Fixed, because to choose the best for each plot takes as long as to draw it.
    """
    white = np.ones(3)
    colours = [white]
    shades = {canvas.INK: 24, canvas.QUIET: 6, canvas.GRID: 4} | dict.fromkeys(HUES, 10)
    for name, n in (shades | {canvas.BLUE: 20, canvas.ORANGE: 20}).items():
        colours += [share * np.array(to_rgb(name)) + (1 - share) * white for share in np.arange(1, n + 1) / n]
    table = np.full((256, 3), 255, np.uint8)
    numbers = np.round(255 * np.vstack([colours, DENSITY(np.linspace(0, 1, 64))[:, :3]]))
    table[: len(numbers)] = numbers
    picture = Pillow.new("P", (1, 1))
    picture.putpalette(table.tobytes())
    return picture


def encode(figure: Figure) -> tuple[bytes, int, int]:
    """Draw a figure; return it as a PNG of 256 colours with its width and height in dots."""
    few = canvas.draw(figure).quantize(palette=palette(), dither=Pillow.Dither.NONE)
    return canvas.png(few), *few.size


def finish(figure: Figure, name: str, alt: str, caption: str) -> Picture:
    """Lay out `figure` and return it as a picture of the page."""
    lay_out(figure)
    png, width, height = encode(figure)
    scale = 100 / figure.dpi
    return Picture(name, png, round(width * scale), round(height * scale), alt, caption)


def new_plot() -> tuple[Figure, Axes]:
    """Return an empty figure with one pair of axes."""
    figure = canvas.new_figure(5.4, 3.5)
    return figure, figure.subplots()


def empty(axes: Axes, text: str) -> None:
    """Say in the middle of an empty plot why there is nothing in it."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=canvas.QUIET)


def lay_out(figure: Figure) -> None:
    """Give the axes of a figure their room, grid, ticks, numbers and labels, when all else is drawn.

    Axes one below the other share the horizontal axis, which is numbered below the last of them.
    """
    width, height = figure.get_size_inches()
    columns = numbers(figure.axes[-1].xaxis, width)
    rows = [numbers(axes.yaxis, axes.get_position().height * height) for axes in figure.axes]
    label = AWAY + _longest(text for row in rows for text in row.values()) + canvas.GAP / 72
    left, right = label + LINE, max(RIGHT, _longest(columns.values()) / 2)
    figure.subplots_adjust(left / width, BOTTOM / height, 1 - right / width, 1 - TOP / height)
    for axes, row in zip(figure.axes, rows, strict=True):
        _draw_ticks(axes, columns, row)
        wide, write = axes.get_position().width * width, partial(axes.text, ha="right")
        for y, text in row.items():
            write(-AWAY / wide, y, text, va="center_baseline", transform=axes.get_yaxis_transform())
        write(-label / wide, 0.5, axes.get_ylabel(), va="center", rotation=90, transform=axes.transAxes)
    high, write = axes.get_position().height * height, partial(axes.text, ha="center")
    for x, text in columns.items():
        write(x, -(AWAY + canvas.DIGIT / 72) / high, text, transform=axes.get_xaxis_transform())
    write(0.5, -canvas.BELOW / 72 / high, axes.get_xlabel(), transform=axes.transAxes)


def _longest(texts: Iterable[str]) -> float:
    """Return the length of the longest text (inches)."""
    font = canvas.font(canvas.SIZE, canvas.PAGE_DPI)
    return max(map(font.getlength, texts), default=0) / canvas.PAGE_DPI


def _draw_ticks(axes: Axes, columns: Numbers, rows: Numbers) -> None:
    """Draw grid and ticks in place of the axes' own; where all powers of ten are numbered, small ticks between."""
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(False)
    across, along = axes.get_xaxis_transform(), axes.get_yaxis_transform()
    grid = partial(LineCollection, colors=canvas.GRID, linewidths=0.5, zorder=0.5)
    axes.add_artist(grid([((x, 0), (x, 1)) for x in columns], transform=across))
    axes.add_artist(grid([((0, y), (1, y)) for y in rows], transform=along))
    is_log, limits = axes.get_yscale() == "log", axes.get_ylim()
    small = _between(*limits) if is_log and len(rows) >= len(_between(*limits, [1])) else []
    zeros = [0.0] * max(len(columns), len(rows), len(small))
    for ticks in (  # markers 3 and 0 are strokes down and to the left
        Line2D(list(columns), zeros[: len(columns)], marker=3, markersize=canvas.TICK, transform=across),
        Line2D(zeros[: len(rows)], list(rows), marker=0, markersize=canvas.TICK, transform=along),
        Line2D(zeros[: len(small)], small, marker=0, markersize=canvas.TICK / 2, transform=along),
    ):
        ticks.set(linestyle="none", color=canvas.QUIET, markeredgewidth=0.7, clip_on=False)
        axes.add_artist(ticks)


def numbers(axis: Axis, length: float) -> Numbers:
    """Return the ticks of an axis of a length in inches."""
    low, high = sorted(axis.get_view_interval())
    if axis.get_scale() == "log":
        return log_numbers(low, high, length)
    values = _inside(axis.get_major_locator().tick_values(low, high), low, high)
    return dict(zip(values, axis.get_major_formatter().format_ticks(values), strict=True))


def log_numbers(low: float, high: float, length: float) -> Numbers:
    """Return the ticks of a logarithmic axis from `low` to `high`: powers of ten, or others where these are few."""
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    if len(powers) > 1:
        step = math.ceil(len(powers) * SPACING / length)
        return {10.0**power: canvas.power(power) for power in powers if power % step == 0}
    values = _between(low, high, (1, 2, 3, 5))
    if len(values) < 2:
        values = _inside(MaxNLocator(4).tick_values(low, high), low, high)
    return {value: canvas.number(value) for value in values}


def _between(low: float, high: float, digits: Iterable[int] = range(2, 10)) -> list[float]:
    """Return the multiples of the powers of ten by `digits` from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    values = [digit * 10.0**power for power in powers for digit in digits]
    return [value for value in values if low <= value <= high]


def _inside(values: Iterable[float], low: float, high: float) -> list[float]:
    """Return the values from `low` to `high`; those at the ends may be off by rounding."""
    slack = 1e-9 * (high - low)
    return [float(value) for value in values if low - slack <= value <= high + slack]
