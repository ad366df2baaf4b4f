"""The PSF in the one form that kernels know: an oversampled table that may vary over the field.

A stamp is ``stamp(x, y) = sum_k b_k(x, y) cube_k``; a constant PSF has one plane and b = 1, so constant,
polynomial and gridded PSFs are one code path (`crowdfit.psf.field` has the b_k). The table holds the *effective*
PSF, pixel response included, in units of flux fraction per native pixel; it sums to 1 over its full extent whatever
the position on the field and in the pixel, and every flux in crowdfit refers to that sum (P036).

What describes the PSF in one number (width, centroid, effective area) describes it at the middle of the field.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import shift, spline_filter, zoom

from crowdfit._kernels.stamps import fill_window
from crowdfit.errors import InputError
from crowdfit.psf.field import Constant, Field

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EPSF:
    """An effective PSF sampled on an oversampled grid.

    Parameters
    ----------
    cube : ndarray (n_basis, sy, sx) float64
        Samples every ``1 / oversample`` pixel, square, a whole number of pixels on either side of the centre at
        ``[sy // 2, sx // 2]``; value per native pixel.
    oversample : int
        Samples per native pixel.
    field : Constant, Polynomial or Grid
        How the planes mix at a position on the field.

    Raises
    ------
    InputError
        The field needs another number of planes.
    """

    cube: F64
    oversample: int
    field: Field = Constant()

    def __post_init__(self) -> None:
        """Refuse planes that the field does not know how to mix."""
        if len(self.cube) != self.field.n_basis:
            raise InputError(
                f"psf: {len(self.cube)} planes are refused; {self.field} mixes {self.field.n_basis}"
            )

    @classmethod
    def from_samples(cls, samples: ArrayLike, oversample: int = 1, *, normalize: bool = True) -> "EPSF":
        """Return a constant PSF from a table of samples.

        A table that ends within a pixel goes on with zeros to the next whole one, so that stamps hold every sample
        that the sum counts.

        Parameters
        ----------
        samples : array_like (sy, sx)
            Odd sizes, peak near the centre.
        oversample : int
            Samples per native pixel.
        normalize : bool
            Scale to unit sum.

        Raises
        ------
        InputError
            Not 2-D, even-sized, one sample, not finite, or a sum that is not positive.
        """
        table = np.array(samples, np.float64)
        if table.ndim != 2 or table.shape[0] % 2 == 0 or table.shape[1] % 2 == 0:
            raise InputError(f"psf: shape {table.shape} is refused; give a 2-D array with odd sizes, centred")
        if max(table.shape) < 3:
            raise InputError("psf: one sample is no PSF; give an array of at least 3 on a side")
        if not np.isfinite(table).all():
            raise InputError("psf: the array holds NaN or infinite values; fill them first")
        total = table.sum() / oversample**2
        if not total > 0:
            raise InputError(f"psf: the sum is {total:g}; it must be positive")
        square = _squared(table[np.newaxis], oversample)
        return cls(square / (total if normalize else 1.0), int(oversample))

    @classmethod
    def from_planes(cls, planes: ArrayLike, oversample: int, field: Field) -> "EPSF":
        """Return a PSF that varies over the field from its tables, scaled so that it sums to 1 at every position.

        Parameters
        ----------
        planes : array_like (n_basis, sy, sx)
            Odd sizes, centred on the middle sample.
        oversample : int
            Samples per native pixel.
        field : Constant, Polynomial or Grid
            How the planes mix.

        Raises
        ------
        InputError
            Not 3-D, even-sized, not finite, not the number of planes that the field needs, or a sum that is not
            positive somewhere on the field.
        """
        tables = np.array(planes, np.float64)
        if tables.ndim != 3 or tables.shape[1] % 2 == 0 or tables.shape[2] % 2 == 0:
            raise InputError(f"psf: shape {tables.shape} is refused; give planes with odd sizes, centred")
        if not np.isfinite(tables).all():
            raise InputError("psf: the planes hold NaN or infinite values; fill them first")
        return cls(_squared(tables, oversample), int(oversample), field).normalized()

    @cached_property
    def middle(self) -> "EPSF":
        """The constant PSF that holds at the middle of the field."""
        return self.at(*self.field.middle)

    @cached_property
    def radius(self) -> int:
        """Half width of the full stamp (pix)."""
        return int(self.cube.shape[1] // 2 // self.oversample)

    @property
    def support(self) -> int:
        """Half width of the largest window around a star that kernels may ask for (pix)."""
        return int(self.coef.shape[3] // 2 - 2)

    def window(self, width: float, least: int = 2) -> int:
        """Return the half width (pix) of a window of `width` FWHM, at least `least` and within the support."""
        return min(max(int(np.ceil(width * self.fwhm)), least), self.support)

    @cached_property
    def coef(self) -> F32:
        """Cubic B-spline coefficients by phase, (n_basis, s, s, k, k) float32, for the kernels."""
        s, centre = self.oversample, max(self.radius, int(4 * self.rough_fwhm) + 4) + 3
        k = 2 * centre + 1
        half = self.cube.shape[1] // 2
        out = np.zeros((len(self.cube), s, s, k, k), np.float32)
        for plane, samples in zip(out, self.cube, strict=True):
            grid = np.zeros((k * s, k * s))
            start = centre * s - half
            grid[start : start + 2 * half + 1, start : start + 2 * half + 1] = samples
            spline = spline_filter(grid, order=3, mode="mirror")
            plane[...] = spline.reshape(k, s, k, s).transpose(1, 3, 0, 2)
        return out

    def basis(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Return the weights of the planes at positions (x, y), (n, n_basis)."""
        return self.field.basis(x, y)

    def at(self, x: float, y: float) -> "EPSF":
        """Return the constant PSF that holds at the field position (x, y)."""
        if len(self.cube) == 1:
            return self
        weights = self.basis(x, y)[0]
        used = np.flatnonzero(weights)
        return EPSF(np.tensordot(weights[used], self.cube[used], 1)[np.newaxis], self.oversample)

    def stamp(self, x: float, y: float, size: int | None = None) -> F32:
        """Return the PSF of a star at (x, y) on the `size` x `size` pixels around its nearest pixel."""
        return np.asarray(self.planes(x, y, size)[0])

    def planes(self, x: float, y: float, size: int | None = None) -> F32:
        """Return value, d/dx and d/dy of the PSF of a star at (x, y), shape (3, size, size)."""
        half = self.radius if size is None else min(size // 2, self.radius)
        out = np.zeros((3, 2 * half + 1, 2 * half + 1), np.float32)
        col0, row0 = int(np.floor(x + 0.5)) - half, int(np.floor(y + 0.5)) - half
        fill_window(self.coef, self.basis(x, y)[0], float(x), float(y), col0, row0, out[0], out[1], out[2])
        if size is None or size // 2 == half:
            return out
        pad = size // 2 - half
        return np.asarray(np.pad(out, ((0, 0), (pad, pad), (pad, pad))))

    def native(self, size: int | None = None) -> F32:
        """Return the centred stamp at detector sampling, at the middle of the field."""
        return self.middle.stamp(0.0, 0.0, size)

    @cached_property
    def moments(self) -> tuple[float, float, float]:
        """Half-maximum width along the major axis, along the minor axis (pix) and position angle (deg).

        Second moments of the samples above half the peak: a uniform ellipse of semi-axis a has variance
        a^2 / 4. The sub-sample area of the contour fixes the scale. NaN where no sample near the middle is positive.
        """
        s = self.oversample
        fine = 4 if s >= 3 else 8
        table = self.middle.cube[0]
        c, reach = table.shape[0] // 2, int(np.ceil(2 * s + 1.5 * self.rough_fwhm * s))
        cut = table[max(c - reach, 0) : c + reach + 1, max(c - reach, 0) : c + reach + 1]
        big = zoom(
            cut, ((cut.shape[0] - 1) * fine + 1) / cut.shape[0], order=3, mode="nearest", grid_mode=False
        )
        if not big.max() > 0:
            return np.nan, np.nan, np.nan
        above = big > big.max() / 2
        v, u = np.nonzero(above)
        cxx, cyy, cxy = np.var(u), np.var(v), np.mean((u - u.mean()) * (v - v.mean()))
        root = np.hypot((cxx - cyy) / 2, cxy)
        major, minor = (cxx + cyy) / 2 + root, max((cxx + cyy) / 2 - root, 1e-6)
        unit = s * fine
        angle = 0.5 * np.degrees(np.arctan2(2 * cxy, cxx - cyy))
        return 4 * np.sqrt(major) / unit, 4 * np.sqrt(minor) / unit, float(angle)

    @cached_property
    def rough_fwhm(self) -> float:
        """Width from the number of samples above half the peak (pix)."""
        table = self.middle.cube[0]
        return float(2 * np.sqrt(np.sum(table > table.max() / 2) / np.pi) / self.oversample)

    @cached_property
    def fwhm(self) -> float:
        """Full width at half maximum, geometric mean of both axes (pix)."""
        major, minor, _ = self.moments
        return float(np.sqrt(major * minor))

    @property
    def ellipticity(self) -> float:
        """1 - minor / major axis of the half-maximum contour."""
        major, minor, _ = self.moments
        return float(1 - minor / major)

    @property
    def position_angle(self) -> float:
        """Angle of the major axis from the x axis towards y (deg)."""
        return self.moments[2]

    @cached_property
    def n_eff(self) -> float:
        """Effective area 1 / sum(P^2) (pix)."""
        return float(1 / np.sum(self.native().astype(np.float64) ** 2))

    @cached_property
    def envelope(self) -> F64:
        """Largest absolute value of the PSF at or beyond each whole-pixel radius, (radius + 1,).

        The azimuthal maximum and not the mean, so that spikes count; and the maximum over the field.
        """
        table = np.zeros_like(self.middle.cube[0])
        for x, y in self.field.places:
            np.maximum(table, np.abs(self.at(x, y).cube[0]), out=table)
        yy, xx = np.indices(table.shape) - table.shape[0] // 2
        ring = np.minimum(np.hypot(xx, yy) / self.oversample, self.radius).astype(int)
        peak = np.zeros(self.radius + 1)
        np.maximum.at(peak, ring.ravel(), table.ravel())
        return np.maximum.accumulate(peak[::-1])[::-1]

    def half_sizes(self, flux: NDArray[Any], level: float | NDArray[Any], smallest: int) -> NDArray[np.int64]:
        """Return the stamp half widths beyond which stars of the given fluxes fall below `level`.

        Parameters
        ----------
        flux : ndarray (n,)
            Fluxes (image unit).
        level : float or ndarray (n,)
            Surface brightness that may be neglected (image unit per pixel).
        smallest : int
            Least half width (pix).
        """
        with np.errstate(divide="ignore"):
            relative = np.asarray(level) / np.maximum(np.abs(flux), 1e-300)
        reach = np.searchsorted(-self.envelope, -relative * np.ones(np.shape(flux)))
        return np.asarray(np.clip(reach, min(smallest, self.radius), self.radius), np.int64)

    def centroid(self) -> tuple[float, float]:
        """Return the centroid (x, y) of the core at the middle of the field, relative to the middle sample (pix).

        A Gaussian window of the PSF's own width, moved until it sits on the centroid (Bertin's windowed
        position), so that wings and noise far out do not matter.
        """
        s, middle = self.oversample, self.cube.shape[1] // 2
        half = min(int(np.ceil(2.5 * self.fwhm * s)), middle)
        table = self.middle.cube[0, middle - half : middle + half + 1, middle - half : middle + half + 1]
        grid = np.arange(-half, half + 1) / s
        xx, yy = np.meshgrid(grid, grid)
        sigma2 = (self.fwhm / 2.3548) ** 2
        x = y = 0.0
        for _ in range(50):
            window = np.exp(-0.5 * ((xx - x) ** 2 + (yy - y) ** 2) / sigma2) * np.maximum(table, 0)
            total = window.sum()
            step_x, step_y = np.sum(window * (xx - x)) / total, np.sum(window * (yy - y)) / total
            x, y = x + 2 * step_x, y + 2 * step_y
            if np.hypot(step_x, step_y) < 1e-6:
                break
        return float(x), float(y)

    def check_width(self, name: str = "psf") -> None:
        """Refuse a table without light at its middle; the message begins with `name`.

        Raises
        ------
        InputError
            Such a table has no width.
        """
        if not np.isfinite(self.fwhm):
            raise InputError(
                f"{name}: the PSF has no width, since nothing is positive around its middle; its values should fall "
                "from there outwards"
            )

    def recentred(self) -> tuple["EPSF", tuple[float, float]]:
        """Return the PSF shifted so that its core is centred, and the centroid (x, y) it had (pix).

        A PSF that varies moves by the same step everywhere: what it moves by from place to place is its own.
        """
        self.check_width()
        x, y = self.centroid()
        step = (0.0, -y * self.oversample, -x * self.oversample)
        moved = shift(self.cube, step, order=3, mode="constant") if np.hypot(x, y) > 1e-5 else self.cube
        return self.with_cube(moved).normalized(), (x, y)

    def normalized(self) -> "EPSF":
        """Return the PSF that sums to 1 at every position on the field.

        The table of each place is divided by its sum, and the result is put back into the form of the field by least
        squares; the sum is then 1 everywhere, because the constant 1 is within every form.

        Raises
        ------
        InputError
            The sum is not positive somewhere on the field.
        """
        sums = np.array([plane.sum() for plane in self.cube]) / self.oversample**2
        weights = self.basis(*self.field.places.T)
        totals = weights @ sums
        if not np.all(totals > 0):
            raise InputError(f"psf: the sum is {totals.min():g} somewhere on the field; it must be positive")
        if len(sums) == 1:
            return self.with_cube(self.cube / sums[0])
        mixing = np.linalg.pinv(weights) @ (weights / totals[:, np.newaxis])
        return self.with_cube(np.tensordot(mixing, self.cube, 1))

    def with_cube(self, cube: F64) -> "EPSF":
        """Return the same PSF with another table."""
        return replace(self, cube=cube)


def _squared(tables: F64, oversample: int) -> F64:
    """Return odd-sized tables (n, sy, sx) as squares that end on a whole pixel, zeros where they were shorter."""
    half = -(-(max(tables.shape[1:]) // 2) // oversample) * oversample
    return np.pad(tables, [(0, 0), *((half - n // 2, half - n // 2) for n in tables.shape[1:])])
