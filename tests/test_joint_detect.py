"""The search on several exposures together."""

from dataclasses import replace

import numpy as np
import pytest

from crowdfit.config import load_config
from crowdfit.frame import Frame, StampSizes
from crowdfit.joint.begin import views_of, whole_box
from crowdfit.joint.detect import Grid, Thresholds, find, seen_alone, tried
from crowdfit.joint.options import Joint
from crowdfit.joint.prune import in_blob, least_joint_snr, prune
from crowdfit.joint.stages import JointStages, with_depth
from crowdfit.mapping import Box
from crowdfit.pointings import Pointing, point
from crowdfit.render import render
from crowdfit.scene import Scene
from crowdfit.sources import Sources
from crowdfit.stages.detect import ScoreDetect
from crowdfit.stages.prune import Prune
from crowdfit.view import JointSources

SCENE = Scene(
    ny=64, nx=64, n_stars=1, flux_min=1.0, flux_max=2.0, fwhm=2.4, sky=100.0, read_noise=0.0, margin=0.0
)
EMPTY = JointSources.of(Sources.empty(), np.zeros((0, 1)), np.zeros((0, 1)))
SPOT = (30.3, 33.8)


def starred(flux, pointings, *, at=SPOT, extra=()):
    """Return frames of blank exposures with a star of that flux at reference place `at`, and others (x, y, flux)."""
    pointed = point(SCENE, pointings)
    views = views_of(tuple(one.exposure for one in pointed), Joint())
    frames = []
    for one, view in zip(pointed, views, strict=True):
        frame = Frame.start(one.exposure, one.made.psf, StampSizes())
        image = one.made.data - one.made.sky
        for x, y, own in ((*at, flux), *extra):
            there = view.mapping(np.array([x]), np.array([y]))
            image = image + render(one.made.psf, there.x, there.y, [own], (64, 64))
        frames.append(frame.with_(exposure=replace(one.exposure, data=image.astype(np.float32)), view=view))
    return with_depth(tuple(frames))


DITHERS = [
    Pointing(),
    Pointing(dx=0.5, dy=0.3),
    Pointing(dx=2.2, dy=-1.6, rotation=10.0),
    Pointing(dx=-1.4, dy=3.5),
]


def found_in(frames, nsigma=5.0, sources=EMPTY):
    grid = Grid.over(whole_box(frames), 2.5)
    return find(ScoreDetect(), frames, sources, grid, Thresholds(nsigma, 100.0, 2.5), 2)


@pytest.fixture(scope="module")
def faint():
    """Return a flux of 3.7 sigma in one exposure, 7.4 in four."""
    return 3.7 * float(starred(0.0, DITHERS[:1])[0].isolated_error(np.zeros(1))[0])


def near_spot(found, radius=0.8):
    return np.hypot(found.x - SPOT[0], found.y - SPOT[1]) < radius


def test_a_star_too_faint_for_any_exposure_is_found_on_all(faint):
    frames = starred(faint, DITHERS)
    together = found_in(frames)
    assert near_spot(together).sum() == 1
    assert together.fluxes[near_spot(together), 0] == pytest.approx(faint, rel=0.4)
    for k, frame in enumerate(frames):
        alone = with_depth((frame.with_(view=frame.view.with_(number=0)),))
        assert not near_spot(found_in(alone)).any(), f"exposure {k + 1} shows it alone"


def test_blank_exposures_hold_no_stars():
    assert len(found_in(starred(0.0, DITHERS))) == 0


def test_gains_of_exposures_add_up(faint):
    frames = starred(10 * faint, DITHERS[:2])
    x, y = (np.array([v]) for v in SPOT)
    detect = ScoreDetect()
    known = [seen_alone(detect, frame, EMPTY, 2)[0] for frame in frames]
    both = tried(detect, known, x, y, 1)
    each = [tried(detect, [one], x, y, 1) for one in known]
    assert both.info[0, 0] == pytest.approx(sum(one.info[0, 0] for one in each))
    assert both.flux[0, 0] == pytest.approx(
        sum(one.info[0, 0] * one.flux[0, 0] for one in each) / both.info[0, 0]
    )
    off = tried(detect, known, np.array([500.0]), np.array([500.0]), 1)
    assert off.info[0, 0] == 0
    assert not off.allowed[0]


def test_a_band_of_its_own_shows_a_star_of_its_own(faint):
    pointings = [Pointing(), Pointing(dx=1.3, dy=0.4, band="F2")]
    pointed = starred(0.0, pointings)
    bright = starred(3 * faint, pointings)
    none = JointSources.of(Sources.empty(), np.zeros((0, 2)), np.zeros((0, 2)))
    found = found_in((pointed[0], bright[1]), sources=none)
    assert near_spot(found).sum() == 1
    assert found.fluxes[near_spot(found), 0][0] < found.fluxes[near_spot(found), 1][0]


