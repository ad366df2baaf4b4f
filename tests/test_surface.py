"""Surfaces of splines: exact algebra, the measured prior, and nothing where there is only noise."""

import numpy as np
import pytest

from crowdfit.surface import DEGREE, OVERLAP, SEEN, Surface, products, star_share, trust

SHAPE = (60, 80)
SPACING = 6.0


@pytest.fixture
def surface():
    return Surface.of(SHAPE, SPACING)


def dense(surface):
    """Return every spline as a column, (pixels, ky kx)."""
    return np.kron(surface.rows.toarray(), surface.cols.toarray())


def white(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("n", "spacing"), [(60, 6.0), (61, 7.3), (5, 20.0), (2, 1.0)])
def test_splines_are_a_partition_of_one(n, spacing):
    """On every pixel they sum to 1, knots are at most `spacing` apart, and any image is wide enough."""
    surface = Surface.of((n, n), spacing)
    np.testing.assert_allclose(surface.rows.toarray().sum(axis=1), 1, atol=1e-12)
    spans = surface.rows.shape[1] - DEGREE
    assert (n - 1) / spans <= spacing
    assert spans == 1 or (n - 1) / (spans - 1) > spacing


def test_overlap_is_that_of_quadratic_splines():
    """Sum of squared normalised overlaps with the neighbours, both axes, away from the edges."""
    rows = Surface.of((201, 201), 10.0).rows.toarray()
    middle = rows.shape[1] // 2
    gram = rows.T @ rows[:, middle] / np.sum(rows[:, middle] ** 2)
    assert np.sum(gram**2) ** 2 == pytest.approx(OVERLAP, rel=5e-3)


def test_products(surface):
    rows = surface.rows.toarray()
    for step in range(DEGREE + 1):
        expected = rows[:, : rows.shape[1] - step] * rows[:, step:]
        np.testing.assert_allclose(products(surface.rows, step).toarray(), expected, atol=1e-15)


def test_normal_matrix_and_projection(surface):
    """``sum w B_i B_j``, ``sum w r B`` and ``sum w B^2`` as dense products give them."""
    columns, weight, image = dense(surface), np.random.default_rng(1).uniform(size=SHAPE), white(2)
    by_hand = columns.T @ (weight.ravel()[:, None] * columns)
    np.testing.assert_allclose(surface.normal(weight).toarray(), by_hand, atol=1e-10)
    target, own = surface.projection(image, weight)
    np.testing.assert_allclose(target.ravel(), columns.T @ (weight * image).ravel(), atol=1e-10)
    np.testing.assert_allclose(own.ravel(), np.diag(by_hand), atol=1e-10)


def test_fit_is_the_penalised_least_squares_solution(surface):
    """To the tolerance of the solver, 1e-3 of the right-hand side; coefficients without prior width stay 0."""
    columns, image = dense(surface), 5 * white(3)
    weight = np.random.default_rng(4).uniform(0.5, 1.5, SHAPE)
    _, own = surface.projection(image, weight)
    _, typical = surface.typical(own)
    excess = np.random.default_rng(5).uniform(1, 9, own.shape)
    excess[:, :3] = 0
    free = excess.ravel() > 0
    system = columns[:, free].T @ (weight.ravel()[:, None] * columns[:, free])
    system += np.diag(OVERLAP * typical.ravel()[free] / excess.ravel()[free])
    answer = np.linalg.solve(system, columns[:, free].T @ (weight * image).ravel())
    expected = (columns[:, free] @ answer).reshape(SHAPE)
    fitted = surface.fitted(image, weight, excess)
    assert np.std(fitted - expected) < 3e-3 * np.std(expected)


