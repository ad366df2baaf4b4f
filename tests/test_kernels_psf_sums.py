"""Normal equations of the PSF itself, against one dense row of splines per pixel."""

import numpy as np
import pytest

from crowdfit._kernels import psf_sums as kernels
from crowdfit.psf.empirical import RadialBasis
from tests.reference import psf_sums as twins
from tests.reference.scenes import ORDERS, make_scene

TRUST, CLIP, PARTS = np.array([0.02, 0.3]), 4.0, 4
SHAPE = np.array([0.9, 0.2, 1.2])


@pytest.mark.parametrize("ivar", [0.0, 0.5, 4.0])
def test_robust_weight(ivar):
    for resid, own, total in ((0.0, 0.0, 0.0), (3.0, 100.0, 100.0), (-50.0, 10.0, 70.0)):
        expected = twins.robust_weight(ivar, resid, own, total, TRUST, CLIP)
        assert kernels.robust_weight(ivar, resid, own, total, TRUST, CLIP) == pytest.approx(
            expected, rel=1e-12
        )


def image_of(s, masked=0.0):
    """Return model, residual and inverse variance; the model has light of stars that are not in the list."""
    model = np.random.default_rng(5).uniform(0, 20, s.shape).astype(np.float32)
    return model, s.with_masked(masked), s.ivar


def reach_of(s):
    """Return how far out each star counts (pix); every star differs."""
    return np.linspace(2.1, 3.6, len(s.x))


def part_of(s):
    """Return to which part of the equations each star belongs; the last part has none."""
    return np.random.default_rng(8).integers(0, PARTS - 1, len(s.x))


def tables(s, s_knots, side, image):
    """Return the normal equations of the table and of the constant, by part of the stars."""
    equations = np.zeros((PARTS, side, side, 7, 7)), np.zeros((PARTS, 2, side, side)), np.zeros((PARTS, 2))
    kernels.accumulate_table(
        (s.coef, s.coef), s.basis, s.x, s.y, s.flux, reach_of(s), s_knots, TRUST, CLIP, image, part_of(s), *equations
    )  # fmt: skip
    return equations


def assert_same_equations(matrix, vectors, sums, dense, expected):
    """Stencils, border and sums against one dense matrix; single-precision models enter target and weight."""
    given = np.block(
        [[twins.stencil_to_dense(matrix), vectors[1].reshape(-1, 1)], [vectors[1].reshape(1, -1), sums[1]]]
    )
    right = np.append(vectors[0].ravel(), sums[0])
    for part in (np.s_[:-1, :-1], np.s_[-1:, :-1], np.s_[-1:, -1:]):
        assert np.allclose(given[part], dense[part], rtol=1e-5, atol=1e-6 * np.abs(dense[part]).max())
    for part in (np.s_[:-1], np.s_[-1:]):
        assert np.allclose(right[part], expected[part], rtol=1e-5, atol=1e-6 * np.abs(expected[part]).max())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("knots", "side"), [(1, 11), (2, 13), (3, 27)])
def test_table(order, knots, side):
    """Fewer and more knots than the stars' pixels reach; stars on the border and off the image; by part."""
    s = make_scene(order, n=9)
    equations = tables(s, knots, side, image_of(s, 1e30))
    expected = twins.accumulate_table(
        (s.coef, s.coef), s.basis, s.x, s.y, s.flux, reach_of(s), knots, TRUST, CLIP, image_of(s), part_of(s), side
    )  # fmt: skip
    assert len(expected) == PARTS - 1
    for k, dense in expected.items():
        assert_same_equations(*(part[k] for part in equations), *dense)
    assert not any(part[-1].any() for part in equations)


def test_one_star_of_the_table():
    s = make_scene(n=8)
    coefs, rest = (s.coef, s.coef), (TRUST, CLIP, image_of(s))
    equations = np.zeros((13, 13, 7, 7)), np.zeros((2, 13, 13)), np.zeros(2)
    star = (s.basis[7], s.x[7], s.y[7], s.flux[7], 2.5)
    kernels.add_star_to_table(coefs, *star, 2, *rest, *equations)
    expected = twins.add_star_to_table(coefs, *star, 2, *rest, 13)
    assert_same_equations(*equations, *expected)


