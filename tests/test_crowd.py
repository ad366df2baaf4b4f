"""Counts of stars around every star: a known law at a known density, everywhere and from place to place."""

import numpy as np
import pytest

from crowdfit.counts import USUAL_SLOPE
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.photometry.crowd import NOISY, Crowd, at_places, count_around, places, slope_of, usable_area
from crowdfit.sources import Sources

SIDE = 500


def frame_of(psf, *, unit=1.0, mask=None):
    rng = np.random.default_rng(1)
    ivar = np.full((SIDE, SIDE), unit**-2)
    if mask is not None:
        ivar[mask] = 0
    return Frame.start(Exposure.of(rng.normal(0, unit, (SIDE, SIDE)), ivar), psf, StampSizes())


def stars(frame, n, slope, *, left=0.0, right=SIDE - 1.0, seed=2):
    """Return n stars with N(>f) ~ f^-slope above 3 sigma of an isolated star, between two columns."""
    rng = np.random.default_rng(seed)
    sigma = float(frame.isolated_error(np.zeros(1))[0])
    flux = 3 * sigma * rng.uniform(size=n) ** (-1 / slope)
    return Sources.at(rng.uniform(left, right, n), rng.uniform(0, SIDE - 1.0, n), flux)


def law(n, slope, area):
    """Return stars per pixel and unit of ln f at sigma of a law with n stars above 3 sigma."""
    return slope * n * 3**slope / area


@pytest.mark.parametrize("slope", [0.5, 0.75])
@pytest.mark.parametrize("n", [1500, 12_000])
def test_known_law(small_psf, n, slope):
    """Slope and density of a uniform field, whether its stars are told apart down to the noise or not."""
    frame = frame_of(small_psf)
    crowd = Crowd.around(frame, stars(frame, n, slope))
    # a thousand stars and more tell the slope to 0.03; continued over a factor of 8 in flux that is 6 %
    assert crowd.slope == pytest.approx(slope, abs=0.12)
    assert np.median(crowd.density) == pytest.approx(law(n, slope, SIDE**2), rel=0.3)


def test_denser_on_one_side(small_psf):
    """Half the frame with six times the stars of the other has six times the density."""
    frame = frame_of(small_psf)
    few, many = stars(frame, 1000, 0.7, right=SIDE / 2), stars(frame, 6000, 0.7, left=SIDE / 2, seed=3)
    both = few.append(many)
    density = Crowd.around(frame, both).density
    ratio = np.median(density[both.x > 0.7 * SIDE]) / np.median(density[both.x < 0.3 * SIDE])
    assert 4 < ratio < 8


def test_image_unit(small_psf):
    """The counts are per sigma: in other units they are the same."""
    found = []
    for unit in (1.0, 1e-6):
        frame = frame_of(small_psf, unit=unit)
        found.append(Crowd.around(frame, stars(frame, 2000, 0.7)))
    assert found[1].sigma == pytest.approx(1e-6 * found[0].sigma, rel=1e-4)
    np.testing.assert_allclose(found[1].density, found[0].density, rtol=1e-3)


def test_masked_pixels_hold_no_stars(small_psf):
    """Stars missing where pixels are missing do not make the rest less dense."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[::2] = True
    frame, masked = frame_of(small_psf), frame_of(small_psf, mask=mask)
    whole = stars(frame, 8000, 0.7)
    half = whole.take(np.arange(0, 8000, 2))
    there, everywhere = Crowd.around(masked, half), Crowd.around(frame, whole)
    # where they are counted; far from there they would differ by the slopes of two samples
    at_20, at_20_too = (np.median(crowd.density) * 20**-crowd.slope for crowd in (there, everywhere))
    assert at_20 == pytest.approx(at_20_too, rel=0.15)


def test_nobody(small_psf):
    """Without stars above the noise nothing is known, and nothing is crowded."""
    frame = frame_of(small_psf)
    assert len(Crowd.around(frame, Sources.empty()).density) == 0
    faint = stars(frame, 50, 0.7)
    crowd = Crowd.around(frame, faint.changed(flux=0.001 * faint.flux))
    assert np.all(crowd.density == 0)
    assert crowd.slope == USUAL_SLOPE


def test_counting(small_psf):
    """Where stars crowd only the brightest count; `number` of them are brighter than `faintest`."""
    frame = frame_of(small_psf)
    least = NOISY * float(frame.isolated_error(np.zeros(1))[0])
    x, y = places((SIDE, SIDE), 100.0)
    for n in (100, 20_000):
        list_ = stars(frame, n, 0.7)
        faintest, number, area = count_around(frame, list_, x, y, least)
        assert faintest.shape == number.shape == area.shape == (5, 5)
        near = np.hypot(list_.x - x[2], list_.y - y[1]) < 8 * small_psf.fwhm
        assert number[1, 2] == np.sum(near & (list_.flux > faintest[1, 2]))
        if n == 100:
            assert np.all(faintest == least)
        else:
            assert np.all(faintest > least)
            assert np.all(number <= 0.5 * area / small_psf.n_eff)


def test_area(small_psf):
    """A disc inside, one at the edge with half, one in the corner with a quarter of it."""
    frame, r = frame_of(small_psf), 20.0
    x, y = np.array([250.0, 250.0, -0.5]), np.array([250.0, -0.5, -0.5])
    expected = np.pi * r**2 * np.array([1, 0.5, 0.25])
    np.testing.assert_allclose(usable_area(frame, x, y, r), expected, rtol=0.06)


def test_interpolation_between_places(small_psf):
    frame = frame_of(small_psf)
    x, y = places((SIDE, SIDE), 60.0)
    grid = np.add.outer(2.0 * y, x)
    at = Sources.at([100.0, 250.3], [300.0, 47.8])
    np.testing.assert_allclose(at_places(grid, frame, at), 2 * at.y + at.x)


def test_slope_needs_stars():
    ratio = -np.log(np.random.default_rng(3).uniform(size=3000)) / 0.6
    assert slope_of(ratio) == pytest.approx(0.6, abs=0.06)
    assert slope_of(ratio[:20]) == USUAL_SLOPE
    assert slope_of(np.full(100, 0.8)) == 0.95
    assert slope_of(np.full(100, 3.4)) == 0.3
