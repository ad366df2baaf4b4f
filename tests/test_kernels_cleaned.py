"""Canvases of cleaned stamps, rings, bits and adaptive moments, against slow twins."""

import numpy as np
import pytest

from crowdfit._kernels import cleaned as kernels
from tests.reference import EPS
from tests.reference import cleaned as twins
from tests.reference.scenes import ORDERS, make_scene


def canvases(n, per_row, mid):
    side = 2 * mid + 1
    return tuple(np.zeros((-(-n // per_row) * side, per_row * side), np.float32) for _ in range(5))


def frame_of(s):
    rng = np.random.default_rng(3)
    return s.resid, (s.root**2).astype(np.float32), rng.uniform(0, 50, s.shape).astype(np.float32)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("mid", "radius"), [(6, 8), (11, 8), (7, 4)])
def test_cells(order, mid, radius):
    """Stars inside, across the border and off the image; cells larger and smaller than the PSF; masked pixels."""
    s = make_scene(order, n=23)
    assert np.any(s.root == 0)
    level = np.linspace(-1, 1, 23)
    planes = canvases(23, 5, mid)
    kernels.fill_cells(s.coef, s.basis, s.x, s.y, s.flux, s.half, radius, level, frame_of(s), 5, mid, planes)
    twin = twins.fill_cells(
        s.coef, s.basis, s.x, s.y, s.flux, s.half, radius, level, frame_of(s), 5, mid, planes[0].shape
    )
    scale = [s.flux.max(), 1, 100, 1, s.flux.max()]
    for plane, expected, size in zip(planes, twin, scale, strict=True):
        assert np.allclose(plane, expected, rtol=4 * EPS, atol=16 * EPS * size)
    assert all(np.any(plane != 0) for plane in planes)


def test_one_cell():
    s = make_scene(n=4)
    planes = canvases(1, 1, 9)
    star = (s.x[2], s.y[2], s.flux[2], s.half[2], 8, 0.5)
    kernels.fill_cell(s.coef, s.basis[2], *star, frame_of(s), 0, 0, 9, planes)
    twin = twins.fill_cell(s.coef, s.basis[2], *star, frame_of(s), 9)
    for plane, expected in zip(planes, twin, strict=True):
        assert np.allclose(plane, expected, rtol=4 * EPS, atol=16 * EPS * s.flux.max())


def test_cells_have_the_same_bits_on_any_number_of_threads(same_bits):
    s = make_scene(1, n=40)

    def work():
        planes = canvases(40, 7, 8)
        kernels.fill_cells(
            s.coef, s.basis, s.x, s.y, s.flux, s.half, 8, np.zeros(40), frame_of(s), 7, 8, planes
        )
        return planes

    same_bits(work)


@pytest.mark.parametrize("iterations", [0, 1, 5])
@pytest.mark.parametrize("n", [1, 2, 50, 51])
def test_clipped_median(n, iterations):
    values = np.random.default_rng(n).normal(3, 1, n)
    values[: n // 8] += 30
    out = np.empty(3)
    kernels.clip_median(np.sort(values), 3.0, iterations, out)
    assert np.allclose(out, twins.clip_median(values, 3.0, iterations), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("inner", "outer"), [(3.0, 6.5), (0.5, 2.0), (30.0, 50.0)])
def test_rings(inner, outer):
    s = make_scene(n=30)
    resid, ivar, _ = frame_of(s)
    resid = np.where(ivar > 0, resid, np.float32(1e20))
    out = np.empty((30, 3))
    kernels.measure_rings(s.x, s.y, inner, outer, 2.0, 4, 12, resid, ivar, out)
    twin = twins.measure_rings(s.x, s.y, inner, outer, 2.0, 4, 12, resid, ivar)
    assert np.allclose(out, twin, rtol=1e-9, atol=1e-9, equal_nan=True)
    assert np.isfinite(out[:, 0]).any()


def test_ring_without_pixels():
    s = make_scene(n=3)
    resid, ivar, _ = frame_of(s)
    out = np.empty((3, 3))
    kernels.measure_rings(s.x + 500, s.y, 3.0, 5.0, 3.0, 5, 0, resid, ivar, out)
    assert np.isnan(out[:, :2]).all()
    assert np.all(out[:, 2] == 0)


def test_bits():
    rng = np.random.default_rng(4)
    dq = np.where(rng.random((20, 24)) < 0.1, 2 ** rng.integers(0, 32, (20, 24)), 0).astype(np.uint32)
    x, y = rng.uniform(-2, 26, 40), rng.uniform(-2, 22, 40)
    radii = np.array([0.3, 1.7, 4.2])
    out = np.empty((40, 3), np.uint32)
    kernels.collect_bits(x, y, radii, dq, out)
    np.testing.assert_array_equal(out, twins.collect_bits(x, y, radii, dq))
    assert np.any(out >= 2**31)


@pytest.fixture
def gaussians():
    """Return an image of five elliptical Gaussians far apart, with places and moments."""
    rng = np.random.default_rng(5)
    rows, cols = np.indices((50, 250))
    x, y = 25 + 50 * np.arange(5) + rng.uniform(-0.5, 0.5, 5), 25 + rng.uniform(-0.5, 0.5, 5)
    shapes = np.array([[4, 2, 0.5], [3, 3, 0], [2, 6, -1.5], [5, 4, 2], [1.5, 1.2, 0.2]])
    image = np.zeros(rows.shape)
    for at_x, at_y, (xx, yy, xy) in zip(x, y, shapes, strict=True):
        u, v = cols - at_x, rows - at_y
        image += np.exp(-0.5 * (yy * u * u + xx * v * v - 2 * xy * u * v) / (xx * yy - xy * xy))
    return image.astype(np.float32), x, y, shapes


def test_moments_under_a_gaussian(gaussians):
    image, x, y, _ = gaussians
    shape = np.array([3.0, 2.0, 0.4])
    out = np.empty(3)
    for k in range(5):
        kernels.weighted_shape(image, x[k], y[k], shape, 15, out)
        assert np.allclose(out, twins.weighted_shape(image, x[k], y[k], shape, 15), rtol=1e-9)
    kernels.weighted_shape(-image, x[0], y[0], shape, 15, out)
    assert np.isnan(out).all()
    kernels.weighted_shape(image, x[0], y[0], np.array([1.0, 1.0, 2.0]), 15, out)
    assert np.isnan(out).all()


def test_ellipses(gaussians):
    """Moments of a Gaussian are its own; noise, no light, and what is too wide or a single pixel have none."""
    image, x, y, shapes = gaussians
    out = np.empty((5, 3))
    kernels.fit_ellipses(image, x, y, 1.8, 20, 60, out)
    assert np.allclose(out, shapes, rtol=5e-3, atol=5e-3)
    noisy = (image + np.random.default_rng(6).normal(0, 0.05, image.shape)).astype(np.float32)
    kernels.fit_ellipses(noisy, x, y, 1.8, 20, 60, out)
    twin = twins.fit_ellipses(noisy, x, y, 1.8, 20)
    assert np.isfinite(twin).any()
    assert np.allclose(out, twin, rtol=2e-3, atol=2e-3, equal_nan=True)
    kernels.fit_ellipses(-image, x, y, 1.8, 20, 60, out)
    assert np.isnan(out).all()
    kernels.fit_ellipses(np.ones_like(image), x, y, 1.8, 20, 60, out)
    assert np.isnan(out).all()
    point = np.zeros_like(image)
    point[np.round(y).astype(int), np.round(x).astype(int)] = 1
    kernels.fit_ellipses(point, x, y, 1.8, 20, 60, out)
    assert np.isnan(out).all()
