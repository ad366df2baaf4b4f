"""The PSF measured on the crowded image itself.

Every pixel of every chosen star, cleaned of its neighbours, is one linear equation in the PSF. Two linear fits follow
each other: a *profile*, radial B-splines of the elliptical radius out to where the brightest star drowns in noise,
which is the baseline and the wings; then a *table* of oversampled B-spline coefficients for the departures from that
profile, coarse out to where spikes and rings are seen and fine in the core. Stars are never shifted or resampled,
which would broaden an undersampled PSF (C032). Where the data say little the table falls back to the profile, by a
prior as wide as lets one half of the stars foretell the other half best, and the profile to its own previous form, so
that noise does not creep into the wings.
"""

from dataclasses import dataclass

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from crowdfit._kernels.psf_sums import accumulate_profile, accumulate_table
from crowdfit.psf.departures import TableEquations, departure_shape, spline_samples
from crowdfit.psf.epsf import EPSF

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

PARTS = 8
"""Partial sums that threads fill; fixed, so that the result does not depend on the number of threads."""
FINE = 50
"""Samples per pixel of the tabulated radial basis."""
TABLE_REACH = 10.0
"""Half width of the table of departures at most (FWHM)."""
CORE_REACH = 2.5
"""Half width of the part of it that is sampled finely (FWHM)."""
MOST_KNOTS = 60
"""Half width of the table of departures at most (knots): what its equations cost grows as the fourth power."""
CLIP = 4.0
"""Residuals beyond this many sigma lose weight: undetected neighbours, cosmic rays."""


@dataclass(frozen=True, eq=False)
class StarPixels:
    """The stars that a PSF is fitted to, and the image around them.

    Parameters
    ----------
    x, y, flux : ndarray (n,) float64
        Positions (pix) and fluxes (image unit).
    model, resid, ivar : ndarray (ny, nx) float32
        Light of all stars, residual of the whole model, and inverse variance with photons.
    error : float
        Fractional error of the present PSF, added to the noise so that the brightest stars do not rule alone.
    neighbour_error : float
        The same for the light of other stars, which may hold part of the wing that they stand on.
    """

    x: F64
    y: F64
    flux: F64
    model: F32
    resid: F32
    ivar: F32
    error: float
    neighbour_error: float

    @property
    def image(self) -> tuple[F32, F32, F32]:
        """Model, residual and inverse variance, for the kernels."""
        return self.model, self.resid, self.ivar

    @property
    def trust(self) -> F64:
        """Both fractional errors, for the kernels."""
        return np.array([self.error, self.neighbour_error])

    def table_equations(
        self,
        psf: EPSF,
        replaced: EPSF,
        half: int,
        knots: int,
        reach: F64,
        part: NDArray[np.int64],
        parts: int,
    ) -> TableEquations:
        """Return the normal equations of a table of B-splines that takes the place of a part of the PSF.

        Parameters
        ----------
        psf, replaced : EPSF
            The present PSF, and the part of it that is being replaced; of the same sampling and field.
        half, knots : int
            Half width of the table (knots), and knots per pixel.
        reach : ndarray (n,) float64
            Pixels of each star within so many pixels are used.
        part : ndarray (n,) int64
            In which of the equations each star counts, from 0.
        parts : int
            How many equations there are.
        """
        m, side = parts, 2 * half + 1
        equations = TableEquations(
            np.zeros((m, side, side, 7, 7)), np.zeros((m, 2, side, side)), np.zeros((m, 2))
        )
        accumulate_table(
            (psf.coef, replaced.coef), psf.basis(self.x, self.y), self.x, self.y, self.flux, reach, knots, self.trust,
            CLIP, self.image, part, *equations,
        )  # fmt: skip
        return equations


@dataclass(frozen=True)
class Ellipse:
    """Shape of the PSF's contours; r^2 = a u^2 + b u v + c v^2 with unit area scale."""

    a: float
    b: float
    c: float

    @classmethod
    def of(cls, psf: EPSF) -> "Ellipse":
        """Return the half-maximum ellipse of a PSF, scaled to the area of the circle of the same FWHM."""
        major, minor, angle = psf.moments
        q = minor / major
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        return cls(cos**2 * q + sin**2 / q, 2 * cos * sin * (q - 1 / q), sin**2 * q + cos**2 / q)

    def radius(self, u: F64, v: F64) -> F64:
        """Return the elliptical radius of offsets (u, v)."""
        return np.sqrt(np.maximum(self.a * u * u + self.b * u * v + self.c * v * v, 0))


