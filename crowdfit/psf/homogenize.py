"""Kernels that give the stars of one image the PSF of another, so that one aperture holds the same share of both.

The kernel between two PSFs is the Wiener filter of Boucaud et al. (2016, A&A 596, A63), computed by `pypher` on a grid
finer than the pixels and cut at the highest frequency that pixels hold. Where a PSF varies, kernels at nodes are mixed
in the way of `crowdfit.psf.field.Grid`. The weights go with the pixel whose light is spread, not with the pixel that
receives it: then every kernel acts on whole stars, and no flux is lost between the nodes.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from astropy import units as u
from astropy.table import QTable
from numpy.typing import ArrayLike, NDArray
from pypher.pypher import homogenization_kernel
from scipy.ndimage import map_coordinates, spline_filter
from scipy.signal import fftconvolve

from crowdfit.errors import InputError
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import PLACES, Constant, Grid

__all__ = ["Homogenizer", "Kernel", "Matched", "homogenize", "kernel_between"]

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]
ToTarget = Callable[[F64, F64], tuple[F64, F64]]

REGULARISATIONS: Final = 10.0 ** np.arange(-1, -12, -1)
"""Strengths of the penalty that are tried, the strongest first."""
SLACK: Final = 1.25
"""The strongest penalty is taken whose residual is at most so many times the least one..."""
ENOUGH: Final = 5e-4
"""...or at most this share of the light: less than any photometry sees."""
POOR: Final = 0.02
"""A residual that is said aloud, as a share of the light."""
DEPARTURE: Final = 1e-3
"""Residual that mixing may add half-way between nodes, as a share of the light; more calls for another node."""
HALVINGS: Final = 4
"""How often the distance of nodes may be halved."""
PHASES: Final = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))
"""Places of a star in its pixel at which a kernel is judged."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel, and how well it does its work.

    Parameters
    ----------
    image : ndarray (n, n) float64
        The kernel on the pixels of the image that it is applied to; n is odd, the centre in the middle.
    regularisation : float
        Strength of the penalty on high frequencies.
    residual : float
        ``sum |source * kernel - target|`` over the pixels of a star of flux 1, at the worst place in a pixel.
    growth : ndarray (m,) float64
        Light within 1, 2, ... m pixels of the matched star minus that of the target, both of flux 1, as the mean over
        places in a pixel.
    """

    image: F64
    regularisation: float
    residual: float
    growth: F64

    @property
    def total(self) -> float:
        """Sum of the kernel: what it multiplies fluxes by."""
        return float(self.image.sum())

    @property
    def growth_deviation(self) -> float:
        """Largest deviation of the curve of growth, as a share of the flux (P062)."""
        return float(np.abs(self.growth).max())

    @property
    def noise(self) -> float:
        """What the kernel multiplies the noise of a pixel by, where pixels are independent."""
        return float(np.sqrt(np.sum(self.image**2)))


class Matched(NamedTuple):
    """An image with the PSF of another.

    image : (ny, nx) float64, NaN where too much of the light that belongs there was not observed. ivar : (ny, nx)
    float64, 0 there, or None when no weights were given; noise is correlated now, which ivar cannot tell.
    """

    image: F64
    ivar: F64 | None


@dataclass(frozen=True, eq=False)
class Homogenizer:
    """Kernels at the nodes of a grid, one for a constant PSF.

    Parameters
    ----------
    kernels : tuple of Kernel
        In the order of `grid.places`; of one size.
    grid : Grid
        Nodes on the image (pix).
    """

    kernels: tuple[Kernel, ...]
    grid: Grid

    def at(self, x: float, y: float) -> F64:
        """Return the kernel (n, n) for a star at (x, y)."""
        weights = self.grid.basis(x, y)[0]
        return np.asarray(sum(w * k.image for w, k in zip(weights, self.kernels, strict=True) if w))

    @cached_property
    def report(self) -> QTable:
        """One row a node: x, y (pix), regularisation, kernel_sum, residual, growth_deviation, noise."""
        x, y = self.grid.places.T
        table = QTable({"x": x * u.pix, "y": y * u.pix})
        table["regularisation"] = [k.regularisation for k in self.kernels]
        table["kernel_sum"] = [k.total for k in self.kernels]
        table["residual"] = [k.residual for k in self.kernels]
        table["growth_deviation"] = [k.growth_deviation for k in self.kernels]
        table["noise"] = [k.noise for k in self.kernels]
        return table

    def apply(self, image: ArrayLike, ivar: ArrayLike | None = None, max_lost: float = 0.02) -> Matched:
        """Return an image with the PSF of the target.

        Pixels that are not finite, or whose ivar is 0, count for nothing, as does what lies beyond the edges; the
        light of the others is scaled up for them.

        Parameters
        ----------
        image : array_like (ny, nx)
            Image; a sky may be in it.
        ivar : array_like (ny, nx), optional
            Inverse variances, 0 for bad pixels.
        max_lost : float
            Pixels become NaN where bad ones hold more than this share of the absolute weight of the kernel, from 0
            to 1.

        Raises
        ------
        InputError
            An image that is not 2-D, weights of another shape, or a share out of range.
        """
        values = np.asarray(image, np.float64)
        if values.ndim != 2:
            raise InputError(f"image: shape {values.shape} is refused; give a 2-D array")
        weights = None if ivar is None else np.asarray(ivar, np.float64)
        if weights is not None and weights.shape != values.shape:
            raise InputError(f"ivar: shape {weights.shape} is refused; the image has {values.shape}")
        if not 0 <= max_lost < 1:
            raise InputError(f"max_lost: {max_lost} is refused; give a share from 0 up to 1")
        good = np.isfinite(values)
        if weights is not None:
            good &= np.isfinite(weights) & (weights > 0)
        covered, usable = self._coverage(good, max_lost)
        out = np.zeros(values.shape)
        light = np.where(good, values, 0.0)
        for number, kernel in enumerate(self.kernels):
            _spread(out, light * self._shares(values.shape, number), kernel.image)
        with np.errstate(divide="ignore", invalid="ignore"):
            matched = np.where(usable, out / covered, np.nan)
            if weights is None:
                return Matched(matched, None)
            variance = self._variance(np.where(good, 1 / weights, 0.0)) / covered**2
            return Matched(matched, np.where(usable, 1 / variance, 0.0))

    def variance(self, variance: ArrayLike, max_lost: float = 0.02) -> F64:
        """Return the variance (ny, nx) of the pixels of an image that `apply` made, NaN where it has no value.

        Unlike an inverse variance this may be a part of the noise, and 0 in places.

        Parameters
        ----------
        variance : array_like (ny, nx)
            Of the pixels before, which are independent; NaN for bad pixels.
        max_lost : float
            As in `apply`.
        """
        values = np.asarray(variance, np.float64)
        good = np.isfinite(values)
        covered, usable = self._coverage(good, max_lost)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(usable, self._variance(np.where(good, values, 0.0)) / covered**2, np.nan)

    def _coverage(self, good: NDArray[np.bool_], max_lost: float) -> tuple[F64, NDArray[np.bool_]]:
        """Return what good pixels have of the kernel around every pixel, and where that is enough (ny, nx)."""
        covered, kept, least = (np.zeros(good.shape) for _ in range(3))
        for number, kernel in enumerate(self.kernels):
            share = self._shares(good.shape, number)
            size = np.abs(kernel.image)
            least += share * size.sum()
            _spread(covered, good * share, kernel.image)
            _spread(kept, good * share, size)
        return covered, kept >= (1 - max_lost) * least * (1 - 1e-9)

    def _shares(self, shape: tuple[int, int], number: int) -> F64:
        """Return the weight (ny, nx) of a kernel at every pixel."""
        row, col = divmod(number, len(self.grid.x_nodes))
        rows, cols = self._axes(shape)
        return np.outer(rows[:, row], cols[:, col])

    def _axes(self, shape: tuple[int, int]) -> tuple[F64, F64]:
        """Return the weights of the rows of nodes (ny, n) and of their columns (nx, m)."""
        ny, nx = shape
        rows = Grid((0.0,), self.grid.y_nodes).basis(np.zeros(ny), np.arange(ny))
        cols = Grid(self.grid.x_nodes, (0.0,)).basis(np.arange(nx), np.zeros(nx))
        return rows, cols

    def _variance(self, variance: F64) -> F64:
        """Return the variance of the matched pixels: that of a pixel goes with the square of its mixed kernel."""
        out = np.zeros(variance.shape)
        for one, other in self._neighbours():
            share = self._shares(variance.shape, one) * self._shares(variance.shape, other)
            taps = self.kernels[one].image * self.kernels[other].image
            _spread(out, variance * share, taps if one == other else 2 * taps)
        return np.maximum(out, 0)

    def _neighbours(self) -> Iterator[tuple[int, int]]:
        """Yield pairs of nodes with pixels in common, each with itself too."""
        n = len(self.grid.x_nodes)
        for one in range(len(self.kernels)):
            for other in range(one, len(self.kernels)):
                (row, col), (row2, col2) = divmod(one, n), divmod(other, n)
                if abs(row - row2) <= 1 and abs(col - col2) <= 1:
                    yield one, other


def kernel_between(source: EPSF, target: EPSF, scale: float = 1.0) -> Kernel:
    """Return the kernel that turns one constant PSF into another.

    Of the penalties that are tried, the strongest is taken that leaves a residual of `ENOUGH`, or one near the least
    that any of them leaves: less would pass more noise for nothing.

    Parameters
    ----------
    source, target : EPSF
        PSF of the image, and the PSF that it shall have; of PSFs that vary, what holds at the middle of the field.
        The target should be the wider one; else the kernel sharpens, and noise grows.
    scale : float
        Pixel of the source over pixel of the target: 0.5 from pixels of 0.03 arcsec to those of 0.06 arcsec. Both
        images are taken to have the same orientation.

    Raises
    ------
    InputError
        A scale that is not positive and finite.
    """
    if not (np.isfinite(scale) and scale > 0):
        raise InputError(f"scale: {scale} is refused; give the ratio of the pixel sizes, which is positive")
    return _Pair.of(source.middle, target.middle, scale).kernel()


def homogenize(
    source: EPSF,
    target: EPSF,
    shape: tuple[int, int],
    scale: float = 1.0,
    to_target: ToTarget | None = None,
) -> Homogenizer:
    """Return the kernels that give an image the PSF of another one.

    Parameters
    ----------
    source, target : EPSF
        PSF of the image, and the PSF that it shall have; both may vary over the field.
    shape : tuple of int
        (ny, nx) of the image.
    scale : float
        Pixel of the source over pixel of the target; see `kernel_between`.
    to_target : callable, optional
        Turns positions x, y (n,) on the image into those on the field of the target (pix); default: the same.

    Raises
    ------
    InputError
        A shape or a scale that is not positive.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f"shape: {shape} is refused; give (ny, nx) of the image")
    there = (lambda x, y: (x, y)) if to_target is None else to_target
    columns, rows = source.field.nodes(shape)
    if not isinstance(target.field, Constant):
        if to_target is None:
            more_columns, more_rows = target.field.nodes(shape)
        else:
            more_columns, more_rows = (np.linspace(0, max(n - 1, 1), PLACES) for n in shape[::-1])
        columns, rows = np.unique([*columns, *more_columns]), np.unique([*rows, *more_rows])

    @cache
    def solved(x: float, y: float) -> tuple[_Pair, Kernel]:
        (there_x,), (there_y,) = there(np.array([x]), np.array([y]))
        pair = _Pair.of(source.at(x, y), target.at(float(there_x), float(there_y)), scale)
        return pair, pair.kernel()

    nodes = _refined(columns.tolist(), rows.tolist(), solved)
    kernels = [solved(*place)[1] for place in nodes.places.tolist()]
    largest = max(len(k.image) for k in kernels)
    return Homogenizer(tuple(replace(k, image=_padded(k.image, largest)) for k in kernels), nodes)


