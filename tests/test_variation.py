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
    Prior,
    cells_of,
    common_plane,
    corrections,
    degree,
    fit_variation,
    in_form,
    mixed,
    neutral,
    on_image,
    polynomial,
    variations,
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


def fitted(truth, stars, passes=3, noise=1.0, max_order=2, kind="polynomial"):
    """Return the PSF after some fits of its variation, each with the residual of the last one."""
    mean = EPSF(truth.cube[:1], OVERSAMPLE).normalized()
    psf = mean
    for _ in range(passes):
        pixels = pixels_of(truth, psf, stars, noise=noise)
        psf = fit_variation(pixels, psf, mean, np.full(len(stars), 24.0), variations(kind, SHAPE, max_order))
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
    forms = variations("polynomial", SHAPE, max_order)
    assert fit_variation(pixels, mean, mean, np.full(len(stars), 20.0), forms) is mean


def test_variation_that_is_known_stays():
    """Started from the truth, the next fit is the truth again, also where a degree more was allowed."""
    truth, stars = varying(1), stars_of(144)
    mean = EPSF(truth.cube[:1], OVERSAMPLE).normalized()
    pixels = pixels_of(truth, truth, stars)
    again = fit_variation(pixels, truth, mean, np.full(len(stars), 24.0), variations("polynomial", SHAPE, 2))
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


def equations(rng, g=5, cells=3):
    """Return random equations of a prior with two modes."""
    stencils = np.zeros((cells, g, g, 7, 7))
    stencils[..., 3, 3] = rng.uniform(1, 3, (cells, g, g))
    border, right = rng.normal(0, 0.1, (2, cells, g, g))
    prior = Prior(rng.uniform(0.5, 1, (g, g)), rng.normal(size=(2, g, g)))
    return CellEquations(stencils, right, border, np.ones(cells), prior)


def dense_system(made, terms, between):
    """Return matrix and right side of the planes in units of the prior width, by its columns."""
    width, shape = made.prior.width, (terms.shape[1], *made.prior.width.shape)
    columns = []
    for unit in np.eye(np.prod(shape)).reshape(-1, *shape):
        data = width * np.tensordot(terms.T, made.product(np.tensordot(terms, width * unit, 1)), 1)
        bent = unit + [correlate(plane, BENDING, mode="constant") for plane in unit]
        columns.append(data + np.tensordot(between, bent, 1))
    return np.array(columns).reshape(len(columns), -1), (width * np.tensordot(terms.T, made.right, 1)).ravel()


def test_planes_solve_their_equations():
    """Conjugate gradients against the dense system, from nothing and from a start."""
    rng = np.random.default_rng(3)
    made, terms = equations(rng), rng.normal(size=(3, 2))
    between = np.array([[2.0, 0.5], [0.5, 1.0]])
    dense, right = dense_system(made, terms, between)
    assert np.allclose(dense, dense.T)
    expected = np.linalg.solve(dense, right)
    for start in (None, rng.normal(size=(2, 5, 5))):
        planes = made.planes(terms, between, 500, start=start)
        found = (planes / made.prior.width).ravel()
        assert np.allclose(found, expected, rtol=0, atol=2e-3 * np.abs(expected).max())
    assert made.gain(np.tensordot(terms, planes, 1)) > 0


def test_smooth_planes_are_the_best_of_their_kind():
    """The dense system restricted to the modes; what is left does not point along any of them."""
    rng = np.random.default_rng(4)
    made, terms, between = equations(rng), rng.normal(size=(3, 2)), np.eye(2)
    dense, right = dense_system(made, terms, between)
    modes = np.kron(np.eye(2), made.prior.modes.reshape(2, -1))
    expected = modes.T @ np.linalg.solve(modes @ dense @ modes.T, modes @ right)
    assert np.allclose(made.smooth_planes(terms, between).ravel(), expected)


def test_wings_are_found_at_once():
    """Light beyond 2 FWHM varies by half of itself; without neighbours one fit finds most of that."""
    truth, stars = varying(1), stars_of(36, flux=1e6)
    found, mean = fitted(truth, stars, passes=1), EPSF(truth.cube[:1], OVERSAMPLE).normalized()
    yy, xx = np.mgrid[-12:13, -12:13]
    far = np.hypot(xx, yy) > 8
    for x in (0, SHAPE[1] - 1):
        wings = [psf.at(x, 110).native(25)[far].sum() for psf in (found, truth, mean)]
        assert abs(wings[0] - wings[1]) < 0.5 * abs(wings[2] - wings[1])