def sampling(fwhm: float) -> int:
    """Return samples per pixel that put about eight into the FWHM."""
    return int(np.clip(round(8 / fwhm), 1, 6))


def radial_knots(fwhm: float, reach: float) -> F64:
    """Return knots of the radial profile: 0.15 FWHM apart in the core and rings, then growing by 12 % each."""
    knots, step = [0.0], 0.15 * fwhm
    while knots[-1] < reach:
        if knots[-1] > 5 * fwhm:
            step *= 1.12
        knots.append(knots[-1] + step)
    return np.asarray(knots)


class RadialBasis:
    """Cubic B-splines of the radius, even at the centre, tabulated for the kernels."""

    def __init__(self, fwhm: float, reach: float) -> None:
        inner = radial_knots(fwhm, reach)
        step = inner[1] - inner[0]
        tail = inner[-1] - inner[-2]
        before, after = inner[0] - step * np.arange(3, 0, -1), inner[-1] + tail * np.arange(1, 4)
        self.knots = np.concatenate([before, inner, after])
        self.n = len(self.knots) - 4
        self.reach = float(inner[-1])
        self.centres = np.abs((self.knots[1:-3] + self.knots[2:-2] + self.knots[3:-1]) / 3)
        grid = np.arange(int(self.reach * FINE)) / FINE
        dense = scipy.interpolate.BSpline.design_matrix(
            np.clip(grid, 0, self.reach * (1 - 1e-9)), self.knots, 3
        ).toarray()
        self.first = (
            np.searchsorted(self.knots, np.clip(grid, 0, self.reach * (1 - 1e-9)), "right") - 4
        ).astype(np.int64)
        self.weights = np.take_along_axis(dense, self.first[:, None] + np.arange(4), axis=1)
        # the profile is even in r: the mirrored spline left of the centre shares the coefficient of its image
        even = self.first == 0
        self.weights[even, 2] += self.weights[even, 0]
        self.weights[even, 0] = 0
        self.weights = np.concatenate([self.weights, [[FINE, 0, 0, 0]]])
        self.first = np.concatenate([self.first, [0]])

    def values(self, coefs: F64, radius: F64) -> F64:
        """Return the profile at given radii (pix); 0 beyond its reach."""
        inside = radius < self.reach
        out = np.zeros(np.shape(radius))
        out[inside] = scipy.interpolate.BSpline(self.knots, coefs, 3)(radius[inside])
        return out

    def fit(self, radius: F64, values: F64, weight: F64) -> F64:
        """Return the coefficients closest to given values."""
        inside = radius < self.reach * (1 - 1e-9)
        design = scipy.interpolate.BSpline.design_matrix(radius[inside], self.knots, 3).toarray()
        design[:, 2] += design[:, 0]
        design[:, 0] = 0
        w = weight[inside][:, None]
        normal = design.T @ (w * design)
        diagonal = np.diag(normal)
        normal += np.diag(np.where(diagonal > 0, 1e-9 * diagonal, 1.0))
        return self.mirrored(
            np.asarray(np.linalg.solve(normal, design.T @ (w[:, 0] * values[inside])), np.float64)
        )

    def mirrored(self, coefs: F64) -> F64:
        """Return the coefficients with the one left of the centre equal to its image."""
        out = np.array(coefs)
        out[0] = out[2]
        return out


def radial_values(psf: EPSF, ellipse: Ellipse, basis: RadialBasis) -> F64:
    """Return the profile coefficients of an existing PSF, from its mean along ellipses."""
    step = basis.knots[4] - basis.knots[3]
    radius = np.arange(0, min(basis.reach, psf.radius) * (1 - 1e-9), step / 3)
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    x, y = np.outer(radius, np.cos(angle)), np.outer(radius, np.sin(angle))
    stretch = radius[:, None] / np.maximum(ellipse.radius(x, y), 1e-9)
    middle, s = psf.cube.shape[1] // 2, psf.oversample
    at = [middle + y * stretch * s, middle + x * stretch * s]
    values = map_coordinates(psf.cube[0], at, order=3, mode="nearest").mean(axis=1)
    beyond = np.arange(radius[-1] + step, basis.reach * (1 - 1e-9), step)
    radius, values = np.append(radius, beyond), np.append(values, np.zeros(len(beyond)))
    return basis.fit(radius, values, 1 / (np.abs(values) + 1e-6 * values.max()) ** 2)


