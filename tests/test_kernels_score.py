"""The score test of a trial star, against dense matrices."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, maximum_filter

from crowdfit._kernels import score as kernels
from crowdfit.neighbours import build_grid
from crowdfit.psf.analytic import gaussian
from crowdfit.render import render
from tests.reference import EPS
from tests.reference import score as twins
from tests.reference.scenes import ORDERS, Scene, make_scene

HALF, REACH, MOST = 4, 5.0, 4


def trials(s, n=10, seed=8):
    """Return positions of trial stars, corners among them."""
    rng = np.random.default_rng(seed)
    ny, nx = s.shape
    x, y = rng.uniform(-0.5, nx - 0.5, n), rng.uniform(-0.5, ny - 0.5, n)
    x[:2], y[:2] = (0.0, nx - 0.6), (0.0, ny - 0.6)
    return x, y, s.psf.basis(x, y)


def scored(s, px, py, basis_p, resid, *, local_sky=False, prior=0.3):
    prior, result = np.full(len(s.x), prior), np.empty((len(px), 3))
    kernels.score_peaks(
        s.coef, px, py, basis_p, HALF, s.x, s.y, s.basis, prior, REACH, MOST, local_sky,
        build_grid(s.x, s.y, s.shape, cell=5), s.root, resid, result,
    )  # fmt: skip
    return result


def expected(s, px, py, basis_p, resid, *, local_sky=False):
    prior = np.full(len(s.x), 0.3)
    return twins.score_peaks(
        s.coef, px, py, basis_p, HALF, s.x, s.y, s.basis, prior, REACH, MOST, local_sky, s.root, resid
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("local_sky", [False, True])
def test_trials(order, local_sky):
    """Signed delta chi^2, flux and share of information; masked pixels hold huge values that must not count.

    Columns are single precision; what neighbours leave of them, at least 5 % here, multiplies their rounding.
    """
    s = make_scene(order, n=30)
    args = trials(s)
    result = scored(s, *args, s.with_masked(1e30), local_sky=local_sky)
    twin = expected(s, *args, s.resid, local_sky=local_sky)
    clear = twin[:, 2] > 0.05
    assert np.count_nonzero(clear) > 5
    assert np.allclose(result[clear], twin[clear], rtol=1e-4, atol=1e-4)
    assert np.allclose(result[:, 2], twin[:, 2], rtol=0, atol=1e-4)


def test_nothing_left_on_a_known_star():
    """On top of a fitted star there is no information: it is refused with nothing to tune."""
    s = make_scene(n=12)
    at = np.array([8, 9])
    result = scored(s, s.x[at], s.y[at], s.basis[at], s.resid)
    assert np.all(np.abs(result[:, 2]) < 1e-3)


def test_injected_star():
    """The test finds the flux of a star added beside a known one."""
    s = make_scene(n=7)
    x, y, resid = s.x[6:] + 3.0, s.y[6:] - 1.0, np.zeros(s.shape, np.float32)
    basis = s.psf.basis(x, y)
    resid += render(s.psf, x, y, [50.0], s.shape)
    ((gain, flux, share),) = scored(s, x, y, basis, resid)
    assert flux == pytest.approx(50, rel=0.02)
    assert gain == pytest.approx(
        flux**2 * share * np.sum(render(s.psf, x, y, [1.0], s.shape) ** 2 * s.ivar), rel=0.05
    )


@pytest.mark.parametrize("most", [0, 1, 3, 50])
def test_nearest_members(most):
    s = make_scene(n=40)
    grid = build_grid(s.x, s.y, s.shape, cell=5)
    for x0, y0, reach in ((20.0, 20.0, 8.0), (0.0, 39.0, 12.0), (43.4, 3.0, 3.0)):
        chosen, dist = np.empty(most, np.int64), np.empty(most)
        n = kernels.nearest_members(s.x, s.y, x0, y0, reach, *grid, chosen, dist)
        assert np.array_equal(chosen[:n], twins.nearest_members(s.x, s.y, x0, y0, reach, most))


def test_factor_and_solve():
    a = np.random.default_rng(1).normal(size=(6, 9))
    matrix, v = a @ a.T, np.arange(1.0, 7)
    factor = matrix.copy()
    kernels.factorize(factor, 6)
    assert np.allclose(np.tril(factor), twins.factorize(matrix), rtol=1e-12, atol=1e-12)
    solved = v.copy()
    kernels.forward_solve(factor, 6, solved)
    assert np.allclose(solved, twins.forward_solve(factor, v), rtol=1e-12, atol=1e-12)
    solved = v.copy()
    kernels.backward_solve(factor, 6, solved)
    assert np.allclose(solved, twins.backward_solve(factor, v), rtol=1e-12, atol=1e-12)


def test_factor_of_a_singular_matrix():
    """An unknown that the others fix already stays at 0."""
    matrix, v = np.ones((2, 2)), np.array([3.0, 3.0])
    kernels.factorize(matrix, 2)
    kernels.forward_solve(matrix, 2, v)
    assert v == pytest.approx([3, 0], abs=1e-20)


def test_columns():
    s, rng = make_scene(), np.random.default_rng(2)
    columns = rng.normal(size=(8, 30)).astype(np.float32)
    expected = twins.whiten_window(s.root, 3, 7, (5, 6), columns, 3)
    kernels.whiten_window(s.root, 3, 7, (5, 6), columns, 3)
    assert np.allclose(columns, expected, rtol=EPS, atol=0)
    expected = twins.remove_component(columns, 7, columns[7])
    kernels.remove_component(columns, 7, columns[7])
    assert np.allclose(columns, expected, rtol=0, atol=8 * EPS)
    wanted = twins.add_multiple(columns[0], columns[1], -0.7)
    kernels.add_multiple(columns[0], columns[1], -0.7)
    assert np.allclose(columns[0], wanted, rtol=0, atol=8 * EPS)


def test_one_score():
    rng = np.random.default_rng(3)
    columns, prior = rng.normal(size=(9, 40)).astype(np.float32), np.array([0.0, 0.5, 2.0])
    result = np.zeros(3)
    kernels.score_one(columns, 6, np.array([2, 1]), prior, result)
    wide = columns.astype(float)
    expected = twins.score_one(wide[:6].T, wide[6], wide[7], np.array([0, 2.0, 2.0, 0, 0.5, 0.5]))
    assert np.allclose(result, expected, rtol=1e-10)


def test_threads(same_bits):
    s = make_scene(2, n=60)
    args = trials(s, 40)
    same_bits(lambda: [scored(s, *args, s.resid, local_sky=True)])


ANGLE, RADIUS = (g.ravel() for g in np.meshgrid(np.arange(8) * np.pi / 4, [1.2, 2.1]))
OFFSET_X, OFFSET_Y = RADIUS * np.cos(ANGLE), RADIUS * np.sin(ANGLE)
LEAST = 0.05


def companions(s, resid, *, most=MOST, which=None, prior=0.3, floor=0.0):
    which = np.arange(len(s.x)) if which is None else which
    floor = np.full(len(which), floor)
    prior, result = np.full(len(s.x), prior), np.full((len(which), 4), np.nan)
    kernels.score_companions(
        s.coef, which, s.x, s.y, s.basis, prior, HALF, OFFSET_X, OFFSET_Y, LEAST, floor, REACH,
        most, build_grid(s.x, s.y, s.shape, cell=5), s.root, resid, result,
    )  # fmt: skip
    return result


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("most", [0, 1, 2, 4, 12])
def test_companions(order, most):
    """The best place of each star; stars on edges and beyond them; masked pixels hold huge values.

    The share that decides whether a place is tried is rounded like the columns: the twin with a slightly
    lower or higher limit bounds what may come out.
    """
    s = make_scene(order, n=30)
    result = companions(s, s.with_masked(1e30), most=most)
    twin = [
        twins.score_companions(
            s.coef, np.arange(30), s.x, s.y, s.basis, np.full(30, 0.3), HALF, OFFSET_X, OFFSET_Y,
            limit, np.zeros(30), REACH, most, s.root, s.resid,
        )
        for limit in (LEAST + 1e-4, LEAST - 1e-4)
    ]  # fmt: skip
    sure = (twin[0] == twin[1]).all(axis=1)
    assert np.count_nonzero(sure) > 25
    assert np.count_nonzero(twin[0][:, 0] > 1) > 10
    assert np.allclose(result[sure], twin[0][sure], rtol=1e-4, atol=1e-4)


def test_companions_of_some_stars():
    """Rows follow `which`; a star off the image has no companion, and an empty list none at all."""
    s = make_scene(n=20)
    every, which = companions(s, s.resid), np.array([11, 3, 7])
    assert np.array_equal(companions(s, s.resid, which=which), every[which])
    assert not every[3].any()
    assert every[7].all()
    assert companions(s, s.resid, which=np.zeros(0, np.int64)).shape == (0, 4)


def test_companions_above_a_floor():
    """Gains up to the floor are left out, the others are the same to the last bit."""
    s = make_scene(n=30)
    every = companions(s, s.resid)
    floor = np.median(every[:, 0])
    above = companions(s, s.resid, floor=floor)
    assert np.array_equal(above, np.where(every[:, :1] > floor, every, 0))


def blend(flux, noise, *, gap=0.0):
    """Return one fitted star, where it stands in two equal ones `gap` FWHM apart on white noise, as a scene."""
    psf, shape, at = gaussian(3.0, radius=10), (31, 33), np.array([16.2, 14.7])
    x, y = at[:1] + np.array([-0.5, 0.5]) * gap * 3.0, at[[1, 1]]
    data = render(psf, x, y, [flux / 2, flux / 2], shape)
    data = data + np.random.default_rng(5).normal(0, noise, shape)
    stamp = render(psf, at[:1], at[1:], [1.0], shape).astype(float)
    flux = np.sum(stamp * data) / np.sum(stamp**2)
    one = np.ones(1)
    root = np.ones(shape, np.float32) / np.float32(noise)
    resid = (data - flux * stamp).astype(np.float32)
    return Scene(psf, at[:1].copy(), at[1:].copy(), one * flux, np.array([6]), root, resid)


def test_companion_of_a_blend():
    """Two stars 0.6 FWHM apart taken for one: a trial nearby gathers more than the best peak of the residual."""
    s = blend(600.0, 1.0, gap=0.6)
    prior = 1 / 600.0**2  # shifts of one pixel
    ((gain, flux, x, y),) = companions(s, s.resid, prior=prior)
    ny, nx = s.shape
    py, px = (g.ravel().astype(float) for g in np.mgrid[:ny, :nx])
    smooth = gaussian_filter(s.resid, 3.0 / 2.3548)
    peak = ((smooth == maximum_filter(smooth, 3)) & (smooth > 0)).ravel()
    at_peaks = scored(s, px[peak], py[peak], s.psf.basis(px[peak], py[peak]), s.resid, prior=prior)
    assert gain > at_peaks[at_peaks[:, 2] > LEAST, 0].max()
    assert gain > 16
    assert 0 < flux < 600
    assert abs(x - s.x[0]) > 3 * abs(y - s.y[0])  # along the line of the two


def test_no_companion_of_a_single_star():
    """A star whose model is right leaves noise; without noise it leaves nothing."""
    s = blend(600.0, 1.0)
    assert companions(s, s.resid, prior=1 / 600.0**2)[0, 0] < 9
    assert not companions(s, np.zeros(s.shape, np.float32)).any()


def test_threads_of_companions(same_bits):
    s = make_scene(1, n=60)
    same_bits(lambda: [companions(s, s.resid)])