def test_variation_on_a_grid():
    """Nodes are found like a polynomial; a variation that is linear needs no more than two of them on each axis."""
    truth, stars = varying(1), stars_of(144)
    found = fitted(truth, stars, kind="grid")
    assert isinstance(found.field, Grid)
    assert len(found.cube) == 4
    for x, y in ((0, 0), (110, 110), (219, 30)):
        expected = truth.at(x, y).native(21)
        assert np.abs(found.at(x, y).native(21) - expected).max() < 0.02 * expected.max()
    constant = moffat(4.0, 3.5, oversample=OVERSAMPLE, radius=RADIUS)
    assert len(fitted(constant, stars, passes=1, kind="grid").cube) == 1


def as_grid(psf):
    """Return a PSF on nodes that reach beyond the image."""
    return in_form(psf, Grid((-20.0, 110.0, 260.0), (-5.0, 230.0)))


@pytest.mark.parametrize("form", [as_grid, lambda psf: psf], ids=["grid", "polynomial"])
def test_library_is_corrected(form):
    """One that is 5 % too broad everywhere, and varies in the right way: the width is mended, the variation stays."""
    truth, stars = varying(1), stars_of(144)
    wide, narrow = (moffat(4.2 * f, 3.5, oversample=OVERSAMPLE, radius=RADIUS).cube[0] for f in (1.1, 0.9))
    broad = form(
        EPSF(np.array([(wide + narrow) / 2, (wide - narrow) / 2, 0 * wide]), OVERSAMPLE, truth.field)
    )
    library = psf = on_image(broad.normalized(), SHAPE)
    for _ in range(3):
        pixels = pixels_of(truth, psf, stars)
        psf = fit_variation(pixels, psf, library, np.full(len(stars), 24.0), corrections(library, SHAPE, 2))
    assert type(psf.field) is type(library.field)
    for x, y in ((5, 5), (110, 110), (214, 110)):
        here, right = psf.at(x, y), truth.at(x, y)
        assert library.at(x, y).fwhm / right.fwhm > 1.04
        assert here.fwhm == pytest.approx(right.fwhm, rel=0.01)
        assert here.cube.sum() == pytest.approx(OVERSAMPLE**2, rel=1e-9)


@pytest.mark.parametrize("n", [9, 25, 144])
def test_library_that_is_right_stays(n):
    """However many stars there are: noise is no reason to change it."""
    library, stars = on_image(as_grid(varying(1)), SHAPE), stars_of(n)
    pixels = pixels_of(library, library, stars)
    found = fit_variation(pixels, library, library, np.full(len(stars), 24.0), corrections(library, SHAPE, 2))
    assert found is library


def test_few_stars_correct_what_is_the_same_everywhere():
    """Nine bright stars cannot tell how a PSF varies, but that all of it is too broad."""
    truth, stars = moffat(4.0, 3.5, oversample=OVERSAMPLE, radius=RADIUS), stars_of(9)
    library = moffat(4.2, 3.5, oversample=OVERSAMPLE, radius=RADIUS)
    pixels = pixels_of(truth, library, stars)
    found = fit_variation(pixels, library, library, np.full(len(stars), 24.0), corrections(library, SHAPE, 2))
    assert isinstance(found.field, Constant)
    assert found.fwhm == pytest.approx(truth.fwhm, rel=0.01)


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


def test_forms():
    """A polynomial of degree 1 on nodes and back; what is common to all places; nodes on the image only."""
    psf = varying(1)
    grid = as_grid(psf)
    back = in_form(grid, psf.field)
    assert np.allclose(back.cube, psf.cube, rtol=0, atol=1e-9)
    assert np.allclose(common_plane(psf).cube, psf.cube[:1])
    here = on_image(grid, SHAPE)
    assert here.field.x_nodes == (0.0, 110.0, 219.0)
    assert here.field.y_nodes == (0.0, 219.0)
    for at in ((0, 0), (50, 200), (219, 219)):
        assert np.allclose(here.at(*at).cube, grid.at(*at).cube, rtol=0, atol=1e-12)
    assert np.allclose(common_plane(here).cube[0], here.cube.mean(axis=0))


def test_mixture_of_two_degrees():
    one, two = varying(1), varying(2)
    for old, new in ((one, two), (two, one), (EPSF(one.cube[:1], OVERSAMPLE), two)):
        half = mixed(old, new, 0.25)
        at = (17.0, 180.0)
        expected = 0.75 * old.at(*at).cube + 0.25 * new.at(*at).cube
        assert np.allclose(half.at(*at).cube, expected, rtol=0, atol=1e-15)
