"""The PSF-matched filter, with a PSF that may vary over the field.

Between nodes on the field the filter is bilinear: exact for a gridded PSF, for a polynomial one nearly so, and of one
node for a constant one. The norm of the filter is blended in the same way, which is wrong by the square of what the
PSF changes by from node to node.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from crowdfit._kernels.filters import correlate, correlate_field
from crowdfit.exposure import Image
from crowdfit.frame import Frame

F64 = NDArray[np.float64]

FILTER_RADIUS = 1.5
"""Half width of the matched filter (FWHM); holds over 99 % of the sum of P^2 for Gaussian and Moffat."""


@dataclass(frozen=True, eq=False)
class FieldFilter:
    """A filter that is bilinear between nodes on the field.

    Parameters
    ----------
    stamps : ndarray (gy, gx, m, m) float64
        The filters at the nodes, m odd.
    x, y : ndarray (gx,), (gy,) float64
        Columns and rows of the nodes (pix): the first at 0, the last at the far edge of the image or beyond; one of
        each stands for the whole image.
    """

    stamps: F64
    x: F64
    y: F64

    @classmethod
    def constant(cls, stamp: NDArray[np.floating]) -> "FieldFilter":
        """Return the filter that is the same everywhere."""
        stamps = np.ascontiguousarray(stamp, np.float64)[np.newaxis, np.newaxis]
        return cls(stamps, np.zeros(1), np.zeros(1))

    def squared(self) -> "FieldFilter":
        """Return the filter of the squares."""
        return FieldFilter(self.stamps**2, self.x, self.y)

    def shares(self) -> "FieldFilter":
        """Return the filter whose stamps sum to 1."""
        sums = np.array([[stamp.sum() for stamp in row] for row in self.stamps])
        return FieldFilter(self.stamps / sums[:, :, np.newaxis, np.newaxis], self.x, self.y)

    def correlate(self, image: Image) -> Image:
        """Return ``sum_u f(u) image(x + u)`` with the filter f at x; pixels off the image count as 0."""
        out = np.empty_like(image)
        if len(self.x) == 1 == len(self.y):
            correlate(image, self.stamps[0, 0], out)
            return out
        left, share_x = _intervals(self.x, image.shape[1])
        low, share_y = _intervals(self.y, image.shape[0])
        first = np.searchsorted(left, np.arange(len(self.x) - 1))
        cols = np.append(first, image.shape[1]).astype(np.int64)
        correlate_field(image, self.stamps, cols, share_x, low, share_y, out)
        return out


Filter: TypeAlias = FieldFilter | NDArray[np.floating]


def _intervals(nodes: F64, n: int) -> tuple[NDArray[np.int64], F64]:
    """Return for n pixels the node before each, and how far it is on the way to the next, 0 to 1."""
    at = np.arange(n)
    before = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, len(nodes) - 2).astype(np.int64)
    return before, (at - nodes[before]) / (nodes[before + 1] - nodes[before])


def filter_kernel(frame: Frame) -> F64:
    """Return the central stamp of the PSF at the middle of the image, for correlation."""
    ny, nx = frame.exposure.shape
    return frame.psf.stamp(nx // 2, ny // 2, _size(frame)).astype(np.float64)


def field_filter(frame: Frame) -> FieldFilter:
    """Return the central stamps of the PSF over the image."""
    psf, size = frame.psf, _size(frame)
    x, y = psf.field.nodes(frame.exposure.shape)
    if len(x) == 1 == len(y):
        return FieldFilter.constant(filter_kernel(frame))
    stamps = [[psf.at(u, v).stamp(0.0, 0.0, size) for u in x] for v in y]
    return FieldFilter(np.array(stamps, np.float64), x, y)


def _size(frame: Frame) -> int:
    """Return the side of the matched filter (pix)."""
    return 2 * max(int(np.ceil(FILTER_RADIUS * frame.psf.fwhm)), 1) + 1


def matched_filter(image: Image, ivar: Image, psf: Filter) -> Image:
    """Return the PSF-matched significance, ``conv(I W, P) / sqrt(conv(W, P^2))``, 0 without usable pixels."""
    filters = psf if isinstance(psf, FieldFilter) else FieldFilter.constant(psf)
    top, norm = filters.correlate(image * ivar), filters.squared().correlate(ivar)
    floor = 1e-4 * float(norm.max(initial=0.0))
    return np.where(norm > floor, top / np.sqrt(np.maximum(norm, max(floor, 1e-38))), np.float32(0))
