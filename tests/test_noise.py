"""Noise of sky and detector out of error planes, weights, gain and read noise, or the image itself."""

import dataclasses

import numpy as np
import pytest
from scipy.signal import fftconvolve

from crowdfit.errors import InputError
from crowdfit.io.fits import InputOptions, exposure_from_arrays, read_exposure
from crowdfit.io.headers import Facts
from crowdfit.io.local import local_percentile
from crowdfit.io.noise import image_noise, sky_floor
from tests.files import write_planes

SKY, READ_NOISE, GAIN = 400.0, 6.0, 1.0


@dataclasses.dataclass
class Field:
    """A star field with known noise: data, total error, and the true variance of sky and detector."""

    data: np.ndarray
    err: np.ndarray
    background: np.ndarray


def moffat(fwhm, beta=2.5, radius=60):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    scale = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    psf = (1 + (x**2 + y**2) / scale**2) ** -beta
    return psf / psf.sum()


def draw_field(*, density=0.057, slope=0.75, fwhm=4.2, gain=GAIN, from_data=False, n=256, seed=1):
    """Draw stars at whole pixels, N(>f) ~ f^-slope from 150 to 3e6, on a sky with a gradient of 5 %.

    `from_data`: the error plane is computed from the noisy data instead of from the noiseless scene.
    """
    rng = np.random.default_rng(seed)
    pad = 60
    low, high = 150.0**-slope, 3e6**-slope
    count = rng.poisson(density * (n + 2 * pad) ** 2)
    flux = (low - rng.random(count) * (low - high)) ** (-1 / slope)
    stars = np.zeros((n + 2 * pad, n + 2 * pad))
    np.add.at(stars, tuple(rng.integers(0, n + 2 * pad, (2, count))), flux)
    stars = np.maximum(fftconvolve(stars, moffat(fwhm), "same"), 0)[pad:-pad, pad:-pad]
    sky = np.broadcast_to(SKY * (1 + 0.05 * (np.arange(n) / n - 0.5)), (n, n))
    data = rng.poisson((stars + sky) * gain) / gain + rng.normal(0, READ_NOISE / gain, (n, n))
    light = np.maximum(data, 0) if from_data else stars + sky
    read = (READ_NOISE / gain) ** 2
    return Field(data, np.sqrt(light / gain + read), sky / gain + read)


def error_ratio(exposure, field):
    """Return the estimated over the true error of sky and detector, usable pixels only."""
    return np.sqrt(1 / exposure.ivar[exposure.good] / field.background[exposure.good])


@pytest.mark.parametrize("from_data", [False, True], ids=["err-noiseless", "err-from-data"])
@pytest.mark.parametrize(
    ("density", "gain"), [(0.057, 1.0), (0.057, 4.0), (0.004, 1.0)], ids=["dense", "gain4", "sparse"]
)
def test_star_photons_are_taken_out_of_total_errors(density, gain, from_data):
    """N006, P059: the background error is within 2 % of the truth, everywhere, and the gain is recovered."""
    field = draw_field(density=density, gain=gain, from_data=from_data)
    exposure = exposure_from_arrays(field.data, field.err)
    ratio = error_ratio(exposure, field)
    assert abs(np.median(ratio) - 1) < 0.02
    assert np.all(np.abs(np.percentile(ratio, [1, 99]) - 1) < 0.04)
    assert exposure.gain == pytest.approx(gain, rel=0.01)
    assert any("less the photons of the stars" in note for note in exposure.notes)


def test_background_error_does_not_follow_the_noise_of_the_data():
    """P059: weights that follow the noise pull fluxes low; neither kind of error plane may do that."""
    for from_data in (False, True):
        field = draw_field(density=0.004, from_data=from_data)
        exposure = exposure_from_arrays(field.data, field.err)
        noise = field.data - (field.background - READ_NOISE**2)
        empty = np.abs(noise) < 60
        relative = exposure.ivar * field.background
        assert abs(np.corrcoef(relative[empty], noise[empty])[0, 1]) < 0.03


