"""Marginal errors, against dense inverses."""

import numpy as np
import pytest

from crowdfit._kernels import marginal as kernels
from tests.reference import marginal as twins
from tests.reference.scenes import ORDERS, make_scene
from tests.test_kernels_normal import assembled


def close(n=14, order=0):
    """Return a scene with close pairs, its equations and priors."""
    s = make_scene(order, n=n)
    s.x[6:9], s.y[6:9] = s.x[9:12] + 1.2, s.y[9:12] + 0.9
    return s, assembled(s), np.linspace(0.02, 0.3, n)


@pytest.mark.parametrize(("reach", "most"), [(8.0, 3), (8.0, 20), (0.5, 4), (8.0, 0)])
def test_closest(reach, most):
    s, (_, first, links, _), _ = close(40)
    for i in range(40):
        chosen, dist = np.empty(most, np.int64), np.empty(most)
        n = kernels.closest_links(s.x, s.y, first, links, i, reach, chosen, dist)
        assert np.array_equal(chosen[:n], twins.closest_links(s.x, s.y, first, links, i, reach, most))


def test_local_matrix():
    s, (own, first, links, cross), prior = close()
    chosen = twins.closest_links(s.x, s.y, first, links, 6, 9.0, 5).astype(np.int64)
    matrix = np.zeros((3 * len(chosen) + 3, 3 * len(chosen) + 3))
    kernels.fill_local_matrix(6, chosen, prior, own, first, links, cross, matrix)
    expected = twins.fill_local_matrix(6, chosen, prior, own, first, links, cross)
    assert np.allclose(np.tril(matrix), np.tril(expected), rtol=1e-14, atol=0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("most", [0, 4])
def test_variances(order, most):
    """C018: the error of a star with its neighbours and positions free; infinite where nothing of it is seen."""
    s, (own, first, links, cross), prior = close(order=order)
    rest = (s.x, s.y, 6.0, most, prior, own, first, links, cross)
    variance = np.empty((len(s.x), 3))
    kernels.invert_around(*rest, variance)
    expected = twins.invert_around(*rest)
    assert np.array_equal(np.isinf(variance), np.isinf(expected))
    seen = np.isfinite(expected)
    assert 0 < np.count_nonzero(~seen) < seen.size
    assert np.allclose(variance[seen], expected[seen], rtol=1e-7, atol=0)
    one = np.empty(3)
    kernels.invert_one(8, *rest, one)
    assert np.array_equal(one, variance[8])


def test_neighbours_only_add_variance():
    s, (own, first, links, cross), prior = close()
    alone, crowded = np.empty((2, len(s.x), 3))
    kernels.invert_around(s.x, s.y, 6.0, 0, prior, own, first, links, cross, alone)
    kernels.invert_around(s.x, s.y, 6.0, 6, prior, own, first, links, cross, crowded)
    assert np.all(crowded[6:12] > alone[6:12])


def test_threads(same_bits):
    s, (own, first, links, cross), prior = close(60, 2)

    def work():
        variance = np.empty((60, 3))
        kernels.invert_around(s.x, s.y, 8.0, 6, prior, own, first, links, cross, variance)
        return [variance]

    same_bits(work)
