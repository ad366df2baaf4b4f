"""Noise that pixels share: none is seen where there is none, and what a kernel makes is measured."""

import numpy as np
import pytest
from scipy.ndimage import convolve1d

from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.photometry.correlation import blank_pixels, covariances, noise_factors, psf_overlaps
from crowdfit.psf.analytic import moffat
from crowdfit.render import render
from crowdfit.sources import Sources

SHAPE = (300, 320)
WHITE = (0.0, 1.0, 0.0)
KERNELS = [(0.1, 0.8, 0.1), (0.15, 0.7, 0.15), (0.25, 0.5, 0.25)]


def noise(kernel, seed=1):
    """Return noise of rms 1 spread by a kernel along both axes."""
    white = np.random.default_rng(seed).normal(size=SHAPE)
    spread = convolve1d(convolve1d(white, kernel, axis=0, mode="wrap"), kernel, axis=1, mode="wrap")
    return spread / np.sum(np.square(kernel))


def frame_of(psf, data, unit=1.0):
    ivar = np.full(SHAPE, unit**-2)
    return Frame.start(Exposure.of(data * unit, ivar), psf, StampSizes())


def expected(psf, kernel, plane):
    """Return by what the kernel multiplies the error of a projection on one of P, dP/dx: in Fourier space."""
    stamp = psf.planes(0.0, 0.0)[plane].astype(float)
    power = np.abs(np.fft.fft2(stamp)) ** 2
    response = [
        np.abs(kernel[1] + 2 * kernel[0] * np.cos(2 * np.pi * np.fft.fftfreq(n))) ** 2 for n in stamp.shape
    ]
    gain = np.outer(*response) / np.sum(np.square(kernel)) ** 2
    return np.sqrt(np.sum(gain * power) / np.sum(power))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("fwhm", [2.0, 4.2])
def test_spread_noise(kernel, fwhm):
    """P061: the error of a flux and of a position behind a kernel, which Fourier theory knows."""
    psf = moffat(fwhm, 3.5, radius=30)
    found = noise_factors(frame_of(psf, noise(kernel)))
    assert found.flux == pytest.approx(expected(psf, kernel, 0), rel=0.06)
    assert found.shift == pytest.approx(expected(psf, kernel, 1), rel=0.06)
    assert found.flux > 1.2


@pytest.mark.parametrize("fwhm", [1.5, 2.0, 4.2, 8.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_white_noise(fwhm, seed):
    """Independent pixels have a factor of exactly 1."""
    assert noise_factors(frame_of(moffat(fwhm, 3.5, radius=20), noise(WHITE, seed))) == (1.0, 1.0)


@pytest.mark.parametrize("fwhm", [2.0, 4.2])
def test_undetected_stars_are_no_correlated_noise(fwhm):
    """The light of faint stars makes pixels alike too; with three times the variance of the noise it is told apart."""
    psf, rng = moffat(fwhm, 3.5, radius=20), np.random.default_rng(4)
    n = 4000
    x, y = rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n)
    stars = render(psf, x, y, np.full(n, 1.0), SHAPE)
    stars = (stars - stars.mean()) / stars.std()
    assert noise_factors(frame_of(psf, (noise(WHITE) + np.sqrt(3) * stars) / 2)) == (1.0, 1.0)
    spread = noise_factors(frame_of(psf, (noise(KERNELS[1]) + 0.3 * stars) / np.sqrt(1.09)))
    assert spread.flux == pytest.approx(expected(psf, KERNELS[1], 0), rel=0.12)


def test_image_unit(small_psf):
    once, other = (noise_factors(frame_of(small_psf, noise(KERNELS[0]), unit)) for unit in (1.0, 1e-6))
    assert other == pytest.approx(once, rel=1e-4)


def test_pixels_under_stars_take_no_part(small_psf):
    frame = frame_of(small_psf, noise(WHITE)).rendered(Sources.at([100.0], [80.0], [1e4]))
    chi, usable = blank_pixels(frame)
    assert not usable[80, 100]
    assert usable[200, 200]
    assert np.all(chi[~usable] == 0)
    assert abs(chi[usable].mean()) < 1e-6


def test_few_pixels(small_psf):
    """Where nearly all pixels are masked nothing is measured."""
    data = noise(KERNELS[2])
    ivar = np.zeros(SHAPE)
    ivar[:40, :40] = 1
    assert noise_factors(Frame.start(Exposure.of(data, ivar), small_psf, StampSizes())) == (1.0, 1.0)


def test_covariances_of_a_few_pixels():
    """Both diagonals count, and only pairs of which both are used."""
    chi = np.array([[1.0, 2.0, 0.0], [3.0, -1.0, 4.0]])
    usable = np.array([[True, True, False], [True, True, True]])
    mean, pairs = covariances(chi, usable, 1)
    assert pairs.tolist() == [[5, 3], [2, 3]]
    assert mean[0, 1] == pytest.approx((1 * 2 + 3 * -1 + -1 * 4) / 3)
    assert mean[1, 0] == pytest.approx((1 * 3 + 2 * -1) / 2)
    assert mean[1, 1] == pytest.approx((1 * -1 + 2 * 4 + 2 * 3) / 3)


def test_overlaps(small_psf):
    value, slope = psf_overlaps(small_psf, 3)
    stamp, moved = (small_psf.planes(x, 0.0, 61).astype(float) for x in (0.0, 2.0))
    whole = np.roll(moved, 2, axis=2)  # the stamp of a star two columns away, on the pixels of the first
    assert value[0, 0] == slope[0, 0] == 1
    assert value[0, 2] == pytest.approx(np.sum(stamp[0] * whole[0]) / np.sum(stamp[0] ** 2), rel=1e-3)
    both = np.sum(stamp[1] * whole[1]) + np.sum(stamp[2] * whole[2])
    assert slope[0, 2] == pytest.approx(both / np.sum(stamp[1:] ** 2), rel=1e-3)
