"""Width and shape of the stars over the field, beside those of the PSF: whether it is right everywhere (P037).

Bright uncrowded stars are measured on the image cleaned of all others. Second moments with a Gaussian weight as
wide as the PSF are taken of each star and of the PSF at the same place through the same mask, so that pixels, mask,
weight and wings change both alike; what the star has more or less than the PSF is its own.

Faint sources within a star's own disc count as part of it: where stars are wider than the PSF, the fit makes up the
difference with such sources, and without them every star would look like the PSF. Real companions count likewise: at
one star to 19 pixels of a 2.6 px PSF the stars seem 2 % wider than they are, at one to 7 pixels 7 %.
"""

from dataclasses import dataclass

import numpy as np
import scipy  # its submodules are imported when they are first used
from numpy.typing import NDArray

from crowdfit import flags
from crowdfit._kernels.stamps import fill_stamps
from crowdfit.frame import Frame
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Grid
from crowdfit.robust import scatter
from crowdfit.sources import Sources

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MIN_SNR = 30.0
"""Least flux / error of a star."""
DISC = 1.5
"""Radius within which all light is the star's (FWHM); the weight is below 0.2 % there."""
MAX_COMPANION = 0.8
"""A source in the disc that has more than this share of the star's flux is a star of its own."""
MIN_SHARE = 0.9
"""Least share of the weighted light in the window that is the star's, and least usable share of it."""
MIN_STARS = 5
"""A cell with fewer stars stays empty."""
STARS_PER_CELL = 12
"""The grid is as fine as leaves so many stars to a cell on average."""
MAX_CELLS = 8
"""Most cells along a side of the image."""
MAX_STARS = 16
"""Most stars looked at in each cell of the finest grid, the brightest."""
STARLIGHT = 2.0
"""Pixels whose model exceeds this many sigma of the noise show how well stars are fitted."""
MIN_PIXELS, CHI_PIXELS = 100, 20_000
"""With fewer of them a cell says nothing; so many give its chi to half a percent."""
BATCH = 64
"""So many stars are measured together, to bound memory."""
VARIES = 0.08
"""Stars whose width, or its ratio to that of the PSF, differs by more than this share between two cells do not have the
PSF that was fitted; crowding alone makes 7 %."""
SURE = 5.0
"""The difference must also be this many times its error."""


@dataclass(frozen=True, eq=False)
class PsfMap:
    """Medians of the stars in the cells of a grid over the field.

    Parameters
    ----------
    n_stars : ndarray (cy, cx) int64
        Stars measured.
    fwhm, fwhm_err : ndarray (cy, cx) float64
        Full width at half maximum and its 1-sigma error (pix); NaN where `n_stars` is below `MIN_STARS`, as below.
    ellipticity, position_angle : ndarray (cy, cx) float64
        1 - minor / major axis, and angle of the major axis from x towards y (deg).
    ratio : ndarray (cy, cx) float64
        FWHM of the stars over that of the PSF where they are.
    chi : ndarray (cy, cx) float64
        Robust rms of the residual over its noise on pixels where the stars outshine the noise, 1 for a perfect model;
        NaN with fewer than `MIN_PIXELS` of them.
    shape : tuple of int
        Rows and columns of the image, which the cells divide evenly.
    """

    n_stars: I64
    fwhm: F64
    fwhm_err: F64
    ellipticity: F64
    position_angle: F64
    ratio: F64
    chi: F64
    shape: tuple[int, int]

    @property
    def width_range(self) -> tuple[float, float, float]:
        """The least and the largest FWHM of a cell and the error of their difference (pix); NaN without cells."""
        return _range(self.fwhm, self.fwhm_err)

    @property
    def problem(self) -> str:
        """Why one PSF for the whole field is not enough; empty when nothing shows that."""
        low, high, error = self.width_range
        if not _differ(low, high, error):
            return ""
        return (
            f"the FWHM of the stars varies over the field from {low:.2f} to {high:.2f} px; one PSF is fitted"
        )

    @property
    def ratio_range(self) -> tuple[float, float, float]:
        """The least and the largest ratio of widths of a cell and the error of their difference; NaN without cells."""
        return _range(self.ratio, self.ratio * self.fwhm_err / self.fwhm)

    @property
    def misfit(self) -> str:
        """How a PSF that varies departs from the stars all the same; empty when nothing shows that."""
        low, high, error = self.ratio_range
        if not _differ(low, high, error):
            return ""
        return (
            f"the FWHM of the stars is {low:.2f} to {high:.2f} times that of the PSF at their places; the PSF varies, "
            "but not as they do"
        )


