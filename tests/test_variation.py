"""How the PSF changes over the field, from stars whose PSF is known everywhere."""

import numpy as np
import pytest
from scipy.ndimage import correlate

from crowdfit.psf.analytic import moffat
from crowdfit.psf.departures import BENDING
from crowdfit.psf.epsf import EPSF
from crowdfit.psf.field import Constant, Grid, Polynomial
from crowdfit.psf.variation import (
    CellEquations,
    cells_of,
    degree,
    fit_variation,
    mixed,
    neutral,
    on_image,
    polynomial,
)
from crowdfit.sources import Sources
from tests.test_empirical import SHAPE, pixels_of

OVERSAMPLE, RADIUS = 2, 24


def stars_of(n, flux=3e4):
    """Return n isolated stars on a grid, at all sub-pixel phases."""
    side = int(np.sqrt(n))
    y, x = (g.ravel() for g in np.mgrid[0:side, 0:side] * (SHAPE[0] - 20) / (side - 1) + 10)
    rng = np.random.default_rng(4)
    step = rng.uniform(-0.5, 0.5, (2, len(x)))
    return Sources.at(x + step[0], y + step[1], flux * rng.uniform(0.5, 1, len(x)))


def varying(order, size=0.1):
    """Return a PSF of FWHM 4 whose width changes by the given share from the middle to an edge."""
    wide, narrow = (
        moffat(4.0 * (1 + step), 3.5, oversample=OVERSAMPLE, radius=RADIUS) for step in (size, -size)
    )
    mean = (wide.cube[0] + narrow.cube[0]) / 2
    slope = (wide.cube[0] - narrow.cube[0]) / 2
    planes = [mean] + [np.zeros_like(mean)] * ((order + 1) * (order + 2) // 2 - 1)
    planes[order * (order + 1) // 2] = slope  # u^order
    return EPSF(np.array(planes), OVERSAMPLE, polynomial(order, SHAPE)).normalized()


def fitted(truth, stars, passes=3, noise=1.0, max_order=2):
    """Return the PSF after some fits of its variation, each with the residual of the last one."""
    mean = EPSF(truth.cube[:1], OVERSAMPLE).normalized()
    psf = mean
    for _ in range(passes):
        pixels = pixels_of(truth, psf, stars, noise=noise)
        psf = fit_variation(pixels, psf, mean, np.full(len(stars), 24.0), max_order)
    return psf


@pytest.mark.parametrize("order", [1, 2])
def test_variation_is_found(order):
    """Of the right degree, and right at every place to 1.5 % of the peak."""
    truth, stars = varying(order), stars_of(144)
    found = fitted(truth, stars)
    assert degree(found) == order
    for x, y in found.field.places:
        expected = truth.at(x, y).native(21)
        assert np.abs(found.at(x, y).native(21) - expected).max() < 0.015 * expected.max()
        assert found.at(x, y).cube.sum() == pytest.approx(OVERSAMPLE**2, rel=1e-9)
        assert found.at(x, y).centroid() == pytest.approx((0, 0), abs=2e-3)


def test_constant_psf_stays_constant():
    """Noise alone is no variation, be the stars bright or faint, many or few."""
    truth = moffat(4.0, 3.5, oversample=OVERSAMPLE, radius=RADIUS)
    for n, flux in ((144, 3e4), (144, 1e3), (36, 3e4)):
        assert degree(fitted(truth, stars_of(n, flux), passes=1)) == 0


@pytest.mark.parametrize(("n", "max_order"), [(25, 2), (144, 0)])
def test_nothing_to_go_by(n, max_order):
    """Fewer than 8 stars in each of 4 cells, or a PSF that must not vary: the mean itself."""
    truth, stars = varying(1), stars_of(n)
    mean = EPSF(truth.cube[:1], OVERSAMPLE).normalized()
    pixels = pixels_of(truth, mean, stars)
    assert fit_variation(pixels, mean, mean, np.full(len(stars), 20.0), max_order) is mean


def test_variation_that_is_known_stays():
    """Started from the truth, the next fit is the truth again, also where a degree more was allowed."""
    truth, stars = varying(1), stars_of(144)
    mean = EPSF(truth.cube[:1], OVERSAMPLE).normalized()
    pixels = pixels_of(truth, truth, stars)
    again = fit_variation(pixels, truth, mean, np.full(len(stars), 24.0), 2)
    assert degree(again) == 1
    corner = truth.at(0, 0).native(21)
    assert np.abs(again.at(0, 0).native(21) - corner).max() < 0.015 * corner.max()


def test_cells_without_stars():
    """A corner of the field without stars, the last cell or the first, says nothing and stops nothing."""
    truth, every = varying(1), stars_of(144)
    for corner in (np.minimum(every.x, every.y) > 160, np.maximum(every.x, every.y) < 60):
        stars = every.take(~corner)
        found = fitted(truth, stars, passes=2)
        assert degree(found) == 1
        at = (SHAPE[1] / 4, SHAPE[0] / 2)
        expected = truth.at(*at).native(21)
        assert np.abs(found.at(*at).native(21) - expected).max() < 0.015 * expected.max()


def test_planes_solve_their_equations():
    """Conjugate gradients against the dense system, in units of the prior width."""
    rng, g, cells = np.random.default_rng(3), 5, 3
    stencils = np.zeros((cells, g, g, 7, 7))
    stencils[..., 3, 3] = rng.uniform(1, 3, (cells, g, g))
    border, right = rng.normal(0, 0.1, (2, cells, g, g))
    equations = CellEquations(stencils, right, border, np.ones(cells))
    terms, width = rng.normal(size=(cells, 2)), rng.uniform(0.5, 1, (g, g))
    columns = []
    for unit in np.eye(2 * g * g).reshape(-1, 2, g, g):
        data = width * np.tensordot(terms.T, equations.product(np.tensordot(terms, width * unit, 1)), 1)
        columns.append(data + unit + [correlate(plane, BENDING, mode="constant") for plane in unit])
    dense = np.array(columns).reshape(2 * g * g, -1)
    assert np.allclose(dense, dense.T)
    expected = np.linalg.solve(dense, (width * np.tensordot(terms.T, right, 1)).ravel())
    planes = equations.planes(terms, width, 500)
    assert np.allclose((planes / width).ravel(), expected, rtol=0, atol=2e-3 * np.abs(expected).max())
    assert equations.gain(np.tensordot(terms, planes, 1)) > 0


def test_cells():
    """The place of a cell is the mean of its stars: bright ones weigh the same, faint ones less."""
    psf = moffat(4.0, 3.5)
    for flux, by_flux in ((3e6, 0), (3.0, 2)):
        stars = stars_of(144, flux)
        cell, x, y = cells_of(pixels_of(psf, psf, stars), 4, psf.cube.max())
        assert cell.max() == 15
        for k in (0, 6, 15):
            here, weight = cell == k, stars.flux**by_flux
            assert x[k] == pytest.approx(np.average(stars.x[here], weights=weight[here]), abs=0.01)
            assert y[k] == pytest.approx(np.average(stars.y[here], weights=weight[here]), abs=0.01)


def test_neutral_plane():
    """No flux at any phase and no shift are left of a plane; what has neither stays as it is."""
    mean = moffat(4.0, 3.5, oversample=OVERSAMPLE, radius=RADIUS)
    base = mean.cube[0]
    plane = 0.3 * base + 0.2 * np.gradient(base)[0] + 0.1 * np.roll(base, 2, axis=1)
    out = neutral(plane, mean)
    for a in range(OVERSAMPLE):
        for b in range(OVERSAMPLE):
            assert out[a::OVERSAMPLE, b::OVERSAMPLE].sum() == pytest.approx(0, abs=1e-9)
    moved = EPSF((base + 0.2 * out)[np.newaxis], OVERSAMPLE)
    assert moved.centroid() == pytest.approx((0, 0), abs=1e-4)
    assert np.allclose(neutral(out, mean), out, rtol=0, atol=1e-6 * np.abs(out).max())


def test_degree():
    assert degree(moffat(3.0)) == 0
    assert degree(varying(2)) == 2
    cube = np.repeat(moffat(3.0).cube, 2, axis=0)
    assert degree(EPSF(cube, 4, Grid((0.0, 1.0), (0.0,)))) == -1


def test_terms_of_the_image():
    """The same PSF at every place, whatever origin and scale its polynomial had."""
    psf = varying(2)
    other = EPSF(psf.cube, OVERSAMPLE, Polynomial(2, (30.0, 500.0), (700.0, 90.0)))
    same = on_image(other, SHAPE)
    assert same.field == polynomial(2, SHAPE)
    for x, y in ((0, 0), (200, 30), (110, 219)):
        assert np.allclose(same.at(x, y).cube, other.at(x, y).cube, rtol=0, atol=1e-12)
    assert on_image(psf, SHAPE) is psf
    assert isinstance(on_image(moffat(3.0), SHAPE).field, Constant)


def test_mixture_of_two_degrees():
    one, two = varying(1), varying(2)
    for old, new in ((one, two), (two, one), (EPSF(one.cube[:1], OVERSAMPLE), two)):
        half = mixed(old, new, 0.25)
        at = (17.0, 180.0)
        expected = 0.75 * old.at(*at).cube + 0.25 * new.at(*at).cube
        assert np.allclose(half.at(*at).cube, expected, rtol=0, atol=1e-15)
