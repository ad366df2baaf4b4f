"""Correlation and peaks, against shifted copies of the whole image."""

import numpy as np
import pytest

from crowdfit._kernels import filters as kernels
from tests.reference import EPS
from tests.reference import filters as twins


def noise(shape=(20, 23), seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def kernel_of(size, seed=2):
    return np.random.default_rng(seed).uniform(0, 1, (size, size))


def test_scaled_row():
    row, out = noise()[0], np.ones(23)
    expected = twins.add_scaled_row(0.3, row, out)
    kernels.add_scaled_row(0.3, row, out)
    assert np.allclose(out, expected, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize(("shape", "size"), [((20, 23), 5), ((20, 23), 1), ((4, 3), 9), ((1, 6), 3)])
def test_correlate(shape, size):
    """Also where the filter is larger than the image. Sums are in double precision, the result is rounded once."""
    image, psf, out = noise(shape), kernel_of(size), np.empty(shape, np.float32)
    kernels.correlate(image, psf, out)
    assert np.allclose(out, twins.correlate(image, psf), rtol=EPS, atol=size**2 * 1e-15)


def test_correlate_row():
    image, psf, out = noise(), kernel_of(7), np.empty(23, np.float32)
    kernels.correlate_row(image, psf, 2, out)
    assert np.allclose(out, twins.correlate_row(image, psf, 2), rtol=EPS, atol=1e-13)


def test_blended_row():
    row, out, share = noise()[0], np.ones(23), np.linspace(0, 1, 23)
    expected = twins.add_blended_row(0.3, -0.2, share, row, out)
    kernels.add_blended_row(0.3, -0.2, share, row, out)
    assert np.allclose(out, expected, rtol=1e-15, atol=1e-15)


def over_field(shape, size, n=(3, 4)):
    """Return arguments of `correlate_field` for nodes that are spread unevenly, some columns without any."""
    ny, nx = shape
    rng = np.random.default_rng(4)
    x, y = (
        np.append(0, np.sort(rng.uniform(0.2, 0.8, k - 2)) * size)
        for k, size in zip(n, (nx, ny), strict=True)
    )
    x, y = np.append(x, max(nx - 1, 1)), np.append(y, max(ny - 1, 1))
    col, row = np.arange(nx), np.arange(ny)
    left, low = (
        np.clip(np.searchsorted(v, at, "right") - 1, 0, len(v) - 2) for v, at in ((x, col), (y, row))
    )
    cols = np.append(np.searchsorted(left, np.arange(len(x) - 1)), nx).astype(np.int64)
    share_x, share_y = (col - x[left]) / (x[left + 1] - x[left]), (row - y[low]) / (y[low + 1] - y[low])
    psfs = rng.uniform(0, 1, (len(y), len(x), size, size))
    return noise(shape), psfs, cols, share_x, low.astype(np.int64), share_y


@pytest.mark.parametrize(
    ("shape", "size"), [((20, 23), 5), ((20, 23), 1), ((4, 3), 9), ((1, 6), 3), ((5, 1), 3)]
)
def test_correlate_over_the_field(shape, size):
    arguments, out = over_field(shape, size), np.empty(shape, np.float32)
    kernels.correlate_field(*arguments, out)
    assert np.allclose(out, twins.correlate_field(*arguments), rtol=EPS, atol=size**2 * 1e-15)
    image, psfs, cols, share_x, low, share_y = arguments
    row, r = np.empty(shape[1], np.float32), shape[0] - 1
    kernels.correlate_field_row(image, psfs, cols, share_x, low[r], share_y[r], r, row)
    assert np.array_equal(row, out[r])
    expected = twins.correlate_field_row(image, psfs, cols, share_x, low[r], share_y[r], r)
    assert np.allclose(row, expected, rtol=EPS, atol=size**2 * 1e-15)


def found(image, usable, threshold, limit=200):
    rows, cols = np.empty(limit, np.int64), np.empty(limit, np.int64)
    n = kernels.find_peaks(image, usable, threshold, rows, cols)
    return n, rows[:n], cols[:n]


@pytest.mark.parametrize("levels", [1000, 3])
def test_peaks(levels):
    """With three grey levels nearly every peak is tied."""
    image = (np.round(noise() * levels) / levels).astype(np.float32)
    usable = np.random.default_rng(3).random(image.shape) < 0.8
    n, rows, cols = found(image, usable, 0.2)
    assert n > 10
    assert np.array_equal([rows, cols], twins.find_peaks(image, usable, 0.2))


def test_peaks_beyond_the_limit_are_counted():
    image = noise()
    every = found(image, np.ones(image.shape, bool), -10.0)
    rows, cols = np.full(5, -1), np.full(5, -1)
    assert kernels.find_peaks(image, np.ones(image.shape, bool), -10.0, rows, cols) == every[0]
    assert np.array_equal(rows, every[1][:5])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_peaks_next_to_what_is_not_a_number(value):
    """NaN is never a peak and does not hide one; the edge and corners may hold one."""
    image = np.zeros((4, 5), np.float32)
    image[0, 0], image[3, 4], image[1, 1] = 2, 3, -value
    n, rows, cols = found(image, np.ones(image.shape, bool), 0.5)
    assert list(zip(rows, cols, strict=True)) == [(0, 0), (3, 4)]


def test_refined_positions():
    image = noise()
    rows, cols = twins.find_peaks(image, np.ones(image.shape, bool), -0.5)
    x, y = np.empty(len(rows)), np.empty(len(rows))
    kernels.refine_peaks(image, rows, cols, x, y)
    # sums of a few single-precision pixels, divided by a curvature that is of the order of one
    assert np.allclose([x, y], twins.refine_peaks(image, rows, cols), rtol=0, atol=1e-5)


def test_refined_position_of_a_parabola():
    yy, xx = np.mgrid[:7, :8]
    image = (5 - (xx - 3.3) ** 2 - 2 * (yy - 4.2) ** 2 + 0.5 * (xx - 3.3) * (yy - 4.2)).astype(np.float32)
    x, y = np.empty(2), np.empty(2)
    kernels.refine_peaks(image, np.array([4, 0]), np.array([3, 3]), x, y)
    assert (x[0], y[0]) == pytest.approx((3.3, 4.2), abs=1e-5)
    assert (x[1], y[1]) == (3, 0)  # at the edge the pixel itself


def test_threads(same_bits):
    image, psf = noise((64, 65)), kernel_of(9)

    def work():
        out = np.empty_like(image)
        kernels.correlate(image, psf, out)
        return [out]

    same_bits(work)


@pytest.mark.parametrize("ratio", [0.1, 7.0, 500.0])
def test_share(ratio):
    """0 where stars add nothing to the noise, 1 where they are all of it."""
    brightness = (10 ** np.random.default_rng(3).uniform(-4, 6, (20, 23))).astype(np.float32)
    brightness[0] = 0
    share = np.full((20, 23), np.nan, np.float32)
    kernels.fill_share(brightness, ratio, 0.02, share)
    assert np.allclose(share, twins.fill_share(brightness, ratio, 0.02), rtol=EPS, atol=0)
    assert not share[0].any()
    assert share.max() == pytest.approx(1, abs=1e-3)
