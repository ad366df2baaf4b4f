"""Analytic PSFs against photutils, and against integrals over the pixel."""

import numpy as np
import pytest
from photutils.psf import AiryDiskPSF, GaussianPRF, MoffatPSF
from scipy.integrate import simpson
from scipy.special import j1

from crowdfit.psf.analytic import airy, gaussian, moffat, sampled

X, Y = 20.3, 19.8
FINE = 21


def pixel_means(model, size=25):
    """Return means of a photutils model over pixels around (X, Y), by the midpoint rule."""
    first_x, first_y = round(X) - size // 2, round(Y) - size // 2
    step = (np.arange(size * FINE) + 0.5) / FINE - 0.5
    yy, xx = np.meshgrid(first_y + step, first_x + step, indexing="ij")
    return model(xx, yy).reshape(size, FINE, size, FINE).mean(axis=(1, 3))


def largest_error(psf, expected):
    """Return the largest difference over the peak; the table's light beyond its radius is scaled away."""
    stamp = psf.stamp(X, Y, len(expected)).astype(float)
    return np.abs(stamp - expected * stamp.sum() / expected.sum()).max() / stamp.max()


PROFILES = {
    "gaussian": lambda r2: np.exp(-4 * np.log(2) * r2),
    "moffat": lambda r2: (1 + 4 * (2**0.4 - 1) * r2) ** -2.5,
    "airy": lambda r2: (2 * j1(3.2327 * np.sqrt(r2 + 1e-20)) / (3.2327 * np.sqrt(r2 + 1e-20))) ** 2,
}


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("oversample", [1, 2, 4])
@pytest.mark.parametrize(("fwhm", "tolerance"), [(0.6, 5e-4), (1.0, 5e-6), (2.0, 5e-9)])
def test_integral_over_the_pixel(name, oversample, fwhm, tolerance):
    """Against Simpson's rule with 120 intervals on a side of the pixel, relative to the highest sample.

    Five trapeziums a sample erred by 1e-2 at one sample a pixel and by 1e-3 at four, whatever the profile.
    """

    def profile(r2):
        return PROFILES[name](r2 / fwhm**2)

    radius = 3
    at = np.arange(-radius * oversample, radius * oversample + 1) / oversample
    within = np.linspace(-0.5, 0.5, 121)
    fine = (at[:, None] + within).ravel()
    q, c, s = 1 - 0.2, np.cos(np.radians(30)), np.sin(np.radians(30))
    x, y = np.meshgrid(fine, fine)
    surface = profile((c * x + s * y) ** 2 * q + (c * y - s * x) ** 2 / q).reshape(len(at), 121, len(at), 121)
    expected = simpson(simpson(surface, x=within, axis=3), x=within, axis=1)
    table = sampled(profile, 0.2, 30, oversample=oversample, radius=radius).cube[0]
    expected *= oversample**2 / expected.sum()
    assert np.abs(table - expected).max() < tolerance * expected.max()


@pytest.mark.parametrize(("fwhm", "tolerance"), [(1.6, 1e-3), (2.0, 2e-4), (3.0, 5e-5), (6.0, 5e-6)])
def test_gaussian(fwhm, tolerance):
    """What is left is the error of the spline at four samples a pixel; it falls with the width."""
    yy, xx = np.mgrid[8:33, 8:33]
    model = GaussianPRF(x_0=X, y_0=Y, x_fwhm=fwhm, y_fwhm=fwhm)
    assert largest_error(gaussian(fwhm), model(xx, yy)) < tolerance


def test_elliptical_gaussian():
    """The geometric mean of both axes is the FWHM; the angle is that of photutils."""
    q = 1 - 0.3
    model = GaussianPRF(x_0=X, y_0=Y, x_fwhm=6 / q**0.5, y_fwhm=6 * q**0.5, theta=30)
    yy, xx = np.mgrid[8:33, 8:33]
    psf = gaussian(6.0, ellipticity=0.3, angle=30)
    # photutils multiplies one-dimensional integrals along the rotated axes, which is not quite a square pixel
    assert largest_error(psf, model(xx, yy)) < 5e-3
    turned = gaussian(6.0, ellipticity=0.3, angle=-30)
    assert largest_error(turned, model(xx, yy)) > 0.1


@pytest.mark.parametrize(("fwhm", "beta"), [(2.0, 3.0), (4.2, 2.5), (3.0, 4.765)])
def test_moffat(fwhm, beta):
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    expected = pixel_means(MoffatPSF(x_0=X, y_0=Y, alpha=alpha, beta=beta))
    assert largest_error(moffat(fwhm, beta), expected) < 1e-3


def test_airy():
    """photutils has no central obscuration; its radius is that of the first zero."""
    fwhm = 3.0
    expected = pixel_means(AiryDiskPSF(x_0=X, y_0=Y, radius=3.8317059702 / (2 * 1.616339948 / fwhm)))
    assert largest_error(airy(fwhm), expected) < 1e-3
    assert airy(fwhm, obscuration=0.3).fwhm < airy(fwhm).fwhm


@pytest.mark.parametrize("make", [gaussian, moffat, airy])
def test_sampling_does_not_matter(make):
    """The pixel's share of the light is the same whatever the table's sampling, odd or even."""
    reference = make(3.0, oversample=6, radius=15).stamp(0.2, 0.4)
    for oversample in (3, 4, 5):
        stamp = make(3.0, oversample=oversample, radius=15).stamp(0.2, 0.4)
        assert np.abs(stamp - reference).max() < 2e-3 * reference.max()


@pytest.mark.parametrize("oversample", [1, 2, 3, 4])
@pytest.mark.parametrize("make", [gaussian, moffat, airy])
def test_round_is_the_limit_of_elliptical(make, oversample):
    """A quadrant is computed of one and all of the other."""
    full = make(2.0, ellipticity=1e-14, oversample=oversample, radius=7).cube[0]
    table = make(2.0, oversample=oversample, radius=7).cube[0]
    np.testing.assert_allclose(table, full, atol=1e-12)
    for other in (table[::-1], table[:, ::-1], table.T):
        np.testing.assert_allclose(table, other, rtol=1e-12)
