"""The threshold round bright stars follows the scatter of the significance there."""

import numpy as np
import pytest

from crowdfit.psf.analytic import moffat
from crowdfit.sources import Sources
from crowdfit.stages.detect import ScoreDetect, significance
from crowdfit.stages.rings import ring_excess, ring_medians

SHAPE = (160, 160)


@pytest.fixture(scope="module")
def psf():
    return moffat(3.0, 2.5, radius=60)


def bright():
    return Sources.at([80.0], [80.0], [3e5])


def test_field_without_bright_stars(psf, make_frame):
    frame = make_frame(psf, Sources.at([80.0], [80.0], [100.0]), SHAPE, seed=1, level=0.1)
    assert np.all(ring_excess(frame, Sources.at([80.0], [80.0], [100.0]), significance(frame)) == 1)
    assert np.all(ring_excess(frame, Sources.empty(), significance(frame)) == 1)


def test_right_wings_change_next_to_nothing(psf, make_frame):
    frame = make_frame(psf, bright(), SHAPE, seed=1, level=0.1).rendered(bright())
    excess = ring_excess(frame, bright(), significance(frame))
    assert np.mean(excess > 1.05) < 0.05
    assert excess.max() < 1.3


def test_wrong_wings_raise_the_threshold_and_stars_elsewhere_are_found(psf, make_frame):
    """The model lacks part of the wing: without the rule a swarm, with it hardly any, and the real star stays."""
    star = Sources.at([20.0], [130.0], [150.0])
    frame = make_frame(psf, bright().append(star), SHAPE, seed=1, level=0.1)
    narrow = frame.with_(psf=moffat(3.0, 2.9, radius=60)).rendered(bright())
    excess = ring_excess(narrow, bright(), significance(narrow))
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    radius = np.hypot(xx - 80, yy - 80)
    assert np.median(excess[(radius > 9) & (radius < 20)]) > 2
    assert np.all(excess[radius > 75] == 1)
    found = ScoreDetect(nsigma=4.0, purity=0.0)((narrow,), bright(), pass_no=2)
    swarm = np.hypot(found.x - 80, found.y - 80) < 30
    unaware = ScoreDetect(nsigma=4.0, purity=0.0)((narrow,), Sources.empty(), pass_no=2)
    assert np.sum(np.hypot(unaware.x - 80, unaware.y - 80) < 30) > 3 * max(swarm.sum(), 1)
    assert np.hypot(found.x - 20, found.y - 130).min() < 1


def test_medians_by_ring():
    values = np.arange(40, dtype=np.float32).reshape(4, 10)
    ring = np.repeat([0, 1, 2, 5], 10).reshape(4, 10)
    usable = np.ones((4, 10), bool)
    usable[1, 0] = False
    np.testing.assert_array_equal(ring_medians(values, usable, ring, 4), [5, 0, 25, 0])
    np.testing.assert_array_equal(ring_medians(values, np.zeros_like(usable), ring, 2), [0, 0])
