"""The exposure: validated once, and the noise with the photons of the model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdfit.errors import InputError
from crowdfit.exposure import Exposure, check_image

SHAPE = (6, 8)


def image():
    return np.arange(48.0).reshape(SHAPE)


def test_types_and_unusable_pixels():
    """P017, P020: native single precision; what is not used is zero and carries no weight."""
    data, ivar = image().astype(">f8"), np.full(SHAPE, 2.0)
    data[0, 0], ivar[1, 1], ivar[2, 2], ivar[3, 3] = np.nan, 0, -1, np.inf
    exposure = Exposure.of(data, ivar, np.ones(SHAPE, np.int16))
    assert exposure.data.dtype == exposure.ivar.dtype == np.dtype("=f4")
    assert exposure.dq.dtype == np.uint32
    assert exposure.saturated.dtype == bool
    bad = np.argwhere(~exposure.good).tolist()
    assert bad == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert exposure.data[0, 0] == exposure.data[1, 1] == 0
    assert exposure.shape == SHAPE


@pytest.mark.parametrize(("value", "weight"), [(2e12, 1.0), (-1e17, 1.0), (3.0, 2e12), (1e3, 1e30)])
def test_pixels_out_of_proportion_are_not_used(value, weight):
    """Their squares overflow single precision, and one such weight would decide the fit alone."""
    data, ivar = image(), np.ones(SHAPE)
    data[2, 3], ivar[2, 3] = value, weight
    exposure = Exposure.of(data, ivar)
    assert np.argwhere(~exposure.good).tolist() == [[2, 3]]
    assert exposure.data[2, 3] == 0
    data[2, 3], ivar[2, 3] = 1e11, 1e-30
    assert Exposure.of(data, ivar).good.all()


def test_input_arrays_are_not_changed():
    data, ivar = image(), np.full(SHAPE, 2.0)
    data[0, 0] = np.nan
    Exposure.of(data, ivar)
    assert np.isnan(data[0, 0])
    assert (ivar == 2).all()


def test_facts_travel():
    exposure = Exposure.of(
        image(), np.ones(SHAPE), unit="adu", band="V", name="n", meta={"A": 1}, notes=("x",)
    )
    assert (exposure.unit, exposure.band, exposure.name) == ("adu", "V", "n")
    assert exposure.meta["A"] == 1
    assert exposure.notes == ("x",)


def test_photons_of_the_model_add_to_the_noise():
    """P059: of the model, not of the data; negative model pixels add none; unused pixels stay unused."""
    ivar = np.full(SHAPE, 0.25)
    ivar[0, 0] = 0
    exposure = Exposure.of(image(), ivar, gain=2.0)
    model = np.full(SHAPE, 10, np.float32)
    model[1, 1] = -50
    fit_ivar = exposure.fit_ivar(model)
    assert fit_ivar[2, 2] == pytest.approx(1 / (4 + 10 / 2))
    assert fit_ivar[1, 1] == pytest.approx(0.25)
    assert fit_ivar[0, 0] == 0
    assert fit_ivar.dtype == np.float32


def test_unknown_gain_leaves_the_photons_out():
    exposure = Exposure.of(image(), np.full(SHAPE, 0.25))
    np.testing.assert_array_equal(exposure.fit_ivar(np.full(SHAPE, 1e6, np.float32)), exposure.ivar)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.floats(0.01, 100), st.floats(0.01, 1e4), st.floats(0.1, 1e6))
def test_unit_of_the_image_does_not_matter(scale, gain, flux):
    """An image in other units has the same noise in electrons."""
    model = np.full(SHAPE, flux, np.float32)
    one = Exposure.of(image(), np.full(SHAPE, 1.0), gain=gain).fit_ivar(model)
    other = Exposure.of(image() * scale, np.full(SHAPE, scale**-2), gain=gain / scale)
    np.testing.assert_allclose(other.fit_ivar(model * np.float32(scale)) * scale**2, one, rtol=1e-5)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (np.zeros(5), "1 dimensions"),
        (np.zeros((2, 3, 4)), "3 dimensions"),
        (np.zeros((0, 3)), "numbers are needed"),
        (np.full((2, 2), "a"), "numbers are needed"),
        (np.ones((2, 2), complex), "give real numbers"),
        (np.full((2, 2), np.nan), "every pixel is NaN"),
    ],
)
def test_what_is_no_image(data, match):
    """P014, P103."""
    with pytest.raises(InputError, match=match):
        check_image(data, "mine")
    with pytest.raises(InputError, match="^mine: "):
        Exposure.of(data, np.ones(data.shape), name="mine")


@pytest.mark.parametrize("plane", ["ivar", "dq", "saturated"])
def test_shapes_must_agree(plane):
    planes = {"ivar": np.ones(SHAPE), plane: np.ones((8, 6))}
    with pytest.raises(InputError, match=rf"{plane} has shape \(8, 6\) but the image has \(6, 8\)"):
        Exposure.of(image(), **planes)


@pytest.mark.parametrize("gain", [0, -1, np.nan])
def test_gain_must_be_positive(gain):
    with pytest.raises(InputError, match="gain is"):
        Exposure.of(image(), np.ones(SHAPE), gain=gain)


def test_gain_that_leaves_no_photon_noise():
    exposure = Exposure.of(image(), np.ones(SHAPE), gain=1e300)
    np.testing.assert_array_equal(exposure.fit_ivar(exposure.data), exposure.ivar)


def test_nothing_to_fit():
    with pytest.raises(InputError, match="no usable pixel"):
        Exposure.of(image(), np.zeros(SHAPE))
    with pytest.raises(InputError, match="every usable pixel is 3"):
        Exposure.of(np.full(SHAPE, 3.0), np.ones(SHAPE))
