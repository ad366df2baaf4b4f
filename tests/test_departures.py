"""The table of departures: splines, prior, and the banded system against the dense one."""

import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.linalg import solveh_banded

from crowdfit.psf import departures
from crowdfit.psf.analytic import moffat


@pytest.mark.parametrize(("knots", "s", "half"), [(3, 3, 12), (2, 4, 16), (2, 5, 40)])
def test_spline_samples(knots, s, half):
    """Against scipy's B-splines of the same coefficients: as fine, finer, and beyond their ends."""
    coefs = np.random.default_rng(1).normal(size=(9, 9))
    at = np.arange(-half, half + 1) / s * knots
    basis = np.array([BSpline.basis_element(np.arange(-2, 3) + k, False)(at) for k in range(-4, 5)])
    expected = np.nan_to_num(basis).T @ coefs @ np.nan_to_num(basis)
    np.testing.assert_allclose(departures.spline_samples(coefs, knots, s, half), expected, rtol=0, atol=1e-13)


def test_prior_width():
    """Follows the profile near by, tapered to nothing at the reach, so the table ends without a step."""
    psf = moffat(3.0, 3.5, radius=30, oversample=3)
    for knots in (1, 3):
        width = departures.departure_shape(psf.cube[0], 3, 8 * knots, knots, 7.0)
        middle = 8 * knots
        assert width[middle, middle] == pytest.approx(psf.cube.max(), rel=2e-3)
        edge = width[middle, middle + 7 * knots :]
        assert edge.max() < 2e-3 * width[middle, middle + 4 * knots]
        assert (width > 0).all()


def test_beyond_the_profile():
    """A table of departures wider than the profile goes on; nothing is expected there."""
    psf = moffat(3.0, 3.5, radius=6, oversample=2)
    width = departures.departure_shape(psf.cube[0], 2, 20, 2, 10.0)
    assert width[20, 34] < 1e-6 * width[20, 20]


def test_banded_system_is_the_dense_one():
    """The stencil laid out as LAPACK's lower bands solves the system it stands for."""
    rng = np.random.default_rng(3)
    g = 9
    # a symmetric positive stencil: A^T A of a random 4 x 4 footprint
    dense = np.zeros((g * g, g * g))
    for r in range(g - 3):
        for c in range(g - 3):
            row = np.zeros((g, g))
            row[r : r + 4, c : c + 4] = rng.normal(size=(4, 4))
            dense += np.outer(row.ravel(), row.ravel())
    matrix = np.zeros((g, g, 7, 7))
    for i in range(g * g):
        for j in range(g * g):
            dr, dc = j // g - i // g, j % g - i % g
            if abs(dr) <= 3 and abs(dc) <= 3:
                matrix[i // g, i % g, dr + 3, dc + 3] = dense[i, j]
    width = rng.uniform(0.5, 2, (g, g))
    stencil = departures.scaled_stencil(matrix, width)
    laplace = np.zeros((g * g, g * g))
    scaled = np.outer(width.ravel(), width.ravel()) * dense
    bands = departures.banded(stencil)
    full = np.zeros_like(laplace)
    for k in range(len(bands)):
        for j in range(g * g - k):
            full[j + k, j] = full[j, j + k] = bands[k, j]
    # what the prior adds: 1 on the diagonal and a bending term that is a stencil with 13 entries
    prior = full - scaled
    np.testing.assert_allclose(np.diag(prior)[g * 4 + 4], 1 + 36 * 20, rtol=1e-12)
    assert prior[g * 4 + 4, g * 4 + 5] == pytest.approx(36 * -8)
    assert prior[g * 4 + 4, g * 5 + 5] == pytest.approx(36 * 2)
    assert prior[g * 4 + 4, g * 6 + 4] == pytest.approx(36)
    assert np.linalg.eigvalsh(full).min() > 0
    vector = rng.normal(size=g * g)
    np.testing.assert_allclose(
        solveh_banded(bands, vector, lower=True), np.linalg.solve(full, vector), rtol=1e-8
    )