def test_header_gain_is_kept_where_the_errors_agree_with_it():
    field = draw_field(density=0.02)
    assert exposure_from_arrays(field.data, field.err, options=InputOptions(gain=1.05)).gain == 1.05
    corrected = exposure_from_arrays(field.data, field.err, options=InputOptions(gain=3.0))
    assert corrected.gain == pytest.approx(1.0, rel=0.02)
    assert any("not 3" in note for note in corrected.notes)  # P005: never silently


def test_errors_without_star_photons_are_taken_as_they_are():
    field = draw_field(density=0.01)
    err = np.sqrt(field.background)
    exposure = exposure_from_arrays(field.data, err, options=InputOptions(gain=1.0))
    np.testing.assert_allclose(error_ratio(exposure, field), 1, rtol=1e-5)
    assert exposure.gain == 1.0
    unknown = exposure_from_arrays(field.data, err)
    assert np.isinf(unknown.gain)
    assert any("gain unknown" in note for note in unknown.notes)


def test_user_can_say_what_the_errors_hold():
    field = draw_field(density=0.01)
    exposure = exposure_from_arrays(field.data, field.err, options=InputOptions(err_holds="sky", gain=1.0))
    np.testing.assert_allclose(1 / np.sqrt(exposure.ivar), field.err, rtol=1e-5)
    few = draw_field(density=0.0, n=64)  # no star shows the growth, so the gain has to
    total = exposure_from_arrays(few.data, few.err, options=InputOptions(err_holds="total", gain=1.0))
    assert any("less the photons" in note for note in total.notes)
    assert abs(np.median(error_ratio(total, few)) - 1) < 0.02


@pytest.mark.parametrize("from_data", [False, True])
def test_pixels_that_are_noisy_in_themselves_stay_so(from_data):
    """A row with three times the read noise keeps its lower weight."""
    field = draw_field(density=0.004, from_data=from_data)
    extra = np.zeros_like(field.background)
    extra[100] = 8 * READ_NOISE**2 + 800
    exposure = exposure_from_arrays(field.data, np.sqrt(field.err**2 + extra))
    row = np.median(1 / exposure.ivar[100]) / np.median(field.background[100] + extra[100])
    assert row == pytest.approx(1, abs=0.05)
    assert np.median(1 / exposure.ivar[101]) / np.median(field.background[101]) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("density", [0.057, 0.004])
def test_noise_from_gain_and_read_noise(density):
    """P005: without an error plane the noise is that of the sky between the stars."""
    field = draw_field(density=density)
    exposure = exposure_from_arrays(field.data, options=InputOptions(gain=1.0, rdnoise=6.0))
    assert abs(np.median(error_ratio(exposure, field)) - 1) < 0.025
    assert any("read noise 6 electrons" in note for note in exposure.notes)


def test_sky_subtracted_image_does_not_lose_its_sky_noise():
    field = draw_field(density=0.004)
    exposure = exposure_from_arrays(field.data - SKY, options=InputOptions(gain=1.0, rdnoise=6.0))
    assert abs(np.median(error_ratio(exposure, field)) - 1) < 0.03
    assert any("measured on the emptiest pixels" in note for note in exposure.notes)


@pytest.mark.parametrize("density", [0.057, 0.004, 0.0])
def test_noise_from_the_image_itself(density):
    field = draw_field(density=density)
    exposure = exposure_from_arrays(field.data)
    assert abs(np.median(error_ratio(exposure, field)) - 1) < 0.04
    assert np.isinf(exposure.gain)


def test_image_noise_ignores_gradients_and_masked_garbage():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:200, :200]
    data = (rng.normal(0, 2, (200, 200)) + 3 * x + 0.01 * y**2).astype(np.float32)
    good = np.ones(data.shape, bool)
    assert image_noise(data, good) == pytest.approx(2, rel=0.04)
    good[::7, ::5] = False
    data[~good] = 1e9
    assert image_noise(data, good) == pytest.approx(2, rel=0.04)


