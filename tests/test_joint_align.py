"""Exposures brought onto each other by the wishes of their stars."""

import numpy as np
import pytest

from crowdfit.frame import Frame, StampSizes
from crowdfit.joint.align import aligned, moved_together, rescaled
from crowdfit.joint.system import Wishes
from crowdfit.mapping import Box, Mapping, polynomial
from crowdfit.psf.analytic import gaussian
from crowdfit.sources import Sources
from crowdfit.view import JointSources, View

SHAPE = (200, 200)


@pytest.fixture
def frames(make_frame):
    psf = gaussian(2.5, radius=8)
    frame = make_frame(psf, Sources.empty(), SHAPE, seed=1)
    turned = Mapping(
        Box(10, -20, 209, 179), np.array([[12.0, -7.0], [0.9, 0.2], [-0.2, 0.9]]), None, np.zeros((6, 2))
    )
    views = View(0, 0, SHAPE, Mapping.identity(SHAPE)), View(1, 0, SHAPE, turned, 2.0)
    return tuple(frame.with_(view=view) for view in views)


@pytest.fixture
def stars():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(20, 180, (2, 300))
    return JointSources.of(
        Sources.at(x, y, np.full(300, 1e4)), np.full((300, 1), 1e4), np.full((300, 1), 10.0)
    )


def wishes(frame, stars, terms, *, gain=0.0, noise=0.01, n=None, seed=3):
    """Return wishes of a frame for a correction, with noise of each star."""
    rng = np.random.default_rng(seed)
    n = len(stars) if n is None else n
    step = polynomial(*frame.view.mapping.unit(stars.x[:n], stars.y[:n])) @ terms + rng.normal(
        0, noise, (n, 2)
    )
    return Wishes(
        np.arange(n),
        np.full(n, 500.0),
        np.full(n, 0.5),
        np.full(n, gain),
        step[:, 0],
        step[:, 1],
        np.full(n, noise),
    )


def test_places_on_all_exposures_change_by_what_each_asks_for(frames, stars):
    rng = np.random.default_rng(5)
    terms = [rng.normal(0, 0.01, (6, 2)) for _ in frames]
    before = [np.column_stack(f.view.mapping(stars.x, stars.y)) for f in frames]
    steps = [
        polynomial(*f.view.mapping.unit(stars.x, stars.y)) @ t for f, t in zip(frames, terms, strict=True)
    ]
    moved, new = moved_together(frames, stars, terms)
    for frame, old, step in zip(moved, before, steps, strict=True):
        there = np.column_stack(frame.view.mapping(new.x, new.y))
        # a correction of a place that has itself moved differs in second order
        np.testing.assert_allclose(there - old, step, atol=1e-3)
    assert not moved[0].view.mapping.terms.any()


@pytest.mark.parametrize(("degree", "number"), [("shift", 1), ("affine", 3), ("quadratic", 6)])
def test_what_stars_agree_on_is_taken_as_far_as_allowed(frames, stars, degree, number):
    truth = np.random.default_rng(6).normal(0, 0.05, (6, 2))
    asked = [wishes(frames[0], stars, np.zeros((6, 2))), wishes(frames[1], stars, truth)]
    found = aligned(frames, stars, tuple(asked), degree=degree, scales=False, nominal=(1.0, 2.0))
    terms = found.frames[1].view.mapping.terms
    assert found.ties[1].terms == number
    assert np.count_nonzero(np.any(np.abs(terms) > 1e-9, axis=1)) == number
    if degree == "quadratic":
        np.testing.assert_allclose(terms, truth, atol=0.008)
        assert found.ties[1].rms == pytest.approx(0.01, rel=0.2)


def test_none_holds_every_exposure(frames, stars):
    asked = tuple(wishes(frame, stars, np.full((6, 2), 0.1)) for frame in frames)
    found = aligned(frames, stars, asked, degree="none", scales=False, nominal=(1.0, 2.0))
    assert not found.frames[1].view.mapping.terms.any()
    np.testing.assert_array_equal(found.sources.x, stars.x)


@pytest.mark.parametrize(("n", "number"), [(2, 0), (8, 1), (35, 3), (70, 6)])
def test_few_stars_ask_for_little(frames, stars, n, number):
    asked = tuple(wishes(frame, stars, np.full((6, 2), 0.05), n=n) for frame in frames)
    found = aligned(frames, stars, asked, degree="quadratic", scales=False, nominal=(1.0, 2.0))
    assert found.ties[1].terms == number


def test_a_star_that_is_elsewhere_has_no_say(frames, stars):
    asked = wishes(frames[1], stars, np.zeros((6, 2)))
    asked.step_x[:20] += 1.5
    found = aligned(
        frames, stars, (wishes(frames[0], stars, np.zeros((6, 2))), asked), degree="shift", scales=False,
        nominal=(1.0, 2.0),
    )  # fmt: skip
    assert abs(found.frames[1].view.mapping.terms[0, 0]) < 0.003


def test_scales_follow_the_stars_and_keep_their_mean(frames, stars):
    none = np.zeros((6, 2))
    asked = wishes(frames[0], stars, none, gain=-0.02), wishes(frames[1], stars, none, gain=0.02)
    found = aligned(frames, stars, asked, degree="shift", scales=True, nominal=(1.0, 2.0))
    first, second = (frame.view.band_scale for frame in found.frames)
    assert second / first == pytest.approx(2 * 1.02 / 0.98, rel=1e-6)
    assert first * second == pytest.approx(2.0)
    assert found.ties[1].scale == second


def test_scales_of_other_bands_are_their_own(frames):
    other = frames[1].with_(view=frames[1].view.with_(band=1))
    assert [f.view.band_scale for f in rescaled((frames[0], other), [1.1, 0.7], (1.0, 2.0))] == pytest.approx(
        [1, 2]
    )


def test_a_frame_without_a_view_is_that_of_a_single_image(frames, stars):
    alone = frames[0].with_(view=None)
    assert alone.local(stars).sources is stars
    assert isinstance(alone, Frame)
    assert alone.stamps == StampSizes(level=1e-9)


def test_stars_that_only_one_exposure_shows_tell_nothing(frames, stars):
    truth = np.zeros((6, 2))
    truth[0] = 0.1, 0.0
    asked = wishes(frames[1], stars, truth)
    alone = np.arange(len(stars)) < 250
    asked.step_x[alone] = 0.0
    asked.others[alone] = 0.0
    none = wishes(frames[0], stars, np.zeros((6, 2)))
    found = aligned(frames, stars, (none, asked), degree="shift", scales=False, nominal=(1.0, 2.0))
    assert 40 <= found.ties[1].n <= 50
    assert found.frames[1].view.mapping.terms[0, 0] == pytest.approx(0.1, abs=0.01)
