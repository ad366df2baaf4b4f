"""Stages of a single image made for many, and what exposures say together."""

from dataclasses import replace

import numpy as np
import pytest

from crowdfit.config import load_config
from crowdfit.joint.measure import _combined, _mean
from crowdfit.joint.options import Joint
from crowdfit.joint.stages import JointSky, JointStages, doubtful, reference_fwhm, sharpest, with_depth
from crowdfit.mapping import Box, Mapping
from crowdfit.psf.analytic import gaussian
from crowdfit.sources import Sources
from crowdfit.stages.sky import FixedSky, MeshSky
from crowdfit.stages.solve import Fit
from crowdfit.view import JointSources, View

SHAPE = (64, 64)


def listed(flux, err, *, band=0):
    """Return stars on a row with flux and error in one of two bands, and 0 with an error of 10 in the other."""
    flux, err = np.array(flux, float), np.array(err, float)
    x = np.linspace(10, 50, len(flux))
    stars = Sources.at(x, x, flux).changed(flux_err=err)
    fluxes, errs = np.zeros((len(flux), 2)), np.full((len(flux), 2), 10.0)
    fluxes[:, band], errs[:, band] = flux, err
    return JointSources.of(stars, fluxes, errs)


@pytest.fixture
def frames(make_frame):
    """Return two exposures of two bands; pixels of the second are half as large on the reference."""
    first = make_frame(gaussian(2.5, radius=8), Sources.empty(), SHAPE, seed=1)
    second = make_frame(gaussian(4.0, radius=12), Sources.empty(), SHAPE, seed=2, noise=2.0)
    finer = Mapping(
        Box(0, 0, 31.5, 31.5), np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]), None, np.zeros((6, 2))
    )
    views = View(0, 0, SHAPE, Mapping.identity(SHAPE)), View(1, 1, SHAPE, finer)
    return tuple(frame.with_(view=view) for frame, view in zip((first, second), views, strict=True))


def test_a_star_that_another_band_shows_does_not_belong_to_the_sky(frames):
    stars = listed([100.0, 1.0], [1.0, 1.0])
    left = doubtful(MeshSky(), frames[1], stars)
    assert len(left) == len(frames[1].local(stars).sources) - 1
    assert len(doubtful(FixedSky(), frames[0], stars)) == 2


def test_each_exposure_has_the_sky_of_its_stage(frames):
    sky = JointSky((FixedSky(level=3.0), FixedSky(level=-1.0)))
    levels = [frame.sky.mean() for frame in sky(frames, listed([1.0], [1.0]), pass_no=0)]
    assert levels == [3.0, -1.0]
    assert sky.error(frames[1], listed([1.0], [1.0])) == np.zeros((1, 1))


def test_exposures_of_a_band_see_deeper_together(frames):
    same = frames[0], frames[0].with_(view=replace(frames[0].view, number=1, band_scale=3.0))
    one, deeper = with_depth(same)
    # the second has three times the flux on the same noise
    assert one.view.depth == pytest.approx(1 / np.sqrt(10))
    assert deeper.view.depth == pytest.approx(3 / np.sqrt(10))
    assert [frame.view.depth for frame in with_depth(frames)] == [1.0, 1.0]


def test_widths_are_told_in_reference_pixels(frames):
    assert reference_fwhm(frames[1]) == pytest.approx(frames[1].psf.fwhm / 2)
    assert sharpest(frames) == pytest.approx(min(frames[0].psf.fwhm, frames[1].psf.fwhm / 2))


def test_long_steps_are_shortened_along_their_direction(frames):
    config = load_config(None, ["centroid.max_step=0.5"])
    stages = JointStages((config, config), Joint(), Box(0, 0, 63, 63), (1.0, 1.0))
    stars = listed([100.0, 100.0], [1.0, 1.0])
    fit = Fit(stars, np.array([3.0, 0.1]), np.array([4.0, 0.0]), np.zeros(2), 1, True)
    moved = stages.centroid(frames, fit, pass_no=0)
    limit = 0.5 * sharpest(frames)
    np.testing.assert_allclose(moved.x - stars.x, [0.6 * limit, 0.1], rtol=1e-9)
    np.testing.assert_allclose(moved.y - stars.y, [0.8 * limit, 0.0], atol=1e-12)


def test_errors_of_exposures_add_up_by_their_kind():
    parts = {
        "flux_err_marginal": np.array([[2.0, 1.0], [2.0, np.nan]]),
        "flux_err_sky": np.array([[1.0, 0.5], [1.0, np.nan]]),
        "flux_err_psf": np.array([[1.0, 0.5], [1.0, np.nan]]),
        "flux_err_confusion": np.array([[1.0, 0.5], [1.0, np.nan]]),
    }
    both = _combined(parts)
    np.testing.assert_allclose(both["flux_err_marginal"], [np.sqrt(2), 1.0])
    np.testing.assert_allclose(both["flux_err_sky"], [np.sqrt(0.5), 0.5])
    np.testing.assert_allclose(both["flux_err_confusion"], [1.0, 0.5])
    nothing = _combined({name: np.full((2, 1), np.nan) for name in parts})
    assert np.isnan(nothing["flux_err_marginal"][0])


def test_means_leave_out_what_is_not_known():
    values = np.array([[1.0, np.nan], [4.0, np.nan]])
    np.testing.assert_allclose(_mean(values, np.array([[2.0, 1.0], [1.0, 1.0]])), [2.0, np.nan])
