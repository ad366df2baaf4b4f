"""Lists of neighbours, against sorting and counting."""

import numpy as np
import pytest

from crowdfit._kernels import neighbours as kernels
from crowdfit.neighbours import build_grid
from tests.reference import neighbours as twins
from tests.reference.scenes import make_scene
from tests.test_kernels_normal import assembled


@pytest.mark.parametrize("most", [0, 1, 4, 30])
@pytest.mark.parametrize("step", [1e-3, 10.0])
def test_nearest(most, step):
    """Coarse steps make equal distances, of which the first to come stays in front; no list has no room."""
    rng = np.random.default_rng(4)
    chosen, dist = np.full(most, -1), np.full(most, -1.0)
    expected, at = np.empty(0, int), np.empty(0)
    n = 0
    for j, d2 in enumerate(np.round(rng.uniform(0, 50, 20) / step) * step):
        n = kernels.insert_nearest(j, d2, n, chosen, dist)
        expected, at = twins.insert_nearest(j, d2, expected, at, most)
        assert n == len(expected)
        assert np.array_equal(chosen[:n], expected)
        assert np.array_equal(dist[:n], at)


def test_links():
    s = make_scene(n=14)
    _, first, links, _ = assembled(s)
    places = [kernels.find_link(first, links, i, j) for i in range(14) for j in range(14)]
    assert places == [twins.find_link(first, links, i, j) for i in range(14) for j in range(14)]
    assert sorted(k for k in places if k >= 0) == list(range(len(links)))


@pytest.mark.parametrize("radius", [0.0, 1.7, 4.0])
def test_strongest(radius):
    """Points on the image and off it, some of them at the same place."""
    rng = np.random.default_rng(6)
    x, y, keep = rng.uniform(-9, 69, 300), rng.uniform(-9, 49, 300), np.ones(300, bool)
    x[250:], y[250:] = x[:50], y[:50]
    order = rng.permutation(300)
    kernels.keep_strongest(x, y, order, radius, *build_grid(x, y, (40, 60), cell=4), keep)
    assert np.array_equal(keep, twins.keep_strongest(x, y, order, radius))
    assert keep.all() == (radius == 0)
