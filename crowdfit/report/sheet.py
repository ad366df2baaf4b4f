"""Sheets of image panels with frames, ticks, words and colour bars, drawn dot by dot."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageChops, ImageDraw

from crowdfit.report import canvas
from crowdfit.report.canvas import Picture
from crowdfit.report.panel import GREYS, INK, WEIGHTS, Panel, Scale, darkness, palette

_LINE = 0.7
"""Width of frames and ticks (points)."""

_BAR, _BAR_GAP, _BAR_HEIGHT = 0.11, 0.08, 0.9
"""Width of a colour bar, its distance from the panel, its least height (inches)."""

_SPACING, _CLOSE = 0.4, 0.2
"""Distance that ticks should have, and distance at which numbers would meet on a narrow panel (inches)."""

_LEFT, _RIGHT, _BOTTOM, _TOP = 0.62, 0.95, 0.5, 0.32
"""Room around a single panel (inches); that at the sides grows where numbers are long."""

_EDGE = 0.04
"""Least room between a word and the edge of the sheet (inches)."""

_QUIET = round(255 * darkness(canvas.QUIET) / darkness(canvas.INK))
"""Ink of frames and ticks; words have 255."""

Corner = tuple[int, int]
"""Left and upper end of a panel on a sheet (dots)."""


def ticks(
    panel: Panel, most: int = 6, *, prune: Literal["both"] | None = None
) -> tuple[list[float], list[float]]:
    """Return round pixel coordinates in x and y for the ticks of a panel, with at most `most` steps.

    With `prune`, the outermost are left out where their numbers might meet those of a panel beside.
    """
    left, right, low, high = panel.extent
    height, width = (side / panel.dpi for side in panel.colours.shape)
    chosen = []
    for start, stop, length in ((left, right, width), (low, high, height)):
        steps = int(np.clip(length / _SPACING, 1, most))
        values = MaxNLocator(steps, integer=True, prune=prune).tick_values(start, stop)
        inside = [float(value) for value in values if start <= value <= stop]
        is_close = len(inside) > 1 and (inside[1] - inside[0]) * length < _CLOSE * (stop - start)
        chosen.append(inside[:1] if is_close else inside)
    return chosen[0], chosen[1]


def room(numbers: Iterable[float], dpi: float) -> float:
    """Return the room (dots) from an axis with these numbers to where a label may begin."""
    font = canvas.font(canvas.SIZE, dpi)
    longest = max((font.getlength(canvas.number(value)) for value in numbers), default=0)
    return (canvas.TICK + 2 * canvas.GAP) * dpi / 72 + longest


def _height(dpi: float) -> int:
    """Return the height of a line of words (dots)."""
    return sum(canvas.font(canvas.SIZE, dpi).getmetrics())


class Sheet:
    """A white sheet for panels and words; places are in dots from its upper left corner.

    Parameters
    ----------
    width, height : float
        Its size (dots; rounded).
    dpi : float
        Dots per inch.
    """

    def __init__(self, width: float, height: float, dpi: float) -> None:
        self.dpi, self._point = dpi, dpi / 72
        self._ink = Pillow.new("L", (round(width), round(height)))
        self._pen = ImageDraw.Draw(self._ink)
        self._line = max(1, round(_LINE * self._point))
        self._areas: list[tuple[Corner, NDArray[np.uint8]]] = []
        self._second = "RdBu_r"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height (dots)."""
        return self._ink.size

    def write(self, x: float, y: float, words: str, anchor: str, *, title: bool = False) -> None:
        """Write words; `anchor` is Pillow's name for the part of them that is at `x`, `y`."""
        font = canvas.font(canvas.TITLE if title else canvas.SIZE, self.dpi, bold=title)
        self._pen.text((x, y), words, 255, font, anchor)

    def write_up(self, x: float, y: float, words: str) -> None:
        """Write words from bottom to top, the left side of their line at `x` and their middle at `y`."""
        font = canvas.font(canvas.SIZE, self.dpi)
        line = Pillow.new("L", (round(font.getlength(words)), _height(self.dpi)))
        ImageDraw.Draw(line).text((0, 0), words, 255, font)
        self._ink.paste(line.transpose(Pillow.Transpose.ROTATE_90), (round(x), round(y - line.width / 2)))

    def show(
        self,
        panel: Panel,
        corner: Corner,
        title: str,
        columns: Iterable[float] = (),
        rows: Iterable[float] = (),
    ) -> None:
        """Show a panel in a frame.

        Parameters
        ----------
        panel : Panel
        corner : tuple of int
            Where its upper left corner is to be.
        title : str
            Written above it.
        columns, rows : iterable of float
            Pixel coordinates that get a tick with a number, below the panel and to its left.
        """
        left, top = corner
        bottom, tick = top + len(panel.colours), canvas.TICK * self._point
        away, digit = (canvas.TICK + canvas.GAP) * self._point, canvas.DIGIT * self._point
        self._put(panel.colours, panel.scale, corner)
        self.write(left, top - 6 * self._point, title, "ls", title=True)
        for value in columns:
            x = left + float(panel.place(value, 0)[0])
            self._stroke(x - self._line / 2, bottom, self._line, tick)
            self.write(x, bottom + away + digit, canvas.number(value), "ms")
        for value in rows:
            y = top + float(panel.place(0, value)[1])
            self._stroke(left - tick, y - self._line / 2, tick, self._line)
            self.write(left - away, y + digit / 2, canvas.number(value), "rs")

    def show_bar(self, panel: Panel, corner: Corner) -> None:
        """Show the colour bar of a panel to its right, with ticks and a label."""
        scale, (height, width) = panel.scale, panel.colours.shape
        wide, high = round(_BAR * self.dpi), max(height, round(_BAR_HEIGHT * self.dpi))
        left, bottom = corner[0] + width + round(_BAR_GAP * self.dpi), corner[1] + height
        right, tick = left + wide, canvas.TICK * self._point
        away, digit = tick + canvas.GAP * self._point, canvas.DIGIT * self._point
        colours = scale.number(np.linspace(1, 0, high))
        self._put(np.repeat(colours[:, None], wide, axis=1), scale, (left, bottom - high))
        for value, share in zip(scale.ticks, scale.norm(np.asarray(scale.ticks)), strict=True):
            y = bottom - share * high
            self._stroke(right, y - self._line / 2, tick, self._line)
            self.write(right + away, y + digit / 2, canvas.number(value), "ls")
        self.write_up(right + room(scale.ticks, self.dpi), bottom - high / 2, scale.label)

    def cover(self, panel: Panel, corner: Corner, drawing: Pillow.Image) -> None:
        """Put a drawing on white over the sheet, of the same size: ink, and orange lines on a panel of it."""
        (left, top), (height, width) = corner, panel.colours.shape
        dark = 1 - np.asarray(drawing) @ (WEIGHTS / 255)
        panel.cover(dark[top : top + height, left : left + width] / darkness(canvas.ORANGE))
        ink = Pillow.fromarray(np.clip(255 * dark / darkness(canvas.INK), 0, 255).astype(np.uint8))
        self._ink.paste(ImageChops.lighter(self._ink, ink))

    def png(self) -> bytes:
        """Return the sheet as a PNG of 256 colours."""
        of_ink = np.rint(np.linspace(0, INK, 256)).astype(np.uint8)
        colours = of_ink[np.asarray(self._ink)]
        for (left, top), area in self._areas:
            colours[top : top + area.shape[0], left : left + area.shape[1]] = area
        picture = Pillow.fromarray(colours)
        picture.putpalette(palette(self._second).tobytes())
        return canvas.png(picture)

    def finish(self, name: str, alt: str, caption: str) -> Picture:
        """Return the sheet as a picture of the page."""
        width, height = (round(side * 100 / self.dpi) for side in self.size)
        return Picture(name, self.png(), width, height, alt, caption)

    def _put(self, colours: NDArray[Any], scale: Scale, corner: Corner) -> None:
        """Put colours on the sheet, in a frame around them."""
        (left, top), (height, width), line = corner, colours.shape, self._line
        self._areas.append((corner, colours))
        if scale.cmap != GREYS:
            self._second = scale.cmap
        self._stroke(left - line, top - line, width + 2 * line, height + 2 * line)

    def _stroke(self, x: float, y: float, width: float, height: float) -> None:
        """Fill a rectangle with the ink of frames."""
        left, top = round(x), round(y)
        self._pen.rectangle((left, top, left + round(width) - 1, top + round(height) - 1), _QUIET)


