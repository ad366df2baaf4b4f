"""What all figures of the report share: look, pixel-exact axes for images, and encoding as PNG.

Figures are drawn dark on white. In dark mode the page inverts them and turns the hue back, so one picture
serves both; captions therefore speak of red and blue, never of black and white.
"""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image as Pillow

INK = "#24292f"
QUIET = "#6e7781"
BLUE = "#2b6cb0"
ORANGE = "#c2571a"
MASKED = "#c9b479"
"""Colour of unusable pixels: a sand that occurs in neither the grey nor the red-blue scale."""

PAGE_DPI = 200
"""Dots per inch of the figures; the page shows 100 per inch, so screens of double density stay sharp."""

_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")

_STYLE = {
    "text.usetex": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": "#d0d7de",
    "grid.linewidth": 0.5,
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
    figure = Figure(figsize=(width, height), dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


def encode(figure: Figure, palette: Pillow.Image | None = None) -> tuple[bytes, int, int]:
    """Draw a figure; return it as a 256-colour PNG with its width and height in dots.

    A palette of 256 colours is a third of the size of full colour and looks the same here.

    Parameters
    ----------
    figure : Figure
    palette : PIL.Image.Image or None
        The colours to use; None: chosen to cover those of the figure.
    """
    raw, (width, height) = FigureCanvasAgg(figure).print_to_buffer()  # type: ignore[no-untyped-call]
    pixels = np.frombuffer(raw, np.uint8).reshape(height, width, 4)[..., :3]
    full = Pillow.fromarray(np.ascontiguousarray(pixels))
    none, cover = Pillow.Dither.NONE, Pillow.Quantize.MAXCOVERAGE
    picture = (
        full.quantize(256, cover, dither=none)
        if palette is None
        else full.quantize(palette=palette, dither=none)
    )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue(), width, height


@cache
def image_palette() -> Pillow.Image:
    """Return the palette of image panels: greys, the red-blue scale, the masked colour, marks over greys.

    Fixed, because a palette made for each picture tints its greys and starves the ends of its scale.
    """
    levels = np.append(np.linspace(0, 0.97, 111), 1)  # a gap below white: Pillow compares rounded-down values
    greys, orange = levels[:, None] * np.ones(3), np.array(to_rgb(ORANGE))
    marks = [orange + share * (grey - orange) for share in (0, 0.3, 0.6) for grey in greys[::16]]
    colours = np.vstack([greys, colormaps["RdBu_r"](np.linspace(0, 1, 118))[:, :3], [to_rgb(MASKED)], *marks])
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = np.round(255 * colours)
    palette = Pillow.new("P", (1, 1))
    palette.putpalette(table.ravel().tolist())
    return palette


def finish(figure: Figure, name: str, alt: str, caption: str, palette: Pillow.Image | None = None) -> Picture:
    """Return `figure` as a picture of the page."""
    png, width, height = encode(figure, palette)
    scale = 100 / figure.dpi
    return Picture(name, png, round(width * scale), round(height * scale), alt, caption)


def empty(axes: Axes, text: str) -> None:
    """Say in the middle of an empty plot why there is nothing in it."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=QUIET, wrap=True)


def number(value: float) -> str:
    """Return a tick label with three digits and a true minus sign."""
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.2g}".split("e")
        return f"{mantissa} \N{MULTIPLICATION SIGN} 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")
