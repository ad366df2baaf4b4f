"""What all figures of the report share: colours, sizes, font, numbers, and encoding as PNG.

Figures are drawn dark on white. In dark mode the page inverts them and turns the hue back, so one picture
serves both; captions therefore speak of red and blue, never of black and white.
"""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image as Pillow
from PIL import ImageFont

INK = "#24292f"
QUIET = "#6e7781"
BLUE = "#2b6cb0"
ORANGE = "#c2571a"
GRID = "#d0d7de"
MASKED = "#c9b479"
"""Colour of unusable pixels: a sand that occurs in neither the grey nor the red-blue scale."""

PAGE_DPI = 200
"""Dots per inch of the figures; the page shows 100 per inch, so screens of double density stay sharp."""

SIZE, TITLE = 8.5, 9.5
"""Sizes of words (points)."""

DIGIT = 0.73 * SIZE
"""Height of a digit (points)."""

TICK, GAP = 3.5, 3.5
"""Length of a tick, and room between it, its number and a label (points)."""

BELOW = 25.5
"""Distance from the lower axis to the bottom of its label (points)."""

_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")

_STYLE = {
    "text.usetex": False,
    "font.family": "DejaVu Sans",
    "font.size": SIZE,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.titlesize": TITLE,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titley": 1.0,  # a number keeps matplotlib from looking for a place
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-9, 9),
    "axes.grid": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Picture:
    """One figure of the page.

    Parameters
    ----------
    name : str
        Anchor of the figure in the page.
    png : bytes
        The encoded picture.
    width, height : int
        Size at which the page shows it (CSS pixels).
    alt : str
        The picture in words, for those who cannot see it.
    caption : str
        What is drawn and what to look for.
    """

    name: str
    png: bytes
    width: int
    height: int
    alt: str
    caption: str

    @property
    def src(self) -> str:
        """The picture as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@contextmanager
def look() -> Iterator[None]:
    """Draw with the report's own settings, whatever the user's matplotlibrc says."""
    with style.context(["default", _STYLE]):
        yield


def new_figure(width: float, height: float, dpi: float = PAGE_DPI) -> Figure:
    """Return an empty figure of `width` x `height` inches with an Agg canvas."""
    slack = 1e-3 / dpi  # Agg cuts a size that falls short of a whole dot by rounding
    figure = Figure(figsize=(width + slack, height + slack), dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


@cache
def font(points: float, dpi: float, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font of the figures for Pillow."""
    path = findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal"))
    return ImageFont.truetype(path, round(points * dpi / 72), layout_engine=ImageFont.Layout.BASIC)


def draw(figure: Figure) -> Pillow.Image:
    """Return a figure as red, green and blue."""
    raw, size = FigureCanvasAgg(figure).print_to_buffer()  # type: ignore[no-untyped-call]
    return Pillow.frombuffer("RGBA", size, raw, "raw", "RGBA", 0, 1).convert("RGB")


def png(picture: Pillow.Image) -> bytes:
    """Return a picture encoded as PNG; level 6, the usual one, takes up to twice the time and saves 3 %."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=5)
    return buffer.getvalue()


def number(value: float) -> str:
    """Return a tick label with three digits and a true minus sign."""
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')} \N{MULTIPLICATION SIGN} {power(int(exponent))}"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def power(exponent: int) -> str:
    """Return a power of ten as text."""
    return "10" + str(exponent).translate(_SUPERSCRIPT)
