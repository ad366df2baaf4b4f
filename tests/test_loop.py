"""The loop: what every pass leaves behind, that it is a generator, and the last pass at fixed positions."""

from dataclasses import fields, replace
from itertools import islice
from types import GeneratorType

import numpy as np
import pytest

from crowdfit import flags
from crowdfit.config import load_config
from crowdfit.frame import Frame, StampSizes
from crowdfit.loop import Stopwatch, finish, iterate, render
from crowdfit.psf.analytic import moffat
from crowdfit.simulate import Scene, simulate
from crowdfit.sources import Sources

STAGES = {
    "sky",
    "stripes",
    "shared_noise",
    "detect",
    "confusion",
    "solve",
    "centroid",
    "psf_update",
    "prune",
    "render",
}


def config(*settings):
    return load_config(None, settings)


@pytest.fixture(scope="module")
def field():
    """250 stars on 110 x 100 pixels; a bad column, a few saturated cores."""
    return simulate(
        Scene(
            ny=110, nx=100, n_stars=250, fwhm=2.8, flux_min=300, flux_max=3e5, sky=100, sky_gradient=0.1,
            saturation=9000, dead_columns=1, seed=3,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def start(field):
    """The frame before the first pass, with a PSF that is 8 % too wide."""
    return Frame.start(field.exposure, moffat(1.08 * field.psf.fwhm, 3.0, radius=30), StampSizes())


@pytest.fixture(scope="module")
def states(start):
    """All passes of a fit."""
    return list(iterate((start,), config("stop.max_passes=6", "stop.min_passes=6"), Sources.empty()))


def test_it_is_a_generator(start):
    """Nothing is done before it is asked for, and whoever asks may stop early."""
    steps = iterate((start,), config(), Sources.empty())
    assert isinstance(steps, GeneratorType)
    first, second = islice(steps, 2)
    assert (first.pass_no, second.pass_no) == (0, 1)
    assert first.frames[0].sky is not start.sky
    assert not start.model.any()


def test_state_equals_its_parts(states):
    """Design, section 2: after each pass the model is the rendering of the sources with the PSF, bit for bit."""
    for state in states:
        (frame,) = state.frames
        np.testing.assert_array_equal(frame.model, frame.rendered(state.sources).model)
        good = frame.exposure.good
        np.testing.assert_allclose(
            frame.resid[good], (frame.exposure.data - frame.sky - frame.model)[good], atol=1e-4
        )
        assert not frame.resid[~good].any()


def test_numbers_of_a_pass_are_those_of_its_state(states, start):
    """Counts add up from pass to pass, with what was removed for which reason."""
    before, fwhm = 0, start.psf.fwhm
    for k, state in enumerate(states):
        stats = state.stats
        assert stats.pass_no == state.pass_no == k
        assert stats.n_sources == len(state.sources)
        assert stats.n_sources == before + stats.n_new - sum(stats.n_removed.values())
        assert stats.chi == state.frames[0].chi
        assert stats.fwhm == state.frames[0].psf.fwhm
        assert stats.psf_stars == np.sum(flags.has(state.sources.flags, "psf_star"))
        assert stats.psf_quality is state.frames[0].psf_quality
        assert stats.fwhm_change == abs(stats.fwhm / fwhm - 1)
        before, fwhm = stats.n_sources, stats.fwhm


def test_ids_stay_with_their_stars(states):
    """An id is given once; the stars of a later pass are those of the earlier one and new ones, in that order."""
    for earlier, later in zip(states, states[1:], strict=False):
        assert len(set(later.sources.id)) == len(later.sources)
        kept = later.sources.id[later.sources.pass_no <= earlier.pass_no]
        assert set(kept) <= set(earlier.sources.id)
        assert (np.diff(later.sources.id) > 0).all()
        assert (later.sources.pass_no[later.sources.pass_no > earlier.pass_no] == later.pass_no).all()


def test_time_and_memory_by_stage(states):
    """P016: every stage by its configured name, and together no more than the pass took."""
    for state in states:
        stats = state.stats
        assert set(stats.stage_seconds) == set(stats.stage_memory_mb) == STAGES
        assert all(seconds >= 0 for seconds in stats.stage_seconds.values())
        assert sum(stats.stage_seconds.values()) <= stats.seconds
        assert 10 < max(stats.stage_memory_mb.values()) <= 1.05 * stats.memory_mb


def test_it_gets_better(states):
    """C004: missed stars are found later; chi goes to 1 and the PSF to the true width."""
    chi = [state.stats.chi for state in states]
    assert chi[-1] < chi[0]
    # the scatter of a robust rms over 10,600 pixels is 0.8 %; stars never found add to it, sky error too
    assert chi[-1] == pytest.approx(1, abs=0.06)
    assert states[-1].stats.n_sources > states[0].stats.n_sources


def test_width_of_the_psf(states, field):
    """To 4 % on this small field, from 8 % too wide."""
    assert states[-1].stats.fwhm == pytest.approx(field.psf.fwhm, rel=0.04)


def test_stop_rule_ends_it(start):
    assert len(list(iterate((start,), config("stop.max_passes=3"), Sources.empty()))) == 3
    only = config("stop.max_sources=1")
    assert len(list(iterate((start,), only, Sources.empty()))) == 1


def test_it_goes_on_after_any_pass(states):
    """P100: a pass depends on nothing but the state before it and its number."""
    before, after = states[2], states[3]
    (again,) = islice(
        iterate(
            before.frames, config("stop.max_passes=6", "stop.min_passes=6"), before.sources, first_pass=3
        ),
        1,
    )
    assert again.pass_no == again.stats.pass_no == 3
    for entry in fields(Sources):
        np.testing.assert_array_equal(getattr(again.sources, entry.name), getattr(after.sources, entry.name))
    np.testing.assert_array_equal(again.frames[0].model, after.frames[0].model)
    np.testing.assert_array_equal(again.frames[0].psf.cube, after.frames[0].psf.cube)
    assert again.stats.fwhm_change == after.stats.fwhm_change


def test_known_stars_come_first(start, field):
    """A list given beforehand keeps its order and its ids; new stars are appended."""
    known = Sources.at(field.truth["x"][:20], field.truth["y"][:20], field.truth["flux"][:20])
    known = known.flagged("forced", np.ones(20, bool))
    (state,) = islice(iterate((start,), config("centroid.kind=none"), known), 1)
    np.testing.assert_array_equal(state.sources.id[:20], np.arange(20))
    np.testing.assert_array_equal(state.sources.pass_no[:20], -1)
    assert (state.sources.pass_no[20:] == 0).all()
    assert len(state.sources) > 20


def test_stages_can_be_anything_callable(start):
    """Design, section 2: swapping a stage is passing another object."""
    calls = []

    def nothing(frames, sources, *, pass_no):
        calls.append(pass_no)
        return Sources.empty()

    swapped = replace(config("stop.max_passes=3", "stop.min_passes=3"), detect=nothing)
    states = list(iterate((start,), swapped, Sources.empty()))
    assert calls == [0, 1, 2]
    assert [len(state.sources) for state in states] == [0, 0, 0]
    assert all(np.isfinite(state.stats.chi) for state in states)


class TestFinish:
    """C018: the last pass fits fluxes at fixed positions."""

    def test_positions_stay_and_fluxes_settle(self, states):
        last = states[-1]
        frames, sources = finish(last.frames, config(), last.sources)
        np.testing.assert_array_equal(sources.x, last.sources.x)
        np.testing.assert_array_equal(sources.y, last.sources.y)
        np.testing.assert_array_equal(sources.id, last.sources.id)
        np.testing.assert_array_equal(frames[0].model, frames[0].rendered(sources).model)
        again = config().solve(frames, sources, shifts=False).sources
        # the photon noise of the new model moves weights by its own small change
        assert np.percentile(np.abs(again.flux - sources.flux) / sources.flux_err, 99) < 0.05

    def test_negative_fluxes_are_flagged(self, field):
        """A star forced onto a hole in the image keeps its negative flux, with the flag."""
        data = np.where(np.hypot(*np.mgrid[-50:60, -40:60]) < 1.5, field.sky - 80, field.sky).astype(
            np.float32
        )
        data += np.random.default_rng(1).normal(0, 5, data.shape)
        exposure = replace(field.exposure, data=data, ivar=np.full(data.shape, 1 / 25, np.float32))
        frame = Frame.start(exposure, field.psf, StampSizes()).with_(sky=field.sky)
        _, sources = finish((frame,), config(), Sources.at([40.0, 80.0], [50.0, 80.0]))
        assert sources.flux[0] < -5 * sources.flux_err[0]
        assert flags.has(sources.flags, "negative")[0]


def test_no_sources_at_all(start):
    """An empty list is a list."""
    frames, sources = finish((start,), config(), Sources.empty())
    assert len(sources) == 0
    assert not frames[0].model.any()
    assert not render((start,), Sources.empty(), onto_model=True)[0].model.any()


def test_stopwatch_passes_everything_on():
    """Arguments, results and exceptions; times of the same stage add up."""

    class Stages:
        @staticmethod
        def add(a, *, b):
            return a + b

        @staticmethod
        def fail():
            raise ValueError("x")

    watch = Stopwatch(Stages())
    assert watch.add(1, b=2) + watch.add(3, b=4) == 10
    assert set(watch.seconds) == {"add"}
    with pytest.raises(ValueError, match="x"):
        watch.fail()
    with pytest.raises(AttributeError):
        watch.missing  # noqa: B018
    assert watch.total() >= watch.seconds["add"]
