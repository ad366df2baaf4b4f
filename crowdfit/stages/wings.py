"""The wings of the PSF, which only saturated stars show far out."""

import numpy as np

from crowdfit.exposure import Image
from crowdfit.frame import Frame
from crowdfit.psf.epsf import EPSF
from crowdfit.sources import Sources
from crowdfit.stages.blobs import with_doubts

INNERMOST = 3
"""Where the wings begin (FWHM)."""
ANCHOR = 0.8
"""So much of what tells of the flux of a saturated star lies on pixels that tell the PSF nothing."""


def without_anchors(frame: Frame, wings: Sources) -> Image:
    """Return the inverse variance of a frame, 0 round saturated stars on the pixels that their fluxes come from.

    There the PSF belongs to the other stars. A star whose pixels had a say in both its flux and the PSF below them
    would hold on to any flux: too faint a star with too high a wing looks the same.
    """
    ivar, (ny, nx) = frame.fit_ivar.copy(), frame.exposure.shape
    trusted = with_doubts(frame).fit_ivar
    for x, y, flux, half in zip(wings.x, wings.y, wings.flux, frame.half_sizes(wings.flux), strict=True):
        left, top, size = int(np.floor(x + 0.5)) - half, int(np.floor(y + 0.5)) - half, 2 * half + 1
        rows = slice(max(top, 0), max(min(top + size, ny), 0))
        cols = slice(max(left, 0), max(min(left + size, nx), 0))
        # its own light: a brighter star in its reach says nothing about it
        own = flux * frame.psf.stamp(x, y, size)
        own = own[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]
        yy, xx = np.mgrid[rows, cols]
        radius = np.hypot(xx - x, yy - y)
        information = np.square(own, dtype=np.float64) * trusted[rows, cols]
        order = np.argsort(radius, axis=None)
        gained = np.cumsum(information.ravel()[order])
        if not len(gained):
            continue
        edge = radius.ravel()[order][np.searchsorted(gained, ANCHOR * gained[-1])]
        ivar[rows, cols][radius <= edge] = 0
    return ivar


def wing_change(frame: Frame, new: EPSF, wings: Sources) -> float:
    """Return the largest change of a ring of the brightest star of `wings` under the PSF `new` (sigma of a pixel).

    The rings are one FWHM wide and begin where `change_of` sees next to nothing.
    """
    if not len(wings):
        return 0.0
    star = wings.take(np.array([np.argmax(wings.flux)]))
    size = 2 * int(min(frame.half_sizes(star.flux)[0], new.support, frame.psf.support)) + 1
    x, y, flux = float(star.x[0]), float(star.y[0]), float(star.flux[0])
    before, after = (psf.at(x, y).native(size) * flux for psf in (frame.psf, new))
    noise = np.sqrt(frame.noise**2 + np.maximum(after, 0) / frame.exposure.gain)
    grid = np.arange(size) - size // 2
    ring = (np.hypot(*np.meshgrid(grid, grid)) / new.fwhm).astype(int)
    ring[ring < INNERMOST] = 0
    moved = np.bincount(ring.ravel(), ((after - before) / noise).ravel()) / np.maximum(
        np.bincount(ring.ravel()), 1
    )
    return float(np.max(np.abs(moved[INNERMOST:]), initial=0.0))