def test_image_noise_of_an_image_without_any():
    with pytest.raises(InputError, match="give an error plane"):
        image_noise(np.zeros((20, 20), np.float32), np.ones((20, 20), bool))


def test_sky_floor_is_the_level_between_the_stars():
    field = draw_field(density=0.057)
    floor = sky_floor(field.data.astype(np.float32), np.ones(field.data.shape, bool))
    assert abs(np.median(floor) - SKY) < 0.05 * SKY
    assert np.median(field.data) > np.median(floor)


def test_weights_are_inverse_variance():
    """N004: zero, negative and NaN weights mask."""
    rng = np.random.default_rng(0)
    data = rng.normal(50, 2, (80, 90))
    weight = np.full(data.shape, 0.25)
    weight[3, 4:7] = 0, -1, np.nan
    exposure = exposure_from_arrays(data, weight, options=InputOptions(err_kind="ivar", gain=2.0))
    assert not exposure.good[3, 4:7].any()
    np.testing.assert_allclose(exposure.ivar[exposure.good], 0.25)
    assert np.count_nonzero(~exposure.good) == 3
    assert exposure.gain == 2.0


@pytest.mark.parametrize("density", [0.03, 0.004])
def test_detection_gets_background_noise_and_photometry_total_noise(tmp_path, density):
    """N005, N006: WHT in arbitrary units and total ERR: the sky's error for detection, ERR for the fit.

    Trap: most pixels of a dense field hold stars, so the scale taken on all of them is biased high.
    """
    field = draw_field(density=density)
    weight = 1e-3 / field.background
    path = write_planes(tmp_path / "field.fits", SCI=field.data, ERR=field.err, WHT=weight)
    exposure = read_exposure(path)
    background = np.median(error_ratio(exposure, field))
    assert background == pytest.approx(1, abs=0.05 if density > 0.01 else 0.02)
    everywhere = read_exposure(path, InputOptions(wht_scale_on="all"))
    assert np.median(error_ratio(everywhere, field)) > background + (0.015 if density > 0.01 else 0)
    stars = (field.err**2 - field.background).astype(np.float32)  # gain 1: their variance is their light
    total = 1 / np.sqrt(exposure.fit_ivar(stars))
    bright = stars > 10 * field.background
    np.testing.assert_allclose(total[bright], field.err[bright], rtol=0.02)
    np.testing.assert_array_equal(1 / exposure.ivar[bright] < 0.2 * total[bright] ** 2, True)


def test_weights_that_are_no_inverse_variance_are_scaled_to_the_image():
    """Weight maps of some pipelines are exposure times."""
    data = np.random.default_rng(0).normal(50, 2, (80, 90))
    exposure = exposure_from_arrays(data, np.full(data.shape, 900.0), options=InputOptions(err_kind="ivar"))
    assert 1 / np.sqrt(np.median(exposure.ivar)) == pytest.approx(2, rel=0.05)
    assert any("scaled" in note for note in exposure.notes)


def test_variance_plane():
    data = np.random.default_rng(0).normal(50, 2, (80, 90))
    exposure = exposure_from_arrays(data, np.full(data.shape, 4.0), options=InputOptions(err_kind="variance"))
    np.testing.assert_allclose(exposure.ivar, 0.25)


def test_local_percentile_follows_a_gradient_and_skips_masked_pixels():
    y, x = np.mgrid[:300, :200]
    values = (2.0 * x + y).astype(np.float32)
    good = np.ones(values.shape, bool)
    good[100:250, 50:150] = False
    values[~good] = np.nan
    smooth = local_percentile(values, good, 50)
    inner = np.s_[40:90, 40:160]
    assert np.max(np.abs(smooth[inner] - values[inner])) < 15
    assert np.isfinite(smooth).all()


