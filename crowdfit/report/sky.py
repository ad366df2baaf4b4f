"""The field in the coordinates of the sky (N003)."""

import logging
import warnings
from typing import Any, Final

from astropy import units as u
from astropy.wcs import WCS, NoConvergence

from crowdfit.exposure import Exposure
from crowdfit.report import canvas, images, pixels
from crowdfit.report.canvas import Picture
from crowdfit.report.panel import Panel
from crowdfit.report.pixels import Planes
from crowdfit.report.sheet import Corner, around

log = logging.getLogger(__name__)

LABELS: Final = {
    "icrs": ("RA, ICRS", "Dec, ICRS"),
    "fk5": ("RA, FK5", "Dec, FK5"),
    "fk4": ("RA, FK4", "Dec, FK4"),
    "galactic": ("Galactic longitude", "Galactic latitude"),
}
"""Axis labels by the frame of the WCS."""

LEFT: Final = 0.95
"""Room for the numbers and the label to the left of the image (inches)."""

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
    scale = images.sky_scale(planes.stretch, unit)
    panel = images.whole(pixels.block_mean(planes.data, planes.good, factor), factor, scale)
    sheet, corner = around(panel, LEFT * panel.dpi)
    sheet.show(panel, corner, "Image on the sky")
    sheet.show_bar(panel, corner)
    ny, nx = planes.data.shape
    frame = wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2).frame.name
    sheet.cover(panel, corner, canvas.draw(sky_axes(wcs, frame, panel, sheet.size, corner).figure))
    caption = f"The same image with the grid of its WCS ({frame}). The catalogue holds ICRS positions."
    return sheet.finish("sky", "Image of the field with sky coordinates.", caption)


def sky_axes(wcs: Any, frame: str, panel: Panel, size: tuple[int, int], corner: Corner) -> Any:
    """Return axes with a coordinate grid, in a figure that fits over the sheet of a panel.

    Parameters
    ----------
    wcs : WCS
        Of the full image, 0-based.
    frame : str
        Name of the frame of its sky.
    panel : Panel
        The image.
    size : tuple of int
        Width and height of the sheet (dots).
    corner : tuple of int
        Left and upper end of the panel (dots).
    """
    (width, height), (left, top), (tall, wide) = size, corner, panel.colours.shape
    figure = canvas.new_figure(width / panel.dpi, height / panel.dpi, panel.dpi)
    axes: Any = figure.add_axes(
        (left / width, 1 - (top + tall) / height, wide / width, tall / height), projection=wcs
    )
    # the WCS counts pixels of the full image, and so does the extent of the panel, whatever its blocks
    axes.set(xlim=panel.extent[:2], ylim=panel.extent[2:])
    axes.coords.frame.set_linewidth(0)
    _draw_grid(axes, LABELS.get(frame, (f"longitude, {frame}", f"latitude, {frame}")))
    return axes


def _draw_grid(axes: Any, labels: tuple[str, str]) -> None:
    """Draw lines of equal longitude and latitude, labelled in degrees."""
    for coordinate in axes.coords:
        is_longitude = coordinate.coord_type == "longitude"
        coordinate.set_format_unit(u.deg, decimal=True)
        coordinate.set_axislabel(labels[0 if is_longitude else 1], minpad=0.6)
        coordinate.set_ticks(number=4)
        coordinate.grid(color=canvas.ORANGE, alpha=0.7, linewidth=1.0, linestyle="solid")
