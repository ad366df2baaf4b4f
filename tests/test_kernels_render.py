"""Rendering by tiles, against adding one star after the other to the whole image."""

import numpy as np
import pytest

from crowdfit._kernels import render as kernels
from tests.reference import EPS
from tests.reference import render as twins
from tests.reference.scenes import ORDERS, make_scene

TILE = 16


def lists(s, tile=TILE):
    """Return the tile lists of a scene."""
    ny, nx = s.shape
    start = np.zeros(-(-ny // tile) * -(-nx // tile) + 1, np.int64)
    kernels.bin_to_tiles(s.x, s.y, s.half, ny, nx, tile, start, np.empty(0, np.int64))
    members = np.empty(start[-1], np.int64)
    kernels.bin_to_tiles(s.x, s.y, s.half, ny, nx, tile, start, members)
    return start, members


def tolerance(s):
    """Return what a pixel may be off by: 16 taps of each of the stars that may cover it."""
    return 16 * EPS * np.sort(s.flux)[-4:].sum()


@pytest.mark.parametrize(("x", "y"), [(10, 10), (15.5, 15.49), (-3.2, 44), (-9, 5), (48.6, 3), (200, 200)])
def test_touched_tiles(x, y):
    c0, c1, r0, r1 = kernels.touched_tiles(x, y, 4, 40, 44, TILE)
    cols, rows = twins.touched_tiles(x, y, 4, 40, 44, TILE)
    assert list(range(c0, c1 + 1)) == cols
    assert list(range(r0, r1 + 1)) == rows


@pytest.mark.parametrize("shape", [(40, 44), (16, 16), (5, 70)])
def test_bins(shape):
    s = make_scene(n=30, shape=shape)
    start, members = lists(s)
    expected = twins.bin_to_tiles(s.x, s.y, s.half, *shape, TILE)
    assert [list(members[a:b]) for a, b in zip(start, start[1:], strict=False)] == expected


@pytest.mark.parametrize("order", ORDERS)
def test_image(order):
    """Stars inside, across the border and off the image; the tiles leave no seam."""
    s = make_scene(order)
    image = np.ones(s.shape, np.float32)
    kernels.add_stars(s.coef, s.basis, s.x, s.y, s.flux, s.half, TILE, *lists(s), image)
    expected = twins.add_stars(s.coef, s.basis, s.x, s.y, s.flux, s.half, np.ones(s.shape))
    assert np.allclose(image, expected, rtol=0, atol=tolerance(s))
    other = np.ones(s.shape, np.float32)
    kernels.add_stars(s.coef, s.basis, s.x, s.y, s.flux, s.half, 7, *lists(s, 7), other)
    assert np.allclose(image, other, rtol=0, atol=tolerance(s))


def test_tile():
    s = make_scene(1)
    image, chosen = np.zeros(s.shape, np.float32), np.arange(len(s.x))[:5]
    kernels.add_stars_of_tile(s.coef, s.basis, s.x, s.y, s.flux, s.half, 16, 0, TILE, chosen, image)
    expected = twins.add_stars_of_tile(
        s.coef, s.basis, s.x, s.y, s.flux, s.half, 16, 0, TILE, chosen, np.zeros(s.shape)
    )
    assert np.allclose(image, expected, rtol=0, atol=tolerance(s))


def test_stamp_larger_than_the_image():
    s = make_scene(n=3, shape=(5, 7), largest=8)
    image = np.zeros(s.shape, np.float32)
    kernels.add_stars(s.coef, s.basis, s.x, s.y, s.flux, s.half, TILE, *lists(s), image)
    expected = twins.add_stars(s.coef, s.basis, s.x, s.y, s.flux, s.half, image * 0)
    assert np.allclose(image, expected, rtol=0, atol=tolerance(s))
    assert image.max() > 0


def test_threads(same_bits):
    s = make_scene(2, n=60)

    def work():
        image = np.zeros(s.shape, np.float32)
        kernels.add_stars(s.coef, s.basis, s.x, s.y, s.flux, s.half, TILE, *lists(s), image)
        return [image]

    same_bits(work)
