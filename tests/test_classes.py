"""Concentration, the line below which stars lie, and the probability of a star."""

import numpy as np
import pytest
from astropy.modeling.models import Sersic2D
from scipy.signal import fftconvolve

from crowdfit import fit_image
from crowdfit.exposure import Exposure
from crowdfit.photometry.classes import (
    OTHER,
    STAR,
    UNDECIDED,
    concentration,
    is_below,
    star_probability,
)
from crowdfit.simulate import named_scene, simulate
from crowdfit.sources import Sources

LINE = ((0.6, 0.0), (1.0, 1.5), (1.3, 1.8), (1.7, 1.9), (1.8, 1.4), (2.0, 0.0))


def test_concentration():
    """M038; a flux that is not positive has none."""
    values = concentration(np.array([3.0, 1, -1, 2, np.nan]), np.array([2.0, -1, -2, 0, 1]))
    np.testing.assert_array_equal(values, [1.5, np.nan, np.nan, np.nan, np.nan])


@pytest.mark.parametrize(
    ("first", "second", "side"),
    [
        (1.0, 1.4, STAR),
        (1.0, 1.6, OTHER),
        (1.15, 1.64, STAR),
        (1.15, 1.66, OTHER),
        (1.75, 1.66, OTHER),
        (0.5, 0.1, OTHER),
        (2.5, 0.1, OTHER),
        (1.3, 1.8, UNDECIDED),
        (np.nan, 1.0, UNDECIDED),
        (1.0, np.nan, UNDECIDED),
    ],
)
def test_line(first, second, side):
    """M039: below is a star, beyond the ends nothing is, on the line and NaN nothing is said."""
    assert is_below(LINE, np.array([first]), np.array([second])).tolist() == [side]


def inputs(spread, growth, chi, n_stars=400, seed=1):
    """Return the arguments of a list of stars of S/N 50 with noise, and one source more."""
    rng = np.random.default_rng(seed)
    n = n_stars + 1
    spread, growth = (
        np.append(rng.normal(0, error, n_stars), value) for error, value in ((0.002, spread), (0.05, growth))
    )
    chi = np.append(np.exp(rng.normal(0, 0.2, n_stars)), chi)
    stars = Sources.at(np.arange(n), np.arange(n), np.full(n, 50.0)).changed(flux_err=np.ones(n))
    measured = {"spread_model": spread, "spread_model_err": np.full(n, 0.002), "rchi2": chi}
    inner, outer = np.full(n, 30.0), 30.0 * 1.4 * 10 ** (0.4 * growth)
    apertures = {
        "aper_flux_a": inner,
        "aper_flux_b": outer,
        "aper_corr_a": np.full(n, 1.4),
        "aper_corr_b": np.ones(n),
    }
    apertures |= {"aper_flux_err_a": np.full(n, 0.8), "aper_flux_err_b": np.full(n, 2.1)}
    return stars, measured, apertures, ("a", "b")


class TestProbability:
    def test_star_and_galaxy(self):
        assert star_probability(*inputs(0.0, 0.0, 1.0), 0.9)[-1] > 0.95
        assert star_probability(*inputs(0.02, 0.4, 4.0), 0.9)[-1] < 0.1
        stars = star_probability(*inputs(0.0, 0.0, 1.0), 0.9)[:-1]
        assert np.mean(stars > 0.5) > 0.98

    def test_sharper_than_the_psf_is_not_extended(self):
        assert star_probability(*inputs(-0.02, -0.2, 1.0), 0.9)[-1] > 0.5

    def test_share_of_stars(self):
        """It is the probability where the measures say nothing."""
        arguments = inputs(0.004, 0.05, 1.3)
        few, many = (star_probability(*arguments, share)[-1] for share in (0.5, 0.99))
        assert few < many

    def test_what_stars_do_in_this_image_counts(self):
        """A spread_model that all stars have is that of a star: an error of the PSF."""
        stars, measured, apertures, labels = inputs(0.02, 0.0, 1.0)
        alone = star_probability(stars, measured, apertures, labels, 0.9)[-1]
        measured["spread_model"][:-1] += 0.02
        assert star_probability(stars, measured, apertures, labels, 0.9)[-1] > 0.9 > alone

    def test_few_sources(self):
        """Then the errors stand as they are."""
        found = star_probability(*inputs(0.03, 0.5, 5.0, n_stars=5), 0.9)
        assert found[-1] < 0.1
        assert np.all(found[:-1] > 0.3)

    def test_nothing_measured(self):
        stars, measured, apertures, labels = inputs(np.nan, np.nan, np.nan)
        assert np.isnan(star_probability(stars, measured, apertures, labels, 0.9)[-1])
        nothing = {name: values[:0] for name, values in (measured | apertures).items()}
        assert len(star_probability(Sources.empty(), nothing, nothing, labels, 0.9)) == 0


@pytest.mark.slow
def test_list_of_stars_and_small_galaxies():
    """In a list with one entry for each source, probabilities are what they say."""
    scene = named_scene(
        "demo", ny=360, nx=360, n_stars=500, margin=0, fwhm=3.0, flux_min=2e3, flux_max=3e5, seed=21
    )
    made = simulate(scene)
    rng = np.random.default_rng(22)
    x, y = rng.uniform(15, 345, (2, 70))
    rows, cols = np.indices((360, 360))
    light = np.zeros((360, 360))
    for k in range(70):
        radius = np.exp(rng.uniform(np.log(1.0), np.log(3.5)))
        profile = Sersic2D(1, radius, rng.uniform(1, 2), x[k], y[k], rng.uniform(0, 0.5), rng.uniform(0, 3))(
            cols, rows
        )
        light += 10 ** rng.uniform(3.8, 5) * profile / profile.sum()
    kernel = made.psf.native(41).astype(float)
    light = np.maximum(fftconvolve(light, kernel / kernel.sum(), mode="same"), 0)
    noise = np.sqrt(light / scene.gain) * rng.normal(size=light.shape)
    exposure = Exposure.of(made.exposure.data + light + noise, made.exposure.ivar, gain=scene.gain)
    truth = np.column_stack([made.truth[name] for name in ("x", "y")])
    truth = truth[np.all((truth > 0) & (truth < 359), axis=1)]
    places = np.concatenate([truth, np.column_stack([x, y])])
    result = fit_image(
        exposure, config="forced", positions=(places[:, 0], places[:, 1]),
        aperture__kind="cleaned", aperture__star_share=0.85,
    )  # fmt: skip
    p = np.asarray(result.catalog["p_star"])
    is_star = np.arange(len(p)) < len(truth)
    clear = np.asarray(result.catalog["snr"]) > 20
    distance = np.hypot(places[:, :1] - x, places[:, 1:] - y)
    lonely = np.min(np.where(distance > 0, distance, np.inf), axis=1) > 15
    assert np.mean(p[is_star & clear & lonely] > 0.5) > 0.95
    assert np.mean(p[~is_star & clear & lonely] < 0.5) > 0.8