def _refined(
    columns: list[float], rows: list[float], solved: Callable[[float, float], tuple["_Pair", Kernel]]
) -> Grid:
    """Return nodes close enough for mixtures of kernels: kernels are not linear in the PSF, even where the PSF is."""
    for _ in range(HALVINGS):
        more_columns = [
            (a + b) / 2 for a, b in pairwise(columns) if any(_departs(solved, ((a, y), (b, y))) for y in rows)
        ]
        more_rows = [
            (a + b) / 2 for a, b in pairwise(rows) if any(_departs(solved, ((x, a), (x, b))) for x in columns)
        ]
        if not (more_columns or more_rows):
            break
        columns, rows = sorted(columns + more_columns), sorted(rows + more_rows)
    else:
        log.warning(
            "the PSF changes too fast over the field for kernels at %d places", len(columns) * len(rows)
        )
    return Grid(tuple(columns), tuple(rows))


def _departs(
    solved: Callable[[float, float], tuple["_Pair", Kernel]],
    ends: tuple[tuple[float, float], tuple[float, float]],
) -> bool:
    """Return whether the kernel between two nodes is another one than the mean of theirs."""
    (x, y), (x2, y2) = ends
    one, other = (solved(*end)[1].image for end in ends)
    pair, exact = solved((x + x2) / 2, (y + y2) / 2)
    size = max(len(one), len(other))
    mixed = (_padded(one, size) + _padded(other, size)) / 2
    return pair.residual(mixed) > exact.residual + DEPARTURE


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two constant PSFs on one fine grid, and as stars on pixels: (star, what it shall be) for each of `PHASES`."""

    narrow: F64
    wide: F64
    fine: int
    stars: list[tuple[F64, F64]]
    widths: tuple[float, float]

    @classmethod
    def of(cls, source: EPSF, target: EPSF, scale: float) -> "_Pair":
        """Return the pair of a source and a target whose pixels are 1 / scale as large."""
        half = int(np.ceil(max(source.radius, target.radius / scale) + 2 * target.fwhm / scale))
        # odd, so that one sample sits on the centre and every `fine`th one on a pixel
        fine = max(source.oversample, target.oversample, 3) | 1
        n = (2 * half + 1) * fine
        at = (np.arange(n) - n // 2) / fine
        first, second = _Table.of(source, 1.0), _Table.of(target, scale)
        narrow, wide = (table / table.sum() for table in (first.sampled(at, at), second.sampled(at, at)))
        stars = [(first.star(half, *place), second.star(half, *place)) for place in PHASES]
        return cls(narrow, wide, fine, stars, (source.fwhm, target.fwhm / scale))

    def kernel(self) -> Kernel:
        """Return the kernel with the penalty that the residual allows."""
        tried = []
        for strength in REGULARISATIONS:
            taps = _on_pixels(homogenization_kernel(self.wide, self.narrow, reg_fact=strength)[0], self.fine)
            tried.append((taps, strength, self.residual(taps)))
        limit = max(SLACK * min(residual for *_, residual in tried), ENOUGH)
        taps, strength, residual = next(entry for entry in tried if entry[2] <= limit)
        kernel = Kernel(taps, float(strength), residual, self.growth(taps))
        if kernel.residual > POOR or kernel.noise > 1:
            log.warning(
                "the kernel from a PSF of %.2f pix to one of %.2f pix leaves a residual of %.1f %% of the light and "
                "multiplies noise by %.2f; match to a wider PSF",
                *self.widths, 100 * kernel.residual, kernel.noise,
            )  # fmt: skip
        return kernel

    def residual(self, taps: F64) -> float:
        """Return the sum of absolute differences between matched stars and the target, for the worst star."""
        return max(float(np.abs(_matched(one, taps) - other).sum()) for one, other in self.stars)

    def growth(self, taps: F64) -> F64:
        """Return the mean difference of the curves of growth at whole radii (m,)."""
        half = len(taps) // 2
        pixels = np.arange(-half, half + 1)
        curves = []
        for (one, other), (x, y) in zip(self.stars, PHASES, strict=True):
            radius = np.hypot(*np.meshgrid(pixels - x, pixels - y))
            off = _matched(one, taps) - other
            curves.append([off[radius <= reach].sum() for reach in range(1, half + 1)])
        return np.asarray(np.mean(curves, axis=0), np.float64)


class _Table(NamedTuple):
    """Spline of a PSF, on pixels `1 / scale` as large as its own."""

    coef: F64
    step: float
    scale: float

    @classmethod
    def of(cls, psf: EPSF, scale: float) -> "_Table":
        """Return the spline of a constant PSF; zeros around let it end smoothly."""
        padded = np.pad(psf.cube[0], 4 * psf.oversample)
        return cls(spline_filter(padded, order=3, mode="mirror"), psf.oversample * scale, scale)

    def sampled(self, x: F64, y: F64) -> F64:
        """Return the PSF per pixel at columns x (m,) and rows y (n,) about its centre (pix), (n, m)."""
        middle = len(self.coef) // 2
        places = np.meshgrid(y * self.step + middle, x * self.step + middle, indexing="ij")
        values = map_coordinates(self.coef, places, order=3, mode="constant", prefilter=False)
        return np.asarray(values * self.scale**2, np.float64)

    def star(self, half: int, x: float, y: float) -> F64:
        """Return the pixels (n, n) of a star of flux 1 that is off the middle pixel by x, y."""
        pixels = np.arange(-half, half + 1.0)
        return self.sampled(pixels - x, pixels - y)


def _on_pixels(kernel: F64, fine: int) -> F64:
    """Return a kernel (n * fine, n * fine) on pixels (n, n): its frequencies up to the highest that pixels hold."""
    n = len(kernel) // fine
    low = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(kernel)))
    cut = slice(len(kernel) // 2 - n // 2, len(kernel) // 2 + n // 2 + 1)
    return np.asarray(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(low[cut, cut])).real))


def _matched(star: F64, taps: F64) -> F64:
    """Return a star (n, n) convolved with a kernel of odd size, on the same pixels."""
    pad = max((len(taps) - len(star)) // 2, 0)
    spread = fftconvolve(np.pad(star, pad), taps, mode="same")
    return np.asarray(spread[pad : pad + len(star), pad : pad + len(star)])


def _padded(image: F64, size: int) -> F64:
    """Return a kernel with zeros around."""
    return np.pad(image, (size - len(image)) // 2)


def _spread(total: F64, light: F64, taps: F64) -> None:
    """Add light convolved with a kernel to `total`; only where there is light."""
    rows, cols = (np.flatnonzero(light.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return
    half = len(taps) // 2
    top, left = rows[0], cols[0]
    spread = fftconvolve(light[top : rows[-1] + 1, left : cols[-1] + 1], taps, mode="full")
    row0, col0 = max(top - half, 0), max(left - half, 0)
    inside = total[row0 : rows[-1] + 1 + half, col0 : cols[-1] + 1 + half]
    skip_rows, skip_cols = row0 - (top - half), col0 - (left - half)
    inside += spread[skip_rows : skip_rows + inside.shape[0], skip_cols : skip_cols + inside.shape[1]]