def fit_profile(
    stars: StarPixels, psf: EPSF, ellipse: Ellipse, basis: RadialBasis, reach: F64
) -> tuple[F64, F64]:
    """Return profile coefficients, and the error of their mean `around` each radius.

    The prior is the present profile within half of itself, so that radii without information stay as they are;
    its width is never below half of an r^-3.5 wing, so that a wing lost in an early pass can come back.
    """
    n, fwhm = basis.n, psf.fwhm
    matrices, vectors = np.zeros((PARTS, n, n)), np.zeros((PARTS, n))
    accumulate_profile(
        psf.coef, stars.x, stars.y, stars.flux, reach, np.array([ellipse.a, ellipse.b, ellipse.c]),
        basis.first, basis.weights, stars.trust, CLIP, stars.image, matrices, vectors,
    )  # fmt: skip
    matrix, vector = matrices.sum(axis=0), vectors.sum(axis=0)
    prior = radial_values(psf, ellipse, basis)
    edge = 1.5 * fwhm
    wing = float(basis.values(prior, np.array([edge]))[0]) * (np.maximum(basis.centres, edge) / edge) ** -3.5
    scale = np.maximum(np.abs(prior), wing)
    precision = 1 / (0.5 * scale) ** 2
    covariance = np.linalg.inv(matrix + np.diag(precision))
    coefs = basis.mirrored(covariance @ (vector + precision * prior))
    # what the stars say of the mean height around each radius: the errors without the part that the prior has in them
    mean = around(basis.centres, fwhm)
    with_prior, of_prior = quadratic(mean, covariance), (mean**2) @ (1 / precision)
    err = 1 / np.sqrt(np.maximum(1 / with_prior - 1 / of_prior, 1e-9 / of_prior))
    return coefs, err


def quadratic(rows: F64, matrix: F64) -> F64:
    """Return r^T M r for every row r."""
    return np.asarray(np.einsum("ij,jk,ik->i", rows, matrix, rows))


def around(radius: F64, fwhm: float) -> F64:
    """Return the matrix that averages a profile over a ring and the gap next to it: radii within a FWHM, or 20 %.

    What is averaged is the profile times r^3.5, and the factor taken out again, so that the average is no higher
    than a smooth wing is.
    """
    near = np.abs(radius - radius[:, None]) <= np.maximum(fwhm, 0.2 * radius)[:, None]
    flat = np.maximum(radius, 0.5 * fwhm) ** 3.5
    return np.asarray(near / near.sum(axis=1, keepdims=True) * flat / flat[:, None])


def extrapolated(basis: RadialBasis, coefs: F64, err: F64, fwhm: float) -> F64:
    """Return the profile with a power law beyond the radius where its mean height is known to a fifth of itself.

    `err` is the error of the mean `around` each radius: the gap between two diffraction rings is no end of the
    profile. The slope is that of the last well-known factor two in radius, between r^-2.5 and r^-6.
    """
    radius, level = basis.centres, coefs.copy()
    mean = around(radius, fwhm) @ coefs
    bad = (mean < 5 * err) & (radius > 1.5 * fwhm)
    edge = radius[np.argmax(bad)] if bad.any() else basis.reach
    # nothing from beyond the edge in the means that the power law is fitted to
    known = (radius > edge / 2) & (radius + np.maximum(fwhm, 0.2 * radius) < edge) & (mean > 0)
    if np.count_nonzero(known) < 3:
        return np.maximum(level, 0)
    slope, height = np.polyfit(np.log(radius[known]), np.log(mean[known]), 1)
    slope = float(np.clip(slope, -6, -2.5))
    height = float(np.mean(np.log(mean[known]) - slope * np.log(radius[known])))
    far = radius >= edge
    level[far] = np.exp(height + slope * np.log(radius[far]))
    return np.maximum(level, 0)


def sample_profile(basis: RadialBasis, coefs: F64, ellipse: Ellipse, s: int, half: int) -> F64:
    """Return the profile on a table of `s` samples per pixel and half width `half` pixels."""
    grid = np.arange(-half * s, half * s + 1) / s
    return basis.values(coefs, ellipse.radius(*np.meshgrid(grid, grid)))


