"""Weighted centroids, against barycentres with finite differences; peaks, against a search without slopes."""

import numpy as np
import pytest

from crowdfit._kernels import moments as kernels
from crowdfit.render import render
from tests.reference import moments as twins
from tests.reference.scenes import ORDERS, make_scene


def steps(s, half, use_psf, resid, flux=None):
    out, flux = np.empty((len(s.x), 3)), s.flux if flux is None else flux
    kernels.weighted_steps(s.coef, s.basis, s.x, s.y, flux, half, use_psf, resid, s.ivar, out)
    return out


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("half", "use_psf"), [(5, True), (2, False)])
def test_steps(order, half, use_psf):
    """C022, C023, C024, C025, C026, C027, with huge values on masked pixels.

    Bright stars: their steps do not hang on rounding.
    """
    s = make_scene(order, n=24)
    flux = s.flux + 300
    twin = twins.weighted_steps(s.coef, s.basis, s.x, s.y, flux, half, use_psf, s.resid, s.ivar)
    assert np.count_nonzero(np.abs(twin[:, :2]).max(axis=1) > 1e-3) > 15
    assert np.allclose(steps(s, half, use_psf, s.with_masked(1e30), flux), twin, rtol=1e-3, atol=1e-4)


def test_window_larger_than_the_image():
    s = make_scene(n=5, shape=(6, 7))
    twin = twins.weighted_steps(s.coef, s.basis, s.x, s.y, s.flux + 300, 7, True, s.resid, s.ivar)
    assert np.allclose(steps(s, 7, True, s.resid, s.flux + 300), twin, rtol=1e-3, atol=1e-4)


def test_no_step_without_light():
    """No flux, off the image, or all masked: the star stays, its usable share is 0."""
    s = make_scene(n=6)
    assert np.all(steps(s, 4, True, s.resid, -s.flux) == 0)
    assert np.all(steps(s, 4, True, s.resid)[3] == 0)
    s.root[:] = 0
    assert np.all(steps(s, 4, True, s.resid) == 0)


@pytest.mark.parametrize(("half", "use_psf"), [(5, True), (2, False)])
def test_perfect_stars_do_not_move(half, use_psf):
    """C025, C026: mask and weights pull a barycentre, but not a step."""
    s = make_scene(n=20)
    assert np.abs(steps(s, half, use_psf, np.zeros_like(s.resid))[:, :2]).max() < 1e-5


def test_moments():
    rng = np.random.default_rng(1)
    image, weight = rng.normal(size=(2, 6, 7)).astype(np.float32)
    out = np.empty(5)
    kernels.weighted_moments(image, weight, 3, 4, 6.2, 5.1, out)
    v, u = np.meshgrid(np.arange(4, 10) - 5.1, np.arange(3, 10) - 6.2, indexing="ij")
    expected = twins.weighted_moments(image.astype(float), weight.astype(float), u, v)
    assert np.allclose(out, expected, rtol=1e-6, atol=1e-6)


def test_response_is_that_of_the_psf():
    """C024: not 2, but what the true PSF and window ask for; the step of a shifted star is the shift."""
    s = make_scene(n=7)
    s.root[:] = 1
    at, shift = slice(6, 7), 0.02
    truth = render(s.psf, s.x[at] + shift, s.y[at] - shift, s.flux[at], s.shape)
    resid = truth - render(s.psf, s.x[at], s.y[at], s.flux[at], s.shape)
    for half, use_psf in ((5, True), (2, False)):
        assert steps(s, half, use_psf, resid)[6, :2] == pytest.approx([shift, -shift], rel=0.01)


def peaks(s, half, reach, resid, flux):
    out = np.empty((len(s.x), 3))
    kernels.peak_steps(s.coef, s.basis, s.x, s.y, flux, half, reach, resid, s.ivar, out)
    return out


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("half", [3, 5])
def test_peaks(order, half):
    """C028, with huge values on masked pixels. Bright stars: there is one peak, and it is near."""
    s = make_scene(order, n=24)
    flux = s.flux + 300
    twin = twins.peak_steps(s.coef, s.basis, s.x, s.y, flux, half, s.resid, s.ivar)
    near = np.hypot(*twin[:, :2].T) < 1  # what is left of a star beyond the border leads anywhere
    assert np.count_nonzero(near & (np.hypot(*twin[:, :2].T) > 0.01)) > 15
    assert np.count_nonzero(~near) < 2
    assert np.allclose(peaks(s, half, 1.5, s.with_masked(1e30), flux)[near], twin[near], rtol=0, atol=2e-4)


def test_peak_within_reach():
    """Who would go farther stops there."""
    s = make_scene(n=24)
    far = peaks(s, 4, 1.5, s.resid, s.flux + 300)
    near = peaks(s, 4, 0.02, s.resid, s.flux + 300)
    gone = np.hypot(*far[:, :2].T) > 0.025
    assert np.count_nonzero(gone) > 5
    assert np.hypot(*near[gone, :2].T) == pytest.approx(0.02, rel=1e-3)
    assert np.allclose(near[~gone], far[~gone], rtol=0, atol=0.02)


def test_no_peak():
    """No flux, off the image, all masked, or a hole in its place: the star stays."""
    s = make_scene(n=6)
    assert np.all(peaks(s, 4, 1.0, s.resid, -s.flux) == 0)
    assert np.all(peaks(s, 4, 1.0, s.resid, s.flux)[3] == 0)
    assert np.all(peaks(s, 4, 1.0, np.full_like(s.resid, -1e4), s.flux)[:, :2] == 0)
    s.root[:] = 0
    assert np.all(peaks(s, 4, 1.0, s.resid, s.flux) == 0)


def test_parts_of_peaks():
    rng = np.random.default_rng(5)
    clean, psf, gx, gy = rng.normal(size=(4, 5, 6)).astype(np.float32)
    ivar = rng.uniform(size=(20, 21)).astype(np.float32)
    sums, cut = np.empty(9), ivar[7:12, 3:9]
    kernels.filter_sums(clean, ivar, 3, 7, psf, gx, gy, sums)
    assert np.allclose(sums, twins.filter_sums(clean, cut, psf, gx, gy), rtol=1e-6, atol=1e-6)
    step = np.empty(2)
    for sign in (1, -1):
        kernels.ascend(sums * [sign, sign, sign, 1, 1, 1, 1, 1, 1], step)
        assert np.allclose(step, twins.ascend(sums * [sign, sign, sign, 1, 1, 1, 1, 1, 1]), rtol=1e-9)
    kernels.ascend(np.zeros(9), step)
    assert np.all(step == 0)
    out = np.empty_like(clean)
    cut[2:4, 1] = 0
    share = kernels.clean_stamp(np.pad(clean, ((7, 8), (3, 12))), ivar, np.abs(psf), 3.0, 3, 7, out)
    expected, part = twins.clean_stamp(clean, cut, np.abs(psf), 3.0)
    assert np.allclose(out, expected, rtol=1e-6, atol=1e-6)
    assert share == pytest.approx(part, rel=1e-6)


def test_threads(same_bits):
    s = make_scene(2, n=60)
    same_bits(lambda: [steps(s, 5, True, s.resid), peaks(s, 5, 1.0, s.resid, s.flux)])