SOURCES = {
    "errors": lambda f, c: exposure_from_arrays(f.data * c, f.err * c),
    "variances": lambda f, c: exposure_from_arrays(
        f.data * c, (f.err * c) ** 2, options=InputOptions(err_kind="variance")
    ),
    "weights": lambda f, c: exposure_from_arrays(
        f.data * c, 1 / (f.background * c**2), options=InputOptions(err_kind="ivar")
    ),
    "gain": lambda f, c: exposure_from_arrays(
        f.data * c, options=InputOptions(gain=1 / c, rdnoise=READ_NOISE)
    ),
    "image": lambda f, c: exposure_from_arrays(f.data * c),
}


@pytest.mark.parametrize("source", SOURCES)
def test_units_do_not_matter(source):
    """Fluxes in counts or in W/m2: the same noise, without a warning, as far as single precision goes."""
    field = draw_field(density=0.01, n=96)
    counts = SOURCES[source](field, 1.0)
    for c in (2.0**-53, 2.0**36):
        other = SOURCES[source](field, c)
        np.testing.assert_allclose(other.ivar * c**2, counts.ivar, rtol=1e-6)
        assert other.gain * c == pytest.approx(counts.gain, rel=1e-6)


@pytest.mark.parametrize("unit", [1e-80, 1e-30, 1e-24, 1e-19, 1e16, 1e24, 1e33, 1e60])
@pytest.mark.parametrize("source", SOURCES)
def test_units_beyond_single_precision_are_refused(source, unit):
    """One line that says how large the errors are and what to do; no warning of numpy beside it."""
    field = draw_field(density=0.01, n=96)
    with pytest.raises(
        InputError, match=r"^image: errors of \d\S* per pixel are out of range; multiply"
    ) as caught:
        SOURCES[source](field, unit)
    said = float(str(caught.value).split()[3])
    assert 0.3 < said / unit / np.median(np.sqrt(field.background)) < 3


def test_pixels_whose_error_single_precision_cannot_hold_are_not_used():
    """Pipelines mark bad pixels with errors such as 1e30; one far too small must not rule the fit either."""
    field = draw_field(density=0.01, n=96)
    reference = exposure_from_arrays(field.data, field.err)
    err = field.err.copy()
    err[3, 4:8] = 1e30, 1e-30, 3e19, 1e300
    exposure = exposure_from_arrays(field.data, err)
    assert np.argwhere(~exposure.good).tolist() == [[3, 4], [3, 5], [3, 6], [3, 7]]
    np.testing.assert_allclose(exposure.ivar[exposure.good], reference.ivar[exposure.good], rtol=0.02)
    weight = 1 / field.err**2
    weight[3, 4:8] = 1e-42, 1e40, 1e-60, 1e60
    exposure = exposure_from_arrays(field.data, weight, options=InputOptions(err_kind="ivar"))
    assert np.argwhere(~exposure.good).tolist() == [[3, 4], [3, 5], [3, 6], [3, 7]]


def test_weights_of_any_size_are_scaled():
    """Their unit says nothing: the scale comes from the image."""
    data = np.random.default_rng(0).normal(50, 2, (80, 90)) * 1e12
    exposure = exposure_from_arrays(data, np.full(data.shape, 1e25), options=InputOptions(err_kind="ivar"))
    assert 1 / np.sqrt(np.median(exposure.ivar)) == pytest.approx(2e12, rel=0.05)
    with pytest.raises(InputError, match=r"image: weights of 1e\+60 are out of range; multiply them"):
        exposure_from_arrays(data, np.full(data.shape, 1e60), options=InputOptions(err_kind="ivar"))


@pytest.mark.parametrize("gain", [1e-200, 1e-42, 1e42])
def test_gain_that_does_not_fit_the_image(gain):
    data = np.random.default_rng(0).normal(50, 2, (40, 40))
    with pytest.raises(InputError, match="out of range"):
        exposure_from_arrays(data, options=InputOptions(gain=gain, rdnoise=4.0))


def test_facts_start_empty():
    assert Facts().gain is None
    assert Facts().notes == []
