"""Image panels: the whole field, and close-ups of its densest, brightest and worst fitted places."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from crowdfit.exposure import Image
from crowdfit.frame import Frame
from crowdfit.report import canvas, pixels
from crowdfit.report.canvas import Picture
from crowdfit.report.pixels import Planes, Stretch
from crowdfit.report.places import Box, Place, box_around, places
from crowdfit.sources import Sources

CHI_LIMIT = 5.0
"""End of the red-blue scale, in sigma."""

LONG_SIDE = 5.0
"""Longest side of an image panel on the page (inches, 100 CSS pixels each)."""

MIN_DOTS = 1000
"""An image panel is enlarged by whole pixels to at least about this many dots."""

ZOOM_FWHM = 12
"""Side of a close-up, in FWHM."""

Extent = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scale:
    """How values become colours: normalisation, colour map, ticks and the label of the colour bar."""

    norm: Normalize
    cmap: Colormap
    ticks: Sequence[float] | NDArray[np.float64]
    label: str

    @classmethod
    def sky(cls, stretch: Stretch, unit: str) -> "Scale":
        """Return the grey asinh scale of image and model."""
        return cls(stretch.norm(), with_masked("gray_r"), stretch.ticks(), unit or "image unit")

    @classmethod
    def sigma(cls, limit: float = CHI_LIMIT) -> "Scale":
        """Return the red-blue scale, symmetric about zero."""
        ticks = np.linspace(-limit, limit, 5)
        return cls(Normalize(-limit, limit, clip=True), with_masked("RdBu_r"), ticks, "sigma")


def with_masked(name: str) -> Colormap:
    """Return a colour map that draws NaN in the colour of masked pixels."""
    return colormaps[name].with_extremes(bad=canvas.MASKED)


def field_pictures(frame: Frame, planes: Planes, left: Image) -> list[Picture]:
    """Return image, model, residual and significance of the whole field.

    Parameters
    ----------
    frame : Frame
        The last state of the image.
    planes : Planes
        Its pixels.
    left : ndarray (ny, nx) float32
        PSF-matched significance of the residual (sigma).
    """
    factor = pixels.block_factor(planes.data.shape)
    good, unit = planes.good, frame.exposure.unit
    stretch = pixels.sky_stretch(planes.data, good)
    sky, sigma = Scale.sky(stretch, unit), Scale.sigma()
    blocks = f" Each point is a block of {factor} x {factor} pixels." if factor > 1 else ""
    panels = (
        (
            "image",
            "Image",
            pixels.block_mean(planes.data, good, factor),
            sky,
            "The data as they were fitted." + blocks,
        ),
        (
            "model",
            "Model: sky + stars",
            pixels.block_mean(planes.model, np.ones_like(good), factor),
            sky,
            "Sky plus every star, on the scale of the image: what is in one should be in the other.",
        ),
        (
            "residual",
            "Residual / error",
            pixels.block_noise(planes.resid, planes.ivar, factor),
            sigma,
            "Image minus model, in units of the error. A good fit leaves noise away from saturated cores; "
            "rings or paired red and blue lobes at bright stars mean a wrong PSF or position, broad patches "
            "a wrong sky.",
        ),
        (
            "significance",
            "Significance of what is left",
            pixels.block_extreme(left, good, factor),
            sigma,
            "The residual filtered with the PSF, in sigma: strong red points would be stars not yet in the "
            "list." + (" Each point is the most extreme pixel of its block." if factor > 1 else ""),
        ),
    )
    return [_field_picture(*panel, factor) for panel in panels]


def _field_picture(name: str, title: str, values: Image, scale: Scale, caption: str, factor: int) -> Picture:
    ny, nx = values.shape
    extent = (-0.5, nx * factor - 0.5, -0.5, ny * factor - 0.5)
    figure, axes = exact_axes(values.shape)
    show(axes, values, extent, scale)
    axes.set(title=title, xlabel="x (pix)", ylabel="y (pix)")
    add_bar(figure, axes, scale)
    return canvas.finish(figure, name, f"{title} of the whole field.", caption, canvas.image_palette())


def exact_axes(
    shape: tuple[int, ...], long_side: float = LONG_SIDE, *, left: float = 0.62, projection: Any = None
) -> tuple[Figure, Axes]:
    """Return a figure whose axes cover a whole number of dots per pixel, so that no pixel is resampled.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns to be shown.
    long_side : float
        Longest side of the axes (inches).
    left : float
        Room to the left of the axes (inches).
    projection : WCS or None
        Given to matplotlib; a WCS makes axes in sky coordinates.
    """
    zoom = max(1, round(MIN_DOTS / max(shape)))
    dpi = max(shape) * zoom / long_side
    height, width = (n * zoom / dpi for n in shape)
    bottom, top, right = 0.5, 0.32, 0.95
    total = (left + max(width, 1.8) + right, bottom + max(height, 0.9) + top)
    figure = canvas.new_figure(*total, dpi=dpi)
    dots = figure.bbox.width, figure.bbox.height
    corner = round(left * dpi) / dots[0], round(bottom * dpi) / dots[1]
    size = shape[1] * zoom / dots[0], shape[0] * zoom / dots[1]
    return figure, figure.add_axes((*corner, *size), projection=projection)


def show(axes: Axes, values: NDArray[np.floating], extent: Extent, scale: Scale) -> None:
    """Draw an image, row 0 at the bottom, in the pixel coordinates of `extent`."""
    axes.imshow(
        np.ma.masked_invalid(values),
        origin="lower",
        extent=extent,
        interpolation="nearest",
        norm=scale.norm,
        cmap=scale.cmap,
        aspect="auto",
    )
    axes.spines[:].set_visible(True)
    place, figure = axes.get_position(), axes.figure
    for axis, length in (
        (axes.xaxis, place.width * figure.bbox.width),
        (axes.yaxis, place.height * figure.bbox.height),
    ):
        axis.set_major_locator(MaxNLocator(int(np.clip(length / figure.dpi / 0.4, 1, 6)), integer=True))


def add_bar(figure: Figure, axes: Axes, scale: Scale, gap: float = 0.08, width: float = 0.11) -> None:
    """Add a colour bar to the right of `axes`, `gap` and `width` in inches."""
    place = axes.get_position()
    wide, high = figure.get_size_inches()
    bar = figure.add_axes((place.x1 + gap / wide, place.y0, width / wide, max(place.height, 0.9 / high)))
    colours = figure.colorbar(ScalarMappable(scale.norm, scale.cmap), cax=bar, ticks=list(scale.ticks))
    colours.ax.set_yticklabels([canvas.number(value) for value in scale.ticks])
    colours.ax.minorticks_off()
    colours.set_label(scale.label)
    colours.outline.set_linewidth(0.5)


def zoom_pictures(frame: Frame, sources: Sources, planes: Planes, left: Image) -> list[Picture]:
    """Return close-ups of image, model and residual; `left` is the significance of the residual (sigma)."""
    shape = frame.exposure.shape
    side = min(max(ZOOM_FWHM * frame.psf.fwhm, 30), 200, max(shape) / 2.5)
    sky = pixels.sky_stretch(planes.data, planes.good)
    chosen = places(sources, np.where(planes.good, left, np.float32(0)), side)
    return [
        _zoom(i, place, box_around(place, side, shape), planes, sources, sky)
        for i, place in enumerate(chosen)
    ]


def _zoom(i: int, place: Place, box: Box, planes: Planes, sources: Sources, sky: Stretch) -> Picture:
    figure = trio(planes, box, sky, sources=sources)
    rows, columns = box
    alt = f"Image, model and residual in a box of {columns.stop - columns.start} pixels at a {place.why}."
    caption = (
        f"{place.why[0].upper()}{place.why[1:]}, x = {place.x:.0f}, y = {place.y:.0f}. "
        "Crosses mark fitted sources."
    )
    return canvas.finish(figure, f"zoom-{i + 1}", alt, caption, canvas.image_palette())


def trio(
    planes: Planes,
    box: Box,
    sky: Stretch,
    *,
    sources: Sources | None = None,
    side: float = 2.9,
    dots: int = 580,
) -> Figure:
    """Return image, model and residual of a box side by side.

    Parameters
    ----------
    planes : Planes
    box : tuple of slice
        Rows and columns.
    sky : Stretch
        Stretch of the whole image; its upper end is replaced by that of the box.
    sources : Sources or None
        Marked when given.
    side : float
        Longest side of each panel (inches).
    dots : int
        Longest side of each panel, at least about that many dots.
    """
    cut = planes.cut(box)
    ny, nx = cut.data.shape
    extent = (box[1].start - 0.5, box[1].stop - 0.5, box[0].start - 0.5, box[0].stop - 0.5)
    data, chi = (np.where(cut.good, plane, np.nan) for plane in (cut.data, cut.chi))
    grey = Scale.sky(pixels.box_stretch(np.stack([data, cut.model]), sky), "")
    zoom = max(1, round(dots / max(ny, nx)))
    dpi = max(ny, nx) * zoom / side
    wide, high, left, bottom = nx * zoom / dpi, ny * zoom / dpi, 0.45, 0.3
    figure = canvas.new_figure(left + 3 * wide + 2 * 0.12 + 0.84, bottom + high + 0.27, dpi=dpi)
    panels = (("Image", data, grey), ("Model", cut.model, grey), ("Residual / error", chi, Scale.sigma()))
    for i, (title, values, scale) in enumerate(panels):
        corner = (
            round((left + i * (wide + 0.12)) * dpi) / figure.bbox.width,
            round(bottom * dpi) / figure.bbox.height,
        )
        axes = figure.add_axes((*corner, nx * zoom / figure.bbox.width, ny * zoom / figure.bbox.height))
        show(axes, values, extent, scale)
        axes.set_title(title)
        axes.tick_params(labelleft=i == 0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, prune="both"))
        if sources is not None and i != 1:
            _mark(axes, sources, extent, canvas.ORANGE if i == 0 else canvas.INK)
    add_bar(figure, axes, scale)
    return figure


def _mark(axes: Axes, sources: Sources, extent: Extent, colour: str) -> None:
    """Mark the sources inside the axes with small crosses."""
    left, right, low, high = extent
    near = (sources.x > left) & (sources.x < right) & (sources.y > low) & (sources.y < high)
    axes.plot(sources.x[near], sources.y[near], "+", color=colour, ms=4.5, mew=0.8, alpha=0.9)
    axes.set(xlim=(left, right), ylim=(low, high))
