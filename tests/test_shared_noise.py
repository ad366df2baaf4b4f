"""Noise that pixels share, in the search: thresholds rise with it, and not where there is none."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import convolve1d

from benchmarks.score import as_stars, match, truth_of
from crowdfit import flags
from crowdfit.api import fit_image
from crowdfit.counts import Counts
from crowdfit.exposure import Exposure
from crowdfit.frame import Factors, Frame, StampSizes
from crowdfit.photometry.psf_stats import Measure
from crowdfit.render import render
from crowdfit.simulate import named_scene, simulate
from crowdfit.sources import Sources
from crowdfit.stages.detect import CrowdsourceDetect, ScoreDetect, SepDetect
from crowdfit.stages.prune import Prune
from crowdfit.stages.shared_noise import MeasuredSharedNoise, NoSharedNoise

KERNEL = (0.2, 0.6, 0.2)
SHAPE = (160, 160)


def spread(noise):
    """Return noise that pixels share along both axes, with the scatter of the independent noise given."""
    for axis in (0, 1):
        noise = convolve1d(noise, KERNEL, axis=axis, mode="wrap")
    return noise / np.sum(np.square(KERNEL))


def frame_of(psf, data):
    """Return a frame of the image with next to no noise more, for pixels of noise 1."""
    data = data + 1e-6 * np.random.default_rng(9).normal(size=SHAPE)
    return Frame.start(Exposure.of(data, np.ones(SHAPE)), psf, StampSizes())


STAR = Sources.at([80.0], [80.0], [300.0])


def test_measured(small_psf):
    """The factors are those of the residual; without a star in the list nothing is measured."""
    noise = np.random.default_rng(1).normal(size=SHAPE)
    data = spread(noise) + render(small_psf, STAR.x, STAR.y, STAR.flux, SHAPE)
    frame = frame_of(small_psf, data)
    measure = MeasuredSharedNoise()
    assert measure((frame,), Sources.empty())[0].noise_factors == (1, 1)
    (found,) = measure((frame.rendered(STAR),), STAR)
    assert found.noise_factors.flux > 1.7
    assert found.noise_factors.shift > 1.5
    (white,) = measure((frame_of(small_psf, noise),), STAR)
    assert white.noise_factors == (1, 1)
    assert NoSharedNoise()((found,), STAR)[0].noise_factors == (1, 1)


def test_errors_of_a_frame_hold_it(small_psf):
    frame = frame_of(small_psf, np.zeros(SHAPE))
    shared, flux = frame.with_(noise_factors=Factors(2.0, 1.5)), np.array([0.0, 1e4])
    np.testing.assert_allclose(shared.isolated_error(flux), 2 * frame.isolated_error(flux))
    fitted = STAR.changed(flux_err=np.array([3.0]))
    np.testing.assert_allclose(shared.plain_error(fitted), 2 * frame.plain_error(fitted))
    assert Counts.of(shared, STAR).sigma == pytest.approx(2 * Counts.of(frame, STAR).sigma)


@pytest.mark.parametrize(
    "stage", [ScoreDetect(purity=0), CrowdsourceDetect(), SepDetect()], ids=lambda s: s.kind
)
def test_thresholds_are_in_true_sigma(small_psf, stage):
    """A star of 1.3 times the last threshold is found among independent pixels, and not where they share noise by 2."""
    nsigma = 1.3 * stage.nsigma[-1]
    frame = frame_of(small_psf, np.zeros(SHAPE))
    flux = nsigma * frame.isolated_error(np.zeros(1)) * (1.6 if stage.kind == "sep" else 1.0)
    star = STAR.changed(flux=flux)
    frame = frame_of(small_psf, render(small_psf, star.x, star.y, star.flux, SHAPE))
    late = 9
    (found,) = (stage((frame,), Sources.empty(), pass_no=late),)
    assert len(found) == 1
    assert found.flux[0] == pytest.approx(flux[0], rel=0.15)
    shared = frame.with_(noise_factors=Factors(2.0, 1.5))
    assert not len(stage((shared,), Sources.empty(), pass_no=late))
    brighter = frame_of(small_psf, 2 * frame.exposure.data).with_(noise_factors=Factors(2.0, 1.5))
    (found,) = (stage((brighter,), Sources.empty(), pass_no=late),)
    assert len(found) == 1
    assert found.flux[0] == pytest.approx(2 * flux[0], rel=0.15)


def test_companions_are_told_in_true_sigma(small_psf):
    """A second star under a known one is found, until noise that pixels share makes it a chance."""
    pair = Sources.at([79.3, 80.7], [80.0, 80.0], [900.0, 300.0])
    frame = frame_of(small_psf, render(small_psf, pair.x, pair.y, pair.flux, SHAPE))
    one = Sources.at([79.65], [80.0], [1190.0]).changed(flux_err=np.full(1, 6.0))
    frame, stage = frame.rendered(one), ScoreDetect(purity=0, nsigma=(1e4,), model_error=0.0)
    assert len(stage((frame,), one, pass_no=9)) == 1
    assert not len(stage((frame.with_(noise_factors=Factors(30.0, 30.0)),), one, pass_no=9))


def test_pruning_is_in_true_sigma(small_psf):
    frame = frame_of(small_psf, np.zeros(SHAPE))
    flux = 4 * frame.isolated_error(np.zeros(1))
    fitted = STAR.changed(flux=flux, flux_err=flux / 4, flux_err_marginal=flux / 4)
    prune = Prune(purity=0)
    assert len(prune((frame,), fitted).sources) == 1
    assert not len(prune((frame.with_(noise_factors=Factors(2.0, 1.5)),), fitted).sources)


def test_undecided_is_in_true_sigma(small_psf):
    """A fainter star of five marginal errors decides a pair, and of two and a half it does not."""
    pair = Sources.at([79.0, 81.5], [80.0, 80.0], [2000.0, 150.0])
    data = render(small_psf, pair.x, pair.y, pair.flux, SHAPE) + np.random.default_rng(1).normal(size=SHAPE)
    frame, bit = frame_of(small_psf, data).rendered(pair), "undecided"
    decided = Measure()((frame,), pair)
    assert not decided.columns["flags"].any() or not has(decided, bit)
    marginal = float(decided.columns["flux_err_marginal"][1])
    factor = 150 / marginal / 2
    assert factor > 1
    assert has(Measure()((frame.with_(noise_factors=Factors(factor, factor)),), pair), bit)


def has(measured, name):
    return bool(flags.has(measured.sources.flags, name).all())


def test_fit_of_a_drizzled_field():
    """P061: noise that pixels share makes no more false sources than the same noise in independent pixels."""
    made = simulate(named_scene("demo", ny=256, nx=256, n_stars=700, dead_columns=0, bad_pixels=0, seed=5))
    mean = made.sky + made.model
    noise = (made.data - mean) / made.err
    drizzled = replace(made, data=(mean + made.err * spread(noise)).astype(np.float32))
    truth = truth_of(made)

    def false(made, **settings):
        result = fit_image(made.data, made.err, **settings)
        found = as_stars(result.catalog)
        partner = match(truth, found)
        return len(found) - int((partner >= 0).sum()), result

    independent, first = false(made)
    shared, second = false(drizzled)
    assert first.frame.noise_factors == (1, 1)
    assert second.frame.noise_factors.flux > 1.7
    assert shared <= independent
    ignored, _ = false(drizzled, shared_noise__kind="none")
    assert ignored > 2 * shared
