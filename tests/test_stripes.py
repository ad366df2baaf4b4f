"""The stage that finds stripes in crowded images, with the truth in all other parts and in a whole fit."""

import dataclasses

import numpy as np
import pytest

from crowdfit.api import fit_image
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame, StampSizes
from crowdfit.simulate import named_scene, simulate
from crowdfit.stages.stripes import LineStripes, NoStripes

SCENE = named_scene("dense", ny=256, nx=384, n_stars=6000, dead_columns=1, seed=11)


def without_level(lines):
    return lines - np.median(lines)


@pytest.fixture(scope="module")
def field():
    """A crowded field with stripes of one sigma."""
    return simulate(dataclasses.replace(SCENE, stripes=1.0))


@pytest.fixture
def frame(field):
    """Its frame with the true sky and model."""
    start = Frame.start(field.exposure, field.psf, StampSizes())
    return start.with_(sky=field.sky, model=field.model)


def test_with_the_true_model_stripes_are_found_to_the_error_of_a_mean(field, frame):
    (out,) = LineStripes()((frame,))
    miss = without_level((out.sky - field.sky - field.stripes).mean(axis=1))
    assert miss.std() < 1.3 * SCENE.noise / np.sqrt(SCENE.nx)
    assert np.array_equal(out.model, frame.model)


def test_a_field_without_stripes_keeps_its_sky():
    field = simulate(SCENE)
    frame = Frame.start(field.exposure, field.psf, StampSizes()).with_(sky=field.sky, model=field.model)
    assert LineStripes()((frame,))[0] is frame


def test_no_stripes_does_nothing(frame):
    assert NoStripes()((frame,)) == (frame,)


@pytest.mark.parametrize(
    ("axis", "along_rows"), [(1, True), (-1, True), (2, False), (-2, False), (None, True)]
)
def test_the_header_says_which_lines(field, axis, along_rows):
    e = field.exposure
    turn = (lambda a: a) if along_rows else np.transpose
    exposure = Exposure.of(
        turn(e.data), turn(e.ivar), turn(e.dq), gain=e.gain, meta={} if axis is None else {"FASTAXIS": axis}
    )
    frame = Frame.start(exposure, field.psf, StampSizes()).with_(sky=turn(field.sky), model=turn(field.model))
    (out,) = LineStripes()((frame,))
    found = turn(out.sky) - field.sky
    assert np.ptp(found, axis=1).max() < 1e-3 * SCENE.noise
    assert np.std(found) > 0.5 * SCENE.noise


def test_a_fit_takes_the_stripes_for_sky(field):
    fit = fit_image(field.exposure, stripes__kind="lines", stop__max_passes=6)
    miss = without_level((fit.sky - field.sky - field.stripes).mean(axis=1))
    # stars that are not found yet add to the error of the mean of 384 pixels, 0.05 sigma
    assert miss.std() < 0.2 * SCENE.noise
    blind = fit_image(field.exposure, stop__max_passes=6)
    assert len(blind.sources) > 1.05 * len(fit.sources)
