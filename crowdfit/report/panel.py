"""Images in the colours of a fixed palette: greys, a second scale, masked pixels, shades of orange for lines.

A panel holds the numbers of its colours, which are written as they are: nothing is resampled, and no colours are
searched for. It is much faster than a figure of matplotlib.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from crowdfit.report import canvas

RAMP = 112
"""Colours in each of the two scales of a palette."""

GREYS = "gray_r"
"""Name of the first scale, from white to black; the second is any other colour map of matplotlib."""

MASKED = 2 * RAMP
"""Number of the colour of masked pixels; the scales are the numbers before it."""

ORANGE = MASKED + 1
"""First of the shades of orange, for lines with smooth edges."""

_THROUGH = (0.0, 0.3, 0.6)
"""How much of the ground shows through the shades of orange."""

_GROUNDS = 8
"""Greys, from black to white, that show through the shades of orange."""

WEIGHTS = np.array([0.3, 0.59, 0.11])
"""Share of red, green and blue in the brightness of a colour."""

Extent = tuple[float, float, float, float]
"""Left, right, low and high end of a panel in pixel coordinates."""

F64 = NDArray[np.float64]


def darkness(colour: str) -> float:
    """Return how dark a colour is, 0 = white, 1 = black."""
    return 1 - float(WEIGHTS @ to_rgb(colour))


INK = round((RAMP - 1) * darkness(canvas.INK))
"""Number of the grey of words."""


@cache
def palette(second: str) -> NDArray[np.uint8]:
    """Return the 256 colours of a sheet, (256, 3); `second` is the name of the second scale."""
    orange, white = np.array(to_rgb(canvas.ORANGE)), np.ones(3)
    grounds = np.linspace(0, 1, _GROUNDS)
    colours = np.vstack(
        [
            np.linspace(1, 0, RAMP)[:, None] * white,
            colormaps[second](np.linspace(0, 1, RAMP))[:, :3],
            to_rgb(canvas.MASKED),
            *[orange + share * (grey * white - orange) for share in _THROUGH for grey in grounds],
        ]
    )
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = np.round(255 * colours)
    return table


@dataclass(frozen=True)
class Scale:
    """How values become colours.

    Parameters
    ----------
    norm : callable
        Turns an array of finite values into 0 (first colour) to 1 (last colour).
    cmap : str
        `GREYS`, or the name of the second scale.
    ticks : sequence of float
        Values with a tick on the colour bar.
    label : str
        Label of the colour bar.
    """

    norm: Callable[[NDArray[Any]], NDArray[Any]]
    cmap: str
    ticks: Sequence[float] | F64
    label: str

    @classmethod
    def linear(cls, low: float, high: float, cmap: str, n: int, label: str) -> "Scale":
        """Return a scale from `low` to `high` with `n` ticks; values outside are clipped."""
        ticks = np.linspace(low, high, n)
        return cls(lambda values: np.clip((values - low) / (high - low), 0, 1), cmap, ticks, label)

    def number(self, share: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers of the colours at shares of the scale, 0 = first, 1 = last."""
        numbers: NDArray[Any] = np.rint((RAMP - 1) * share) + (0 if self.cmap == GREYS else RAMP)
        return numbers

    def colours(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the number of the colour of each value; those that are not finite are masked."""
        good = np.isfinite(values)
        return np.where(good, self.number(self.norm(np.where(good, values, 0))), MASKED).astype(np.uint8)


class Panel:
    """An image in colour numbers, each pixel a square of dots; lines and marks can be drawn over it.

    Parameters
    ----------
    values : ndarray (ny, nx)
        The image, row 0 at the bottom; not finite where masked.
    extent : tuple of float
        Its ends in pixel coordinates: left, right, low, high.
    scale : Scale
        Its colours.
    long_side : float
        Longest side on the page (inches, 100 CSS pixels each).
    dots : int
        Longest side, at least about that many dots.

    Attributes
    ----------
    colours : ndarray (height, width) uint8
        Colour numbers of the dots, row 0 at the top.
    dpi : float
        Dots per inch.
    """

    def __init__(
        self, values: NDArray[Any], extent: Extent, scale: Scale, long_side: float, dots: int
    ) -> None:
        zoom = max(1, round(dots / max(values.shape)))
        self.dpi = max(values.shape) * zoom / long_side
        self.extent, self.scale = extent, scale
        self.colours = scale.colours(values[::-1]).repeat(zoom, axis=0).repeat(zoom, axis=1)

    def place(self, x: Any, y: Any) -> tuple[F64, F64]:
        """Return column and row, in dots from the upper left corner, of positions in pixel coordinates."""
        left, right, low, high = self.extent
        height, width = self.colours.shape
        return (
            (np.asarray(x) - left) * (width / (right - left)),
            (high - np.asarray(y)) * (height / (high - low)),
        )

    def mark(self, x: F64, y: F64, colour: int) -> None:
        """Draw a small cross at each position inside the panel, all of one colour number."""
        thick, length = max(1, round(0.8 * self.dpi / 72)), round(4.5 * self.dpi / 72)
        height, width = self.colours.shape
        column, row = self.place(x, y)
        inside = (column > 0) & (column < width) & (row > 0) & (row < height)
        for c, r in zip(column[inside], row[inside], strict=True):
            self.colours[_around(r, thick), _around(c, length)] = colour
            self.colours[_around(r, length), _around(c, thick)] = colour

    def draw_lines(self, x: F64, y: F64, points: float) -> None:
        """Draw orange lines: `x` and `y` (n, 2) are the ends of each in pixel coordinates, `points` its width."""
        fine = 3
        height, width = self.colours.shape
        mask = Pillow.new("L", (fine * width, fine * height))
        pen, thick = ImageDraw.Draw(mask), round(fine * points * self.dpi / 72)
        for line in fine * np.stack(self.place(x, y), axis=-1):
            pen.line(line.ravel().tolist(), 255, thick)
        self.cover(np.asarray(mask.reduce(fine)) / 255)

    def draw_level(self, values: NDArray[Any], level: float, points: float) -> None:
        """Draw the contour of an image at `level` in orange, interpolated between its pixels."""
        height, width = self.colours.shape
        image = Pillow.fromarray(values[::-1].astype(np.float32))
        smooth = np.asarray(image.resize((width, height), Pillow.Resampling.BILINEAR))
        slope = np.hypot(*np.gradient(smooth))
        distance = np.abs(smooth - level) / np.maximum(slope, np.finfo(np.float32).tiny)
        self.cover(np.clip(points * self.dpi / 144 + 0.5 - distance, 0, 1))

    def cover(self, share: NDArray[Any]) -> None:
        """Cover a share of each dot with orange."""
        rows, columns = np.nonzero(share > 0.2)
        ground = palette(self.scale.cmap)[self.colours[rows, columns]] @ WEIGHTS
        through = np.digitize(1 - share[rows, columns], (0.15, 0.45))
        self.colours[rows, columns] = ORANGE + _GROUNDS * through + (ground * _GROUNDS / 256).astype(int)


def _around(middle: float, length: int) -> slice:
    """Return the dots of a stroke of `length` about `middle`, cut at the first dot."""
    start = round(middle - length / 2)
    return slice(max(start, 0), max(start + length, 0))
