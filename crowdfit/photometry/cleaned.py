"""Many stars on one image, each as if it were alone: cleaned stamps in the cells of a canvas.

The cleaned stamp of a star is data - sky with all other stars removed, which is the residual plus its own model. SEP
measures one image with one call for all its sources; on a canvas that holds one cleaned stamp in each cell such a
call measures every star free of its neighbours, and no loop over stars or pixels is needed here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray

from crowdfit._kernels.cleaned import fill_cells
from crowdfit.exposure import Image
from crowdfit.frame import Frame
from crowdfit.sources import Sources

F64 = NDArray[np.float64]

CANVAS_PIXELS = 2_000_000
"""Most pixels of a canvas: five planes of them are 40 MB, whatever the number of stars."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """The cleaned stamps of some stars, side by side.

    Masked pixels, and those off the image, hold the star's own model.

    Parameters
    ----------
    x, y : ndarray (n,) float64
        Where the stars are on the canvas (pix).
    half : int
        Half width of a cell; nothing farther from a star than this may be asked for (pix).
    light : ndarray (rows, cols) float32
        The cleaned stamps, less the local sky on usable pixels (image unit).
    own : ndarray (rows, cols) float32
        The PSF at each star, unit sum over its full extent.
    noise, usable : ndarray (rows, cols) float32
        Variance with the photons of all stars (image unit^2), and 1, of usable pixels; 0 elsewhere.
    others : ndarray (rows, cols) float32
        Light of all other stars, 0 off the image (image unit).
    """

    x: F64
    y: F64
    half: int
    light: Image
    own: Image
    noise: Image
    usable: Image
    others: Image

    @classmethod
    def of(cls, frame: Frame, stars: Sources, half: int, level: F64) -> "Canvas":
        """Return the canvas of some stars of the model of `frame`; `level` (n,) is what the sky lacks (image unit)."""
        n, side = len(stars), 2 * half + 1
        per_row = max(int(np.ceil(np.sqrt(n))), 1)
        planes = tuple(np.zeros((-(-n // per_row) * side, per_row * side), np.float32) for _ in range(5))
        psf = frame.psf
        fill_cells(
            psf.coef, psf.basis(stars.x, stars.y), stars.x, stars.y, stars.flux, frame.half_sizes(stars.flux),
            psf.radius, np.asarray(level, np.float64), (frame.resid, frame.fit_ivar, frame.model), per_row, half,
            planes,
        )  # fmt: skip
        number = np.arange(n)
        x = stars.x - np.floor(stars.x + 0.5) + half + side * (number % per_row)
        y = stars.y - np.floor(stars.y + 0.5) + half + side * (number // per_row)
        return cls(x, y, half, *planes)

    def in_circles(self, plane: Image, radii: F64) -> F64:
        """Return the sums of a plane in circles of all `radii` (m,) about all stars, exact overlap, (n, m)."""
        n, m = len(self.x), len(radii)
        if not n:  # SEP looks at the first of its arguments in any case
            return np.zeros((0, m))
        sums, _, _ = sep.sum_circle(plane, self.x.repeat(m), self.y.repeat(m), np.tile(radii, n), subpix=0)
        return np.asarray(sums).reshape(n, m)

    def in_ellipses(self, plane: Image, ellipses: "Ellipses", scale: F64) -> F64:
        """Return the sums of a plane in ellipses `scale` (n,) times as large as given, exact overlap, (n,)."""
        if not len(self.x):
            return np.zeros(0)
        at = (self.x, self.y, ellipses.a, ellipses.b, ellipses.theta)
        sums, _, _ = sep.sum_ellipse(plane, *at, scale, subpix=0)
        return np.asarray(sums)


@dataclass(frozen=True, eq=False)
class Ellipses:
    """Shapes of stars: rms along the major and minor axis (pix), and angle from x towards y (rad), each (n,)."""

    a: F64
    b: F64
    theta: F64

    @classmethod
    def of_moments(cls, moments: F64) -> "Ellipses":
        """Return the ellipses of second moments xx, yy, xy, (n, 3) (pix^2); NaN stays NaN."""
        xx, yy, xy = moments.T
        root = np.hypot((xx - yy) / 2, xy)
        mean = (xx + yy) / 2
        # SEP refuses a quarter turn that rounding has carried beyond pi / 2
        theta = np.clip(np.arctan2(2 * xy, xx - yy) / 2, -np.pi / 2 + 1e-12, np.pi / 2 - 1e-12)
        return cls(np.sqrt(mean + root), np.sqrt(np.maximum(mean - root, 0)), theta)

    def where(self, chosen: NDArray[np.bool_], other: "Ellipses") -> "Ellipses":
        """Return these ellipses where `chosen`, those of `other` elsewhere."""
        pairs = ((self.a, other.a), (self.b, other.b), (self.theta, other.theta))
        return Ellipses(*(np.where(chosen, mine, theirs) for mine, theirs in pairs))


def chunks(n: int, half: int) -> Iterator[slice]:
    """Yield slices over n stars, each of as many as fit on a canvas with cells of half width `half` (pix)."""
    most = max(CANVAS_PIXELS // (2 * half + 1) ** 2, 1)
    for first in range(0, n, most):
        yield slice(first, first + most)