@pytest.mark.parametrize("side", [1, 2, 9])
def test_stencils(side):
    """Neighbours beyond the border of the table are none."""
    rng = np.random.default_rng(7)
    matrices, coefs = rng.normal(size=(3, side, side, 7, 7)), rng.normal(size=(3, side, side))
    for k in range(7):
        for r in range(side):
            outside = not 0 <= r + k - 3 < side
            matrices[:, r, :, k] *= not outside
            matrices[:, :, r, :, k] *= not outside
    out = np.full((3, side, side), np.nan)
    kernels.apply_stencils(matrices, coefs, out)
    assert np.allclose(out, twins.apply_stencils(matrices, coefs), rtol=1e-13, atol=1e-12)


def profiles(s, basis, image, reach):
    matrices, vectors = np.zeros((PARTS, basis.n, basis.n)), np.zeros((PARTS, basis.n))
    kernels.accumulate_profile(
        s.coef, s.x, s.y, s.flux, reach, SHAPE, basis.first, basis.weights, TRUST, CLIP, image,
        matrices, vectors,
    )  # fmt: skip
    return matrices, vectors


def test_profile():
    """A constant under each star is fitted along and eliminated."""
    s = make_scene(n=9)
    basis, reach = RadialBasis(2.4, 7.0), np.linspace(3, 6.5, 9)
    matrices, vectors = profiles(s, basis, image_of(s, 1e30), reach)
    matrix, vector = twins.accumulate_profile(
        s.coef,
        s.x,
        s.y,
        s.flux,
        reach,
        SHAPE,
        basis.first,
        basis.weights,
        TRUST,
        CLIP,
        image_of(s),
        basis.n,
    )
    assert np.allclose(matrices.sum(axis=0), matrix, rtol=1e-5, atol=1e-6 * matrix.max())
    assert np.allclose(vectors.sum(axis=0), vector, rtol=1e-5, atol=1e-6 * np.abs(vector).max())


def test_one_star_of_the_profile():
    s, basis = make_scene(n=8), RadialBasis(2.4, 7.0)
    args = (
        s.coef,
        s.x[7],
        s.y[7],
        s.flux[7],
        5.5,
        SHAPE,
        basis.first,
        basis.weights,
        TRUST,
        CLIP,
        image_of(s),
    )
    matrix, vector = np.zeros((basis.n, basis.n)), np.zeros(basis.n)
    kernels.add_star_to_profile(*args, matrix, vector)
    dense, expected = twins.add_star_to_profile(*args, basis.n)
    assert np.allclose(matrix, dense, rtol=1e-5, atol=1e-6 * dense.max())
    assert np.allclose(vector, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_constant_under_a_star_does_not_reach_the_profile():
    """An error of the sky is not taken for wings of the PSF."""
    s, basis, reach = make_scene(n=8), RadialBasis(2.4, 7.0), np.full(8, 6.0)
    steady = 1e9  # a clip so wide that no residual loses weight
    model, resid, ivar = image_of(s)
    sums = []
    for level in (0, 3):
        matrix, vector = np.zeros((1, basis.n, basis.n)), np.zeros((1, basis.n))
        kernels.accumulate_profile(
            s.coef, s.x, s.y, s.flux, reach, SHAPE, basis.first, basis.weights, TRUST, steady,
            (model, resid + np.float32(level), ivar), matrix, vector,
        )  # fmt: skip
        sums.append(vector)
    assert np.allclose(sums[0], sums[1], rtol=0, atol=1e-5 * np.abs(sums[0]).max())


@pytest.mark.parametrize("work", ["table", "profile"])
def test_threads(work, same_bits):
    s, basis = make_scene(n=30), RadialBasis(2.4, 7.0)
    same_bits(
        (lambda: tables(s, 2, 15, image_of(s)))
        if work == "table"
        else (lambda: profiles(s, basis, image_of(s), np.full(30, 5.0)))
    )
