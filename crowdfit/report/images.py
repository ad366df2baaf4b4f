"""Image panels: the whole field, and close-ups of its densest, brightest and worst fitted places."""

from typing import Final

import numpy as np

from crowdfit.exposure import Image
from crowdfit.frame import Frame
from crowdfit.photometry.segments import Segments
from crowdfit.report import panel as panels
from crowdfit.report import pixels
from crowdfit.report.canvas import Picture
from crowdfit.report.panel import GREYS, Panel, Scale
from crowdfit.report.pixels import Planes, Stretch
from crowdfit.report.places import Box, Place, box_around, places
from crowdfit.report.sheet import Sheet, room, single, ticks
from crowdfit.sources import Sources

CHI_LIMIT: Final = 5.0
"""End of the red-blue scale, in sigma."""

LONG_SIDE: Final = 5.0
"""Longest side of an image of the whole field on the page (inches, 100 CSS pixels each)."""

DOTS: Final = 1000
"""It is enlarged by whole pixels to at least about this many dots."""

ZOOM_FWHM: Final = 12
"""Side of a close-up, in FWHM."""


def sky_scale(stretch: Stretch, unit: str) -> Scale:
    """Return the grey asinh scale of image and model."""
    return Scale(stretch.norm, GREYS, stretch.ticks(), unit or "image unit")


def sigma_scale() -> Scale:
    """Return the red-blue scale, symmetric about zero."""
    return Scale.linear(-CHI_LIMIT, CHI_LIMIT, "RdBu_r", 5, "sigma")


def whole(values: Image, factor: int, scale: Scale) -> Panel:
    """Return an image of the whole field, in blocks of `factor` x `factor` pixels, as a panel."""
    ny, nx = values.shape
    extent = (-0.5, nx * factor - 0.5, -0.5, ny * factor - 0.5)
    return Panel(values, extent, scale, LONG_SIDE, DOTS)


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
    sky, sigma = sky_scale(planes.stretch, unit), sigma_scale()
    blocks = f" Each point is a block of {factor} x {factor} pixels." if factor > 1 else ""
    figures = (
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
    return [_field_picture(*figure, factor) for figure in figures]


def segment_pictures(planes: Planes, unit: str, segments: Segments | None) -> list[Picture]:
    """Return the outlines of extended sources on the image (N011); nothing where they were not looked for."""
    if segments is None:
        return []
    factor = pixels.block_factor(planes.data.shape)
    values = pixels.block_mean(planes.data, planes.good, factor)
    panel = whole(values, factor, sky_scale(planes.stretch, unit))
    outline = segments.outline.astype(np.float32)
    inside = pixels.block_extreme(np.minimum(outline, 1), np.ones_like(planes.good), factor)
    panel.draw_level(inside, 0.5, 1.2)
    n = int(segments.outline.max(initial=0))
    caption = (
        f"Outlines of the extended sources, {n} in all. The fit of the stars leaves out the pixels in sand; bright "
        "stars before an extended source are fitted."
    )
    sheet = single(panel, "Extended sources", "x (pix)", "y (pix)")
    return [sheet.finish("segments", "Outlines of extended sources on the image.", caption)]


def _field_picture(name: str, title: str, values: Image, scale: Scale, caption: str, factor: int) -> Picture:
    sheet = single(whole(values, factor, scale), title, "x (pix)", "y (pix)")
    return sheet.finish(name, f"{title} of the whole field.", caption)


def zoom_pictures(frame: Frame, sources: Sources, planes: Planes, left: Image) -> list[Picture]:
    """Return close-ups of image, model and residual; `left` is the significance of the residual (sigma)."""
    shape = frame.exposure.shape
    side = min(max(ZOOM_FWHM * frame.psf.fwhm, 30), 200, max(shape) / 2.5)
    chosen = places(sources, np.where(planes.good, left, np.float32(0)), side)
    return [
        _zoom(i, place, box_around(place, side, shape), planes, sources) for i, place in enumerate(chosen)
    ]


def _zoom(i: int, place: Place, box: Box, planes: Planes, sources: Sources) -> Picture:
    sheet = trio(planes, box, sources=sources)
    rows, columns = box
    alt = f"Image, model and residual in a box of {columns.stop - columns.start} pixels at a {place.why}."
    caption = (
        f"{place.why[0].upper()}{place.why[1:]}, x = {place.x:.0f}, y = {place.y:.0f}. "
        "Crosses mark fitted sources."
    )
    return sheet.finish(f"zoom-{i + 1}", alt, caption)


def trio(
    planes: Planes,
    box: Box,
    *,
    sources: Sources | None = None,
    side: float = 2.9,
    dots: int = 580,
) -> Sheet:
    """Return image, model and residual of a box side by side.

    Parameters
    ----------
    planes : Planes
    box : tuple of slice
        Rows and columns.
    sources : Sources or None
        Marked when given.
    side : float
        Longest side of each panel (inches).
    dots : int
        Longest side of each panel, at least about that many dots.
    """
    cut = planes.cut(box)
    extent = (box[1].start - 0.5, box[1].stop - 0.5, box[0].start - 0.5, box[0].stop - 0.5)
    data, chi = (np.where(cut.good, plane, np.nan) for plane in (cut.data, cut.chi))
    grey = sky_scale(pixels.box_stretch(np.stack([data, cut.model]), planes.stretch), "")
    image, model, residual = (
        Panel(values, extent, scale, side, dots)
        for values, scale in ((data, grey), (cut.model, grey), (chi, sigma_scale()))
    )
    if sources is not None:
        image.mark(sources.x, sources.y, panels.ORANGE)
        residual.mark(sources.x, sources.y, panels.INK)
    dpi, (height, width) = image.dpi, image.colours.shape
    columns, rows = ticks(image, 5, prune="both")[0], ticks(image)[1]
    left, top, step = max(0.45 * dpi, room(rows, dpi)), round(0.27 * dpi), width + round(0.12 * dpi)
    corners = [(round(left) + i * step, top) for i in range(3)]
    sheet = Sheet(corners[2][0] + width + 0.84 * dpi, top + height + 0.3 * dpi, dpi)
    sheet.show(image, corners[0], "Image", columns, rows)
    sheet.show(model, corners[1], "Model", columns)
    sheet.show(residual, corners[2], "Residual / error", columns)
    sheet.show_bar(residual, corners[2])
    return sheet