def test_a_known_star_is_not_found_again(faint):
    frames = starred(60 * faint, DITHERS)
    flux = np.array([[60 * faint]])
    known = JointSources.of(Sources.at(*SPOT, flux[:, 0]), flux, flux / 100)
    frames = tuple(frame.rendered(known) for frame in frames)
    assert not near_spot(found_in(frames, sources=known), 2.5).any()


def test_two_stars_under_one_are_told_apart(faint):
    second = (SPOT[0] + 1.6, SPOT[1], 60 * faint)
    frames = starred(60 * faint, DITHERS, extra=(second,))
    flux = np.array([[120 * faint]])
    known = JointSources.of(Sources.at(SPOT[0] + 0.8, SPOT[1], flux[:, 0]), flux, flux / 200)
    frames = tuple(frame.rendered(known) for frame in frames)
    grid = Grid.over(whole_box(frames), 2.5)
    found = find(ScoreDetect(model_error=0.002), frames, known, grid, Thresholds(5.0, 3.5, 2.5), 2)
    assert (np.abs(found.y - SPOT[1]) < 1.2).any()
    assert (np.hypot(found.x - SPOT[0] - 0.8, found.y - SPOT[1]) < 3).any()


def test_grid_is_finer_than_the_pixels_of_undersampled_stars():
    box = Box(-3.2, 0.0, 20.0, 10.0)
    coarse, fine = Grid.over(box, 4.0), Grid.over(box, 1.9)
    assert (coarse.step, fine.step) == (1.0, 0.5)
    for grid in (coarse, fine):
        x, y = grid.reference(np.array([0, grid.shape[1] - 1]), np.array([0, grid.shape[0] - 1]))
        assert x[0] <= box.x0
        assert y[0] <= box.y0
        assert x[1] >= box.x1
        assert y[1] >= box.y1


def test_counts_of_all_exposures_set_the_threshold(faint):
    frames = starred(faint, DITHERS)
    limit = least_joint_snr(frames, EMPTY, 2.0, 0.4)
    assert limit > 4
    assert least_joint_snr(frames, EMPTY, 9.0, 0.4) == 9.0
    assert least_joint_snr(frames, EMPTY, 2.0, 0.0) == 2.0


def many(x, y, flux, err):
    flux, err = np.array(flux, float)[:, None], np.array(err, float)[:, None]
    stars = Sources.at(x, y, flux[:, 0]).changed(flux_err=err[:, 0])
    return JointSources.of(stars, flux, err)


def test_pruning_goes_by_all_exposures(faint):
    frames = starred(faint, DITHERS)
    stars = many([10, 20, 30, 30.3, 40], [10, 20, 30, 30, 40], [9, 1, 50, 30, 100], [1, 1, 1, 1, np.inf])
    left = prune(Prune(nsigma=3.0, purity=0.0), frames, stars, 2.5)
    np.testing.assert_array_equal(np.sort(left.sources.flux), [9, 80])
    np.testing.assert_array_equal(left.sources.fluxes[:, 0], left.sources.flux)
    assert left.removed == {"faint": 1, "negative": 0, "unseen": 1, "merged": 1, "same_blob": 0}


def test_a_star_is_saturated_where_every_exposure_says_so(faint):
    frames = list(starred(faint, DITHERS[:2]))
    saturated = np.zeros((64, 64), bool)
    saturated[28:34, 28:34] = True
    stars = many([29, 32, 50], [30, 31, 50], [9, 8, 7], [1, 1, 1])
    frames[0] = frames[0].with_(exposure=replace(frames[0].exposure, saturated=saturated))
    assert not in_blob(tuple(frames), stars).any()
    frames[1] = frames[1].with_(exposure=replace(frames[1].exposure, saturated=saturated))
    number = in_blob(tuple(frames), stars)
    assert number[0] == number[1] > 0
    assert number[2] == 0
    left = prune(Prune(nsigma=0.0, purity=0.0, merge=0.0), tuple(frames), stars, 2.5)
    assert left.removed["same_blob"] == 1
    assert 8 not in left.sources.flux


def test_other_ways_to_search_find_nothing(faint):
    frames = starred(50 * faint, DITHERS[:2])
    config = load_config("forced")
    stages = JointStages((config, config), Joint(), whole_box(frames), (1.0, 1.0))
    assert len(stages.detect(frames, EMPTY, pass_no=0)) == 0
