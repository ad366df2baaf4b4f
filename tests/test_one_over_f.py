"""Stripes of the readout: offsets of lines against known ones, and nothing where there is nothing."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdfit.detectors.one_over_f import LEAST_PIXELS, amplifier_edges, find_stripes, smooth_part
from crowdfit.scene import Scene
from crowdfit.simulate import draw_stripes, simulate

SHAPE = (200, 256)
NOISE = 3.0
IVAR = np.full(SHAPE, NOISE**-2, np.float32)
ALL = np.ones(SHAPE, bool)
# the mean of a line of pixels
LINE_ERROR = NOISE / np.sqrt(SHAPE[1])


def noise(seed=1):
    return np.random.default_rng(seed).normal(0, NOISE, SHAPE).astype(np.float32)


def drift(seed, rms, amplifiers=1):
    """Return 1/f offsets of the rows as an image; in noise of a pixel."""
    scene = Scene(ny=SHAPE[0], nx=SHAPE[1], n_stars=0, stripes=rms, amplifiers=amplifiers)
    return draw_stripes(scene, np.random.default_rng(seed)) * NOISE / scene.noise


@pytest.mark.parametrize("amplifiers", [1, 4])
def test_offsets_are_found_to_the_error_of_a_mean(amplifiers):
    true = drift(3, 1.0, amplifiers)
    found = find_stripes(noise() + true, IVAR, ALL, amplifiers=amplifiers)
    miss = (found.image - true)[:, 0] - np.median((found.image - true)[:, 0])
    error = LINE_ERROR * np.sqrt(amplifiers)
    assert miss.std() < 1.15 * error
    # the errors say so themselves; the shrinkage towards the neighbours gains a little
    assert 0.8 * error < np.median(found.error) < 1.1 * error
    assert found.amplitude == pytest.approx(NOISE * (np.sqrt(0.5 + 0.5 / amplifiers)), rel=0.35)


def test_nothing_is_subtracted_where_there_are_no_stripes():
    found = [find_stripes(noise(seed), IVAR, ALL) for seed in range(20)]
    assert sum(stripes.amplitude > 0 for stripes in found) <= 1
    assert all(not stripes.image.any() for stripes in found if stripes.amplitude == 0)


def test_a_line_without_pixels_follows_its_neighbours():
    """R013: and is counted."""
    true = np.repeat(5 * NOISE * np.sin(np.arange(SHAPE[0]) / 20)[:, None], SHAPE[1], axis=1).astype(
        np.float32
    )
    usable = ALL.copy()
    usable[70] = False
    usable[71, LEAST_PIXELS - 1 :] = False
    found = find_stripes(noise() + true, IVAR, usable)
    assert found.unseen == 2
    miss = found.offset[:, 0] - true[:, 0]
    assert abs((miss - np.median(miss))[70:72]).max() < 0.25 * NOISE
    assert (found.error[70:72] > 1.1 * np.median(found.error)).all()


def test_an_unseen_line_of_uncorrelated_stripes_is_left_alone():
    steps = np.random.default_rng(5).normal(0, 2 * NOISE, SHAPE[0])
    usable = ALL.copy()
    usable[50] = False
    found = find_stripes(noise() + steps[:, None].astype(np.float32), IVAR, usable)
    assert abs(found.offset[50, 0]) < 0.5 * NOISE


def test_stars_that_are_not_masked_do_not_pull_a_line():
    true, image = drift(3, 1.0), noise()
    image[40:44, 30:34] += 500 * NOISE
    plain, starry = (find_stripes(values + true, IVAR, ALL).offset for values in (noise(), image))
    assert np.abs(starry - plain).max() < LINE_ERROR


@given(st.floats(-1e4, 1e4), st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_a_level_changes_nothing_and_a_unit_scales_all(level, unit):
    image = (noise() + drift(3, 2.0)).astype(np.float64)
    plain = find_stripes(image.astype(np.float32), IVAR, ALL).offset
    moved = find_stripes(((image + level) * unit).astype(np.float32), IVAR / np.float32(unit**2), ALL).offset
    # what single precision keeps of a pixel
    assert np.allclose(moved / unit, plain, atol=0.02 * NOISE + 1e-6 * abs(level))


def test_columns_are_rows_of_the_turned_image():
    image = noise() + drift(3, 1.0)
    rows = find_stripes(image, IVAR, ALL, amplifiers=2)
    columns = find_stripes(image.T, IVAR.T, ALL.T, along_rows=False, amplifiers=2)
    assert np.array_equal(columns.image, rows.image.T)
    assert np.array_equal(columns.error_image, rows.error_image.T)


def test_an_image_without_usable_pixels_has_no_stripes():
    found = find_stripes(noise(), IVAR, ~ALL)
    assert found.amplitude == 0
    assert found.unseen == SHAPE[0]
    assert not found.image.any()


def test_the_smooth_part_of_a_background_keeps_what_changes_along_the_lines():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    sky = (100 + 0.1 * y + 20 * np.exp(-((x - 128) ** 2 + (y - 100) ** 2) / 800)).astype(np.float32)
    slow = 7 * np.cos(4 * np.pi * y / (SHAPE[0] - 1)).astype(np.float32)
    with_drift, without = (smooth_part(b, along_rows=True, amplifiers=2) for b in (sky + slow, sky))
    # a cosine of whole periods has no trend, which would stay with the sky
    assert np.ptp((with_drift - without)[:, 0]) < 0.01 * np.ptp(slow)
    flat = smooth_part(100 + 0.1 * y.astype(np.float32), along_rows=True, amplifiers=1)
    assert np.allclose(flat, 100 + 0.1 * y, atol=1e-3)


@pytest.mark.parametrize(("length", "amplifiers"), [(2048, 4), (100, 3), (7, 7)])
def test_pieces_of_a_line_are_about_equal_and_make_it_whole(length, amplifiers):
    widths = np.diff(amplifier_edges(length, amplifiers))
    assert widths.sum() == length
    assert np.ptp(widths) <= 1


def test_drawn_stripes_have_the_spectrum_they_are_named_after():
    scene = Scene(ny=4096, nx=16, n_stars=0, stripes=2.0)
    rows = draw_stripes(scene, np.random.default_rng(1))[:, 0] / scene.noise
    assert rows.std() == pytest.approx(2.0, rel=1e-3)
    power = np.abs(np.fft.rfft(rows)) ** 2
    low, high = power[10:100].mean(), power[1000:2000].mean()
    # 1/f, averaged over both ranges
    expected = np.mean(1 / np.arange(10, 100)) / np.mean(1 / np.arange(1000, 2000))
    assert low / high == pytest.approx(expected, rel=0.4)


def test_stripes_lie_on_top_of_an_image_that_is_else_the_same():
    scene = Scene(ny=64, nx=64, n_stars=20, seed=4)
    plain, striped = simulate(scene), simulate(dataclasses.replace(scene, stripes=3.0, amplifiers=2))
    assert np.allclose(striped.data - striped.stripes, plain.data, atol=0.01)
    assert not plain.stripes.any()