def _range(values: F64, errors: F64) -> tuple[float, float, float]:
    """Return the least and the largest value and the error of their difference; NaN where all are."""
    if not np.isfinite(values).any():
        return np.nan, np.nan, np.nan
    low, high = np.nanargmin(values), np.nanargmax(values)
    return (
        float(values.flat[low]),
        float(values.flat[high]),
        float(np.hypot(errors.flat[low], errors.flat[high])),
    )


def _differ(low: float, high: float, error: float) -> bool:
    return high > (1 + VARIES) * low and high - low > SURE * error


def missing_variation(psf: EPSF, psf_map: PsfMap) -> str:
    """Return what the map says against the PSF: that it does not vary, or not as the stars do; empty for nothing."""
    return psf_map.problem if len(psf.cube) == 1 else psf_map.misfit


def measure_psf_map(frame: Frame, sources: Sources) -> PsfMap:
    """Return the map of a fitted frame, whose model is that of `sources` with their final flags."""
    shape = frame.exposure.shape
    is_bright = sources.flux > MIN_SNR * np.maximum(sources.flux_err, frame.isolated_error(np.zeros(1)))
    bright = np.flatnonzero(is_bright & ~flags.has(sources.flags, "saturated"))
    finest = _cell_of(sources.take(bright), shape, (MAX_CELLS, MAX_CELLS))
    chosen = bright[_brightest(finest, sources.flux[bright])]
    parts = [star_shapes(frame, sources, chosen[k : k + BATCH]) for k in range(0, len(chosen), BATCH)]
    shapes = np.concatenate([np.empty((0, 3)), *parts])
    measured = np.isfinite(shapes).all(axis=1) & (_determinant(shapes) > 0) & (shapes[:, 0] > 0)
    cells, stars = _grid(int(np.count_nonzero(measured)), shape), sources.take(chosen[measured])
    expected = _widths(_ellipses(frame.psf, stars, shape))
    return _medians(shapes[measured], expected, _cell_of(stars, shape, cells), shape, chi_map(frame, cells))


