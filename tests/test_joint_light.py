"""Significance of several bands and fluxes of several exposures."""

import numpy as np
import pytest
from scipy.stats import norm

from crowdfit.joint.light import Light, by_band, combined, gaussian_equivalent
from crowdfit.mapping import Mapping
from crowdfit.view import View


def views(bands, *, scales=None, by_exposure=False):
    scales = scales or [1.0] * len(bands)
    return tuple(
        View(k, band, (10, 10), Mapping.identity((10, 10)), scale, by_exposure)
        for k, (band, scale) in enumerate(zip(bands, scales, strict=True))
    )


@pytest.mark.parametrize("n_bands", [2, 3])
def test_noise_exceeds_a_threshold_as_often_as_one_gaussian(n_bands):
    draws = np.random.default_rng(1).normal(size=(1_000_000, n_bands))
    snr = combined(draws)
    for limit in (2.0, 3.0, 3.5):
        expected = norm.sf(limit) * len(draws)
        assert abs(np.sum(snr > limit) - expected) < 4 * np.sqrt(expected)


def test_one_band_counts_as_it_is():
    snr = np.array([[-3.0], [0.0], [5.0]])
    np.testing.assert_array_equal(combined(snr), snr[:, 0])


def test_a_star_of_one_band_is_nearly_as_significant_as_alone():
    snr = combined(np.array([[8.0, 0.0], [8.0, -2.0], [60.0, 0.0]]))
    assert 7.7 < snr[0] < 8.0
    assert snr[1] == snr[0]
    assert 59.5 < snr[2] < 60


def test_equivalent_rises_steadily_beyond_its_table():
    root = np.linspace(0, 80, 4000)
    assert np.all(np.diff(gaussian_equivalent(root, 3)) >= 0)


def test_fluxes_of_exposures_make_the_mean_of_their_band():
    fluxes, errs = np.array([[10.0, 24.0]]), np.array([[1.0, 1.0]])
    flux, err = by_band(views([0, 0], scales=[1.0, 2.0], by_exposure=True), fluxes, errs)
    # 10 with error 1, and 12 with error 1/2
    assert flux[0, 0] == pytest.approx((10 + 4 * 12) / 5)
    assert err[0, 0] == pytest.approx(1 / np.sqrt(5))


def test_light_of_one_band_is_that_of_the_band():
    light = Light.of(views([0, 0]), np.array([[5.0], [0.0]]), np.array([[2.0], [np.inf]]))
    np.testing.assert_array_equal(light.flux, [5.0, 0.0])
    np.testing.assert_array_equal(light.flux_err, [2.0, np.inf])


def test_light_of_two_bands_has_the_significance_of_both():
    fluxes, errs = (
        np.array([[30.0, 0.4], [-1.0, -2.0], [0.0, 0.0]]),
        np.array([[10.0, 0.1]] * 2 + [[np.inf] * 2]),
    )
    light = Light.of(views([0, 1]), fluxes, errs)
    assert light.flux[0] / light.flux_err[0] == pytest.approx(combined(np.array([[3.0, 4.0]]))[0])
    assert light.flux[1] < 0
    assert np.isinf(light.flux_err[2])
