"""Which pixels are not used, and where a saturated star may hide."""

import numpy as np
import pytest
from astropy.io import fits

from crowdfit.io.fits import InputOptions, exposure_from_arrays
from crowdfit.io.masking import dq_is_bad

SHAPE = (48, 64)


def sky(shape=SHAPE, seed=0):
    """Return a plain image of noise 5 on a level of 100."""
    return np.random.default_rng(seed).normal(100, 5, shape).astype(np.float32)


def star(data, x, y, peak, fwhm=4.0):
    """Add a Gaussian star to an image."""
    row, column = np.mgrid[: data.shape[0], : data.shape[1]]
    data += peak * np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * (fwhm / 2.355) ** 2))


def test_saturation_level_and_growth():
    data = sky()
    star(data, 30, 20, 5000)
    data = np.minimum(data, 3000)
    full = data == 3000
    plain = exposure_from_arrays(data, options=InputOptions(saturate=3000.0, saturate_grow=0))
    np.testing.assert_array_equal(plain.saturated, full)
    assert not plain.good[full].any()
    grown = exposure_from_arrays(data, options=InputOptions(saturate=3000.0, saturate_grow=2))
    assert grown.saturated.sum() > full.sum()
    assert not (grown.saturated & grown.good).any()
    from_header = exposure_from_arrays(data, header=fits.Header({"SATURATE": 3000.0}))
    assert from_header.saturated[full].all()


@pytest.mark.parametrize("level", [1e18, 1e39, 1e99, 1e300])
def test_saturation_level_that_no_pixel_reaches(level):
    """Single precision cannot hold it, and no warning says so."""
    exposure = exposure_from_arrays(sky(), header=fits.Header({"SATURATE": level}))
    assert exposure.good.all()
    with pytest.raises(ValueError, match="saturate"):
        InputOptions(saturate=level)


def test_header_saturation_in_other_units_is_not_believed():
    """A converter limit beside an image in electrons would mask every bright star."""
    data = sky((100, 100))
    for i in range(8):
        star(data, 10 + 11 * i, 50, 4000.0 * (i + 1))
    exposure = exposure_from_arrays(data, header=fits.Header({"SATURATE": 1000.0}))
    assert not exposure.saturated.any()
    assert "SATURATE" not in exposure.meta
    assert any("set input.saturate" in note for note in exposure.notes)
    assert exposure_from_arrays(data, options=InputOptions(saturate=1000.0)).saturated.any()


@pytest.mark.parametrize("blank", [np.nan, 0.0])
def test_blanked_core_counts_as_saturated(blank):
    """Pipelines blank saturated cores; the star behind must be found all the same."""
    data = sky((60, 60))
    dq = np.zeros(data.shape, np.int32)
    for x, y, peak in ((15, 15, 4000.0), (45, 30, 9000.0), (20, 45, 3000.0)):
        star(data, x, y, peak)
    core = np.hypot(*(np.mgrid[:60, :60] - np.array([30, 45])[:, None, None])) < 2.5
    data[core] = blank
    dq[core] = 1
    dq[15, 18:21] = 1  # bad pixels in the wing of a star that is seen
    dq[50:53, 50:53] = 1  # and on the sky
    data[50:53, 50:53] = 1e5
    exposure = exposure_from_arrays(data, dq=dq)
    np.testing.assert_array_equal(exposure.saturated, core)


def test_flagged_hot_pixels_are_not_saturated():
    data = sky()
    data[10, 10] = 1e8
    dq = np.zeros(SHAPE, np.uint8)
    dq[10, 10] = 1
    exposure = exposure_from_arrays(data, dq=dq, options=InputOptions(saturate=5e4))
    assert not exposure.saturated.any()
    assert not exposure.good[10, 10]


def test_dq_says_saturated():
    dq = np.zeros(SHAPE, np.int16)
    dq[10, 10], dq[20, 20] = 3, 1
    codes = exposure_from_arrays(
        sky(), dq=dq, options=InputOptions(dq="codes", dq_saturated=(3,), saturate_grow=0)
    )
    assert np.argwhere(codes.saturated).tolist() == [[10, 10]]
    data = sky()
    data[10, 10] = np.nan  # lost, though the bit it has is ignored where the value is good
    lost = exposure_from_arrays(
        data, dq=dq, options=InputOptions(dq_ignore=(3,), dq_saturated=(2,), saturate_grow=0)
    )
    assert np.argwhere(lost.saturated).tolist() == [[10, 10]]
    bits = exposure_from_arrays(sky(), dq=dq, options=InputOptions(dq_saturated=(2,), saturate_grow=0))
    assert np.argwhere(bits.saturated).tolist() == [[10, 10]]


def test_regions_and_low_limit():
    data = sky()
    data[30, 40] = -500
    options = InputOptions(mask_regions=((0, 5, 0, 48), (60, 1000, 0, 2)), bad_below=-100.0)
    exposure = exposure_from_arrays(data, options=options)
    expected = np.zeros(SHAPE, bool)
    expected[:, :5] = expected[:2, 60:] = expected[30, 40] = True
    np.testing.assert_array_equal(~exposure.good, expected)


def test_pixels_without_error():
    """P103: err <= 0 in a map that also has good pixels."""
    err = np.full(SHAPE, 5.0)
    err[0, :4] = 0, -1, np.nan, np.inf
    assert np.argwhere(~exposure_from_arrays(sky(), err).good).tolist() == [[0, i] for i in range(4)]


@pytest.mark.parametrize("policy", ["bits", "codes"])
def test_grown_bits(policy):
    """Pixels of one bit are grown by as many pixels as it says; others, and ignored ones, are not."""
    dq = np.zeros((20, 30), np.uint32)
    dq[10, 5], dq[10, 15], dq[10, 25] = 4, 2, 8
    options = InputOptions(dq=policy, dq_grow=((4, 2), (8, 3)), dq_ignore=(8,))
    bad = dq_is_bad(dq, options)
    expected = np.zeros((20, 30), bool)
    expected[8:13, 3:8] = expected[10, 15] = True
    np.testing.assert_array_equal(bad, expected)
    assert not dq_is_bad(dq, InputOptions(dq="none", dq_grow=((4, 2),))).any()