def chi_map(frame: Frame, cells: tuple[int, int]) -> F64:
    """Return the robust rms of the residual over its noise in cells (rows, columns) of the field, on starlight.

    Of pixels whose model exceeds `STARLIGHT` times the noise of one without stars, at most some `CHI_PIXELS` a cell.
    """
    (ny, nx), chi = frame.exposure.shape, np.full(cells, np.nan)
    for row, col in np.ndindex(cells):
        here = np.s_[
            row * ny // cells[0] : (row + 1) * ny // cells[0],
            col * nx // cells[1] : (col + 1) * nx // cells[1],
        ]
        bright = frame.exposure.good[here] & (frame.model[here] > STARLIGHT * frame.noise)
        pull = frame.resid[here][bright] * np.sqrt(frame.fit_ivar[here][bright])
        if len(pull) >= MIN_PIXELS:
            pull = pull[:: max(len(pull) // CHI_PIXELS, 1)]
            chi[row, col] = scatter(pull)
    return chi


def _grid(n: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the grid of about square cells for `n` stars."""
    ny, nx = shape
    wanted = max(n / STARS_PER_CELL, 1)
    rows, cols = (np.clip(round(np.sqrt(wanted * ratio)), 1, MAX_CELLS) for ratio in (ny / nx, nx / ny))
    return int(rows), int(cols)


def _cell_of(stars: Sources, shape: tuple[int, int], cells: tuple[int, int]) -> I64:
    """Return the number of the cell in which each star is."""
    row, col = (
        np.clip((place + 0.5) / size * n, 0, n - 1).astype(np.int64)
        for place, size, n in zip((stars.y, stars.x), shape, cells, strict=True)
    )
    return np.asarray(row * cells[1] + col)


def _brightest(cell: I64, flux: F64) -> I64:
    """Return the indices of the `MAX_STARS` brightest stars of each cell."""
    order = np.lexsort((-flux, cell))
    ordered = cell[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return np.asarray(order[rank < MAX_STARS])


def star_shapes(frame: Frame, sources: Sources, index: I64) -> F64:
    """Return variance in x, variance in y and covariance (pix^2) of the half-maximum ellipses of stars.

    Parameters
    ----------
    frame : Frame
        With the model of `sources`.
    sources : Sources
        All stars.
    index : ndarray (n,) int64
        The stars to measure.

    Returns
    -------
    ndarray (n, 3)
        On the scale of `EPSF.moments`, whose numbers a star like the PSF gets; NaN for a star that is crowded,
        masked, on the edge, or no peak.
    """
    psf, stars = frame.psf, sources.take(index)
    half = min(psf.window(DISC, 3), (psf.support - 1) // 2)
    offsets = np.arange(-half, half + 1)
    at, is_inside = _pixels(stars, offsets, frame.exposure.shape)
    u, v = np.broadcast_arrays(at[1] - stars.x[:, None, None], at[0] - stars.y[:, None, None])
    sigma2 = max(psf.fwhm, 1.2) ** 2 / (8 * np.log(2))
    gauss = np.exp(-0.5 * (u**2 + v**2) / sigma2)
    weight = np.where(frame.exposure.good[at] & is_inside, gauss, 0)
    model, own, is_single = _own_light(psf, sources, index, half)
    clean = frame.resid[at] + own
    around = frame.model[at] - own
    with np.errstate(invalid="ignore", divide="ignore"):
        light, others, usable, whole = (
            np.sum(part, axis=(1, 2))
            for part in (weight * own, weight * np.abs(around), weight * model, gauss * model)
        )
        is_alone = is_single & (light > MIN_SHARE * (light + others)) & (usable > MIN_SHARE * whole)
        theirs, expected = (_unweighted(weight * part, u, v, sigma2) for part in (clean, model))
        ellipse = _ellipses(psf, stars, frame.exposure.shape)
        scale = np.sqrt(_determinant(ellipse) / _determinant(expected))[:, None]
    return np.where(is_alone[:, None], ellipse + scale * (theirs - expected), np.nan)


def _pixels(
    stars: Sources, offsets: I64, shape: tuple[int, int]
) -> tuple[tuple[I64, I64], NDArray[np.bool_]]:
    """Return rows and columns of the windows around stars, (n, s, s), and whether they are on the image.

    Those that are not stand for the nearest pixel that is.
    """
    rows = np.floor(stars.y + 0.5).astype(np.int64)[:, None, None] + offsets[:, None]
    cols = np.floor(stars.x + 0.5).astype(np.int64)[:, None, None] + offsets
    rows, cols = np.broadcast_arrays(rows, cols)
    at = np.clip(rows, 0, shape[0] - 1), np.clip(cols, 0, shape[1] - 1)
    return at, (at[0] == rows) & (at[1] == cols)


def _own_light(psf: EPSF, sources: Sources, index: I64, half: int) -> tuple[F64, F64, NDArray[np.bool_]]:
    """Return P and the light of the chosen stars and all in their discs, (n, s, s), and which have no equal there."""
    points = np.column_stack([sources.x, sources.y])
    near = scipy.spatial.cKDTree(points[index]).sparse_distance_matrix(
        scipy.spatial.cKDTree(points), min(DISC * psf.fwhm, half), output_type="ndarray"
    )
    near = near[np.lexsort((near["j"], near["i"]))]
    star, other = near["i"], near["j"]
    is_self = other == index[star]
    n_big = np.bincount(
        star[~is_self & (sources.flux[other] > MAX_COMPANION * sources.flux[index[star]])],
        minlength=len(index),
    )
    # windows of all sources, wide enough to be cut to those of their stars
    wide = 2 * half + 1
    size = 2 * wide + 1
    stamps = np.zeros((3, len(other) * size * size), np.float32)
    x, y = sources.x[other], sources.y[other]
    offset = np.arange(len(other), dtype=np.int64) * size * size
    fill_stamps(psf.coef, psf.basis(x, y), x, y, np.full(len(other), wide, np.int64), offset, stamps)
    step_x, step_y = (
        np.floor(place[index[star]] + 0.5).astype(np.int64) - np.floor(place[other] + 0.5).astype(np.int64)
        for place in (sources.x, sources.y)
    )
    offsets = np.arange(-half, half + 1)
    rows, cols = (step[:, None] + offsets + wide for step in (step_y, step_x))
    windows = stamps[0].reshape(-1, size, size)
    cut = windows[np.arange(len(other))[:, None, None], rows[:, :, None], cols[:, None, :]].astype(np.float64)
    own = np.zeros((len(index), 2 * half + 1, 2 * half + 1))
    np.add.at(own, star, sources.flux[other][:, None, None] * cut)
    return cut[is_self], own, n_big == 0


def _unweighted(light: F64, u: F64, v: F64, sigma2: float) -> F64:
    """Return the second moments (n, 3) of weighted light as they would be without its Gaussian weight.

    Exact for a Gaussian star, whose inverse variance is that of the weighted light less that of the weight; NaN
    where nothing is left of it.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        total = light.sum(axis=(1, 2))
        x, y = ((light * w).sum(axis=(1, 2)) / total for w in (u, v))
        xx, yy, xy = ((light * w).sum(axis=(1, 2)) / total for w in (u * u, v * v, u * v))
        inverse = _inverted(np.stack([xx - x * x, yy - y * y, xy - x * y], axis=1))
        inverse[:, :2] -= 1 / sigma2
        is_star = (total > 0) & (_determinant(inverse) > 0) & (inverse[:, 0] > 0)
        return np.where(is_star[:, None], _inverted(inverse), np.nan)


def _determinant(matrix: F64) -> F64:
    """Return the determinants of symmetric matrices given as xx, yy, xy, (n, 3)."""
    return np.asarray(matrix[:, 0] * matrix[:, 1] - matrix[:, 2] ** 2)


def _inverted(matrix: F64) -> F64:
    """Return the inverses of symmetric matrices given as xx, yy, xy, (n, 3)."""
    return np.asarray(matrix[:, [1, 0, 2]] * [1, 1, -1] / _determinant(matrix)[:, None])


def _ellipses(psf: EPSF, stars: Sources, shape: tuple[int, int]) -> F64:
    """Return the variances of the half-maximum ellipse of the PSF at each star, (n, 3) (pix^2).

    Those of a PSF that varies are linear between nodes on the image (ny, nx): a contour for each star would take long.
    """
    x, y = psf.field.nodes(shape)
    grid = Grid(tuple(x.tolist()), tuple(y.tolist()))
    major, minor, angle = np.array([psf.at(*place).moments for place in grid.places]).T
    a, b, phi = (major / 4) ** 2, (minor / 4) ** 2, np.radians(2 * angle)
    at_nodes = np.stack(
        [(a + b + (a - b) * np.cos(phi)) / 2, (a + b - (a - b) * np.cos(phi)) / 2, (a - b) * np.sin(phi) / 2],
        1,
    )
    return np.asarray(grid.basis(stars.x, stars.y) @ at_nodes)


def _widths(shapes: F64) -> F64:
    """Return the FWHM (n,) of half-maximum ellipses given as variances, (n, 3) (pix^2)."""
    return np.asarray(4 * _determinant(shapes) ** 0.25)


def _medians(shapes: F64, expected: F64, cell: I64, shape: tuple[int, int], chi: F64) -> PsfMap:
    """Return the map from shapes (n, 3), widths of the PSF (n,) and cell numbers (n,) of stars.

    Medians of variances, not of ellipticities: noise makes every single star elongated, in a direction of its own.
    """
    cells, n = chi.shape, chi.size
    middle, error, ratio = np.full((n, 3), np.nan), np.full(n, np.nan), np.full(n, np.nan)
    count = np.bincount(cell, minlength=n)
    widths = _widths(shapes)
    for k in np.flatnonzero(count >= MIN_STARS):
        here = widths[cell == k]
        middle[k] = np.median(shapes[cell == k], axis=0)
        ratio[k] = np.median(here / expected[cell == k])
        # the median of n normal numbers scatters by sqrt(pi / 2 n)
        error[k] = scatter(here) * np.sqrt(np.pi / 2 / len(here))
    xx, yy, xy = middle.T
    root = np.hypot((xx - yy) / 2, xy)
    major, minor = (xx + yy) / 2 + root, (xx + yy) / 2 - root
    angle = np.degrees(np.arctan2(2 * xy, xx - yy)) / 2
    return PsfMap(
        n_stars=count.reshape(cells),
        fwhm=(4 * (major * minor) ** 0.25).reshape(cells),
        fwhm_err=error.reshape(cells),
        ellipticity=(1 - np.sqrt(minor / major)).reshape(cells),
        position_angle=angle.reshape(cells),
        ratio=ratio.reshape(cells),
        chi=chi,
        shape=shape,
    )