def table_reach(stars: StarPixels, basis: RadialBasis, coefs: F64, fwhm: float) -> float:
    """Return how far out departures of 30 % from the profile are seen over an area of one FWHM squared (pix)."""
    typical = np.median(stars.ivar[stars.ivar > 0])
    information = np.sum(stars.flux**2) * typical * fwhm**2
    radius = np.arange(0, TABLE_REACH * fwhm, 0.25)
    seen = 0.3 * basis.values(coefs, radius) > 1 / np.sqrt(information)
    reach = radius[~seen][0] if not seen.all() else radius[-1]
    return float(np.clip(reach, 2.5 * fwhm, TABLE_REACH * fwhm))


def fit_table(stars: StarPixels, psf: EPSF, base: F64, knots: int, reach: F64) -> F64:
    """Return the table of departures from `base`, as samples like it (side, side).

    `psf` must have the sampling and size of `base`; the departures are splines of `knots` per pixel. The prior is
    a Gaussian field with a share of the local height of `base` as its width, smooth over a few knots; it also
    tapers the table to 0 at the largest `reach` (n,), within which each star's pixels are used.
    """
    s, widest = psf.oversample, float(reach.max())
    departure = EPSF((psf.cube[0] - base)[np.newaxis], s)
    half = int(np.ceil(widest)) * knots + 3
    part = np.arange(len(stars.x)) % PARTS
    equations = stars.table_equations(psf, departure, half, knots, reach, part, PARTS)
    shape = departure_shape(np.maximum(base, psf.cube[0]), s, half, knots, widest)
    coefs = equations.summed().solve(equations.best_share(shape) * shape)
    return spline_samples(coefs, knots, s, base.shape[0] // 2)


def resampled(psf: EPSF, s: int, half: int) -> EPSF:
    """Return a PSF on tables of `s` samples per pixel and half width `half` (pix), of unit sum everywhere."""
    if psf.oversample == s and psf.cube.shape[1] == 2 * half * s + 1:
        return psf
    grid = np.arange(-half * s, half * s + 1) / s * psf.oversample + psf.cube.shape[1] // 2
    yy, xx = np.meshgrid(grid, grid, indexing="ij")
    tables = [map_coordinates(plane, [yy, xx], order=3, mode="constant") for plane in psf.cube]
    return EPSF(np.array(tables), s, psf.field).normalized()


def refit(stars: StarPixels, psf: EPSF, half: int, reach: F64) -> EPSF:
    """Return the PSF that the stars ask for, starting from `psf`, with unit sum over `half` pixels.

    Parameters
    ----------
    stars : StarPixels
        Chosen stars and the residual image.
    psf : EPSF
        Present PSF, with which `stars.resid` was made.
    half : int
        Half width of the new table (pix).
    reach : ndarray (n,) float64
        How far out each star's pixels are used (pix).
    """
    s, fwhm = sampling(psf.fwhm), psf.fwhm
    current = resampled(psf, s, half)
    ellipse = Ellipse.of(current)
    basis = RadialBasis(fwhm, half * 1.5)
    coefs, err = fit_profile(stars, current, ellipse, basis, reach)
    coefs = extrapolated(basis, coefs, err, fwhm)
    profile = sample_profile(basis, coefs, ellipse, s, half)
    # spikes and rings far out on a coarse grid, then what is finer in the core
    coarse = max(s // 2, 1)
    reach_out = np.minimum(reach, min(table_reach(stars, basis, coefs, fwhm), half, MOST_KNOTS / coarse))
    table = profile + fit_table(stars, current, profile, coarse, reach_out)
    if coarse < s:
        table += fit_table(stars, current, table, s, np.minimum(CORE_REACH * fwhm, reach_out))
    return EPSF(phase_balanced(table, s)[np.newaxis], s)


def phase_balanced(table: F64, s: int) -> F64:
    """Return the table with the same sum at every sub-pixel phase.

    A star loses no light between pixels: what all of them collect does not depend on where it lies in its
    pixel. Fluxes and phases of the table could otherwise drift against each other, a star of one phase too
    bright and the PSF of that phase too faint.
    """
    out, total = table.copy(), table.sum() / s**2
    for a in range(s):
        for b in range(s):
            out[a::s, b::s] *= total / out[a::s, b::s].sum()
    return out