def around(panel: Panel, left: float) -> tuple[Sheet, Corner]:
    """Return an empty sheet for one panel and its colour bar, and the corner of the panel on it.

    Parameters
    ----------
    panel : Panel
    left : float
        Room for the numbers and the label to its left (dots).
    """
    dpi, (height, width) = panel.dpi, panel.colours.shape
    above = _TOP * dpi + max(0, _BAR_HEIGHT * dpi - height)
    beside = (_BAR_GAP + _BAR + _EDGE) * dpi + room(panel.scale.ticks, dpi) + _height(dpi)
    right = max(_RIGHT * dpi, beside)
    sheet = Sheet(left + max(width, 1.8 * dpi) + right, above + height + _BOTTOM * dpi, dpi)
    return sheet, (round(left), round(above))


def single(panel: Panel, title: str, x: str, y: str) -> Sheet:
    """Return a sheet with a panel and its colour bar; `x` and `y` are the labels of its axes."""
    dpi, (height, width) = panel.dpi, panel.colours.shape
    columns, rows = ticks(panel)
    away = room(rows, dpi) + _height(dpi)
    sheet, (left, top) = around(panel, max(_LEFT * dpi, away + _EDGE * dpi))
    sheet.show(panel, (left, top), title, columns, rows)
    if len(panel.scale.ticks):
        sheet.show_bar(panel, (left, top))
    sheet.write(left + width / 2, top + height + canvas.BELOW * dpi / 72, x, "ms")
    sheet.write_up(left - away, top + height / 2, y)
    return sheet