def test_wide_prior_reproduces_a_smooth_image(surface):
    """With next to no prior a parabola comes back: quadratic splines hold it."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = (x - 30.0) * (y - 20.0) / 10 + (x - 40.0) ** 2 / 20
    weight = np.ones(SHAPE)
    fitted = surface.fitted(image, weight, np.full(surface.projection(image, weight)[1].shape, 1e6))
    assert np.abs(fitted - image).max() < 0.01 * np.ptp(image)


def test_typical_splines(surface):
    """The outermost splines lie mostly off the image and still count as seen; those over a hole do not."""
    weight = np.full(SHAPE, 4.0)
    weight[20:45, 20:50] = 0
    _, own = surface.projection(weight, weight)
    seen, typical = surface.typical(own)
    assert seen[0].all()
    assert seen[:, -1].all()
    hole = np.ones(own.shape, bool)
    hole[5:8, 5:9] = False
    assert not seen[~hole].any()
    inner = surface.projection(weight, np.full(SHAPE, 4.0))[1]
    whole = np.median(inner[2:-2, 2:-2])
    np.testing.assert_allclose(typical[:, :3], whole, rtol=0.05)
    assert (typical > whole / 4).all()


def test_no_excess_is_no_surface(surface):
    weight = np.ones(SHAPE)
    none = np.zeros_like(surface.projection(weight, weight)[1])
    np.testing.assert_array_equal(surface.fitted(white(1), weight, none), np.zeros(SHAPE))


def test_excess_of_noise_is_nothing():
    """Unit noise projects with unit variance, and a median of 25 tells a variance to about 50 %."""
    surface = Surface.of((300, 300), SPACING)
    excess = surface.excess(white(6, (300, 300)), np.ones((300, 300)))
    assert np.median(excess) < 0.15
    assert np.percentile(excess, 98) < 2.5


@pytest.mark.parametrize("width", [1.0, 4.0])
def test_excess_measures_the_power(width):
    """Independent coefficients of variance s^2 over noise: OVERLAP s^2 sum w B^2, whatever the weights' unit."""
    shape = (300, 300)
    surface = Surface.of(shape, SPACING)
    rng = np.random.default_rng(7)
    coefs = rng.normal(0, width, (surface.rows.shape[1], surface.cols.shape[1]))
    image = surface.rows @ coefs @ surface.cols.T + rng.normal(size=shape)
    _, own = surface.projection(image, np.ones(shape))
    expected = OVERLAP * width**2 * np.median(own)
    for unit in (1.0, 1e4):
        excess = surface.excess(unit * image, np.full(shape, unit**-2.0))
        assert np.median(excess) == pytest.approx(expected, rel=0.15)


def test_excess_is_local():
    """Half of the image is rough, the other half is not."""
    shape = (200, 300)
    surface = Surface.of(shape, SPACING)
    rng = np.random.default_rng(8)
    coefs = rng.normal(0, 5, (surface.rows.shape[1], surface.cols.shape[1]))
    k = coefs.shape[1] // 2
    coefs[:, k:] = 0
    excess = surface.excess(surface.rows @ coefs @ surface.cols.T + rng.normal(size=shape), np.ones(shape))
    assert np.median(excess[:, k + 4 :]) < 0.3
    assert np.median(excess[:, : k - 4]) > 100


def test_hidden_pixels_do_not_matter():
    """Splines that see too little stay 0, and what lies under weight 0 is never looked at."""
    shape = (100, 100)
    surface, weight = Surface.of(shape, SPACING), np.ones(shape)
    weight[30:70, 30:70] = 0
    image = 10 * np.sin(np.arange(100) / 8)[:, None] + white(9, shape)
    excess = surface.excess(image, weight)
    wild = np.where(weight > 0, image, 1e12)
    np.testing.assert_array_equal(excess, surface.excess(wild, weight))
    fitted = surface.fitted(image, weight, excess)
    np.testing.assert_array_equal(fitted, surface.fitted(wild, weight, excess))
    assert np.isfinite(fitted).all()
    assert (fitted[45:55, 45:55] == 0).all()
    assert SEEN < 0.5


def test_trust_goes_from_none_to_all():
    np.testing.assert_allclose(trust(np.array([0.0, OVERLAP, 1e9])), [0, 0.5, 1], atol=1e-6)


def test_share_of_a_star(small_psf):
    """Less for wider splines; for splines much finer than the star nearly all; found by fits as well."""
    psf = small_psf.stamp(20.0, 20.0, 15).astype(float)
    shares = [star_share(psf, spacing) for spacing in (1.5, 6.0, 12.0, 24.0)]
    assert shares[0] > 0.98
    assert (np.diff(shares) < 0).all()
    assert shares[-1] < 0.15
    surface, weight, taken = Surface.of((61, 61), 6.0), np.ones((61, 61)), []
    excess = np.full((surface.rows.shape[1],) * 2, 1e8)
    for dy in range(6):
        for dx in range(6):
            image = np.zeros((61, 61))
            image[20 + dy : 35 + dy, 20 + dx : 35 + dx] = psf
            taken.append(np.sum(image * surface.fitted(image, weight, excess)) / np.sum(psf**2))
    assert np.mean(taken) == pytest.approx(shares[1], rel=0.1)
