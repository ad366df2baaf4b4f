"""The field in the coordinates of the sky (N003)."""

import logging
import warnings
from typing import Any, Final

from astropy import units as u
from astropy.wcs import WCS, NoConvergence
from matplotlib.figure import Figure

from crowdfit.exposure import Exposure, Image
from crowdfit.report import canvas, images, pixels
from crowdfit.report.canvas import Picture
from crowdfit.report.images import Scale
from crowdfit.report.pixels import Planes

log = logging.getLogger(__name__)

LABELS: Final = {
    "icrs": ("RA, ICRS", "Dec, ICRS"),
    "fk5": ("RA, FK5", "Dec, FK5"),
    "fk4": ("RA, FK4", "Dec, FK4"),
    "galactic": ("Galactic longitude", "Galactic latitude"),
}
"""Axis labels by the frame of the WCS."""

_UNDRAWABLE: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, NoConvergence)
"""What astropy raises for a WCS that has no sky everywhere on the image; the catalogue does not need that."""


def sky_pictures(exposure: Exposure, planes: Planes) -> list[Picture]:
    """Return the image with a grid of sky coordinates; nothing when it has no WCS that can be drawn.

    Parameters
    ----------
    exposure : Exposure
        For WCS and unit.
    planes : Planes
        Its pixels.
    """
    wcs = exposure.wcs
    if wcs is None or not getattr(wcs, "has_celestial", True):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # grid lines run where the WCS has no inverse
        try:
            return [_picture(wcs.celestial if isinstance(wcs, WCS) else wcs, exposure.unit, planes)]
        except _UNDRAWABLE as problem:
            log.warning("%s: no picture in sky coordinates: %s", exposure.name, problem)
            return []


def _picture(wcs: Any, unit: str, planes: Planes) -> Picture:
    factor = pixels.block_factor(planes.data.shape)
    scale = Scale.sky(pixels.sky_stretch(planes.data, planes.good), unit)
    ny, nx = planes.data.shape
    frame = wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2).frame.name
    figure, _ = sky_axes(wcs, pixels.block_mean(planes.data, planes.good, factor), factor, scale)
    caption = f"The same image with the grid of its WCS ({frame}). The catalogue holds ICRS positions."
    return canvas.finish(
        figure, "sky", "Image of the field with sky coordinates.", caption, canvas.image_palette()
    )


def sky_axes(wcs: Any, values: Image, factor: int, scale: Scale) -> tuple[Figure, Any]:
    """Return a figure of an image with a coordinate grid, and its axes.

    Parameters
    ----------
    wcs : WCS
        Of the full image, 0-based.
    values : ndarray (ny, nx) float32
        The image in blocks of `factor` x `factor` pixels.
    scale : Scale
        Its colours.
    """
    ny, nx = values.shape
    # the WCS counts pixels of the full image, so the panel is drawn in their coordinates
    extent = (-0.5, nx * factor - 0.5, -0.5, ny * factor - 0.5)
    figure, axes = images.exact_axes(values.shape, left=0.95, projection=wcs)
    axes.imshow(
        values, origin="lower", extent=extent, interpolation="nearest", norm=scale.norm, cmap=scale.cmap,
        aspect="auto",
    )  # fmt: skip
    axes.set(title="Image on the sky", xlim=extent[:2], ylim=extent[2:])
    frame = wcs.pixel_to_world(extent[1] / 2, extent[3] / 2).frame.name
    _draw_grid(axes, LABELS.get(frame, (f"longitude, {frame}", f"latitude, {frame}")))
    images.add_bar(figure, axes, scale)
    return figure, axes


def _draw_grid(axes: Any, labels: tuple[str, str]) -> None:
    """Draw lines of equal longitude and latitude, labelled in degrees."""
    for coordinate in axes.coords:
        is_longitude = coordinate.coord_type == "longitude"
        coordinate.set_format_unit(u.deg, decimal=True)
        coordinate.set_axislabel(labels[0 if is_longitude else 1], minpad=0.6)
        coordinate.set_ticks(number=4)
        coordinate.grid(color=canvas.ORANGE, alpha=0.7, linewidth=1.0, linestyle="solid")
