"""Statistics of stars on the cleaned image, against the formulas of algorithm.md, section 16."""

import numpy as np
import pytest

from crowdfit._kernels import measure as kernels
from crowdfit.photometry.psf_stats import convolved_with_disc
from tests.reference import measure as twins
from tests.reference.scenes import ORDERS, make_scene

RINGS = np.array([1.2, 2.4])
HALF = 5


def images(s, masked):
    """Return residual, inverse variance and data - sky, with `masked` in every pixel that must not count."""
    total = s.resid + 5 + 100 * np.random.default_rng(9).random(s.shape).astype(np.float32)
    return s.with_masked(masked), s.ivar, np.where(s.root > 0, total, np.float32(masked))


def measured(s, planes, disc, half=HALF, flux=None):
    out = np.empty((len(s.x), kernels.N_STATS))
    flux = s.flux if flux is None else flux
    kernels.measure_stars(s.coef, disc.coef, s.basis, s.x, s.y, flux, half, RINGS, *planes, out)
    return out


def close(result, expected):
    """Whether all agree: stamps are single precision, and fits of few pixels lose digits of it."""
    size = np.nanmax(np.where(np.isfinite(expected), np.abs(expected), 0), axis=0)
    return np.allclose(result, expected, rtol=1e-4, atol=2e-5 * size + 1e-6, equal_nan=True)


@pytest.mark.parametrize("order", ORDERS)
def test_statistics(order):
    s = make_scene(order, n=24)
    disc = convolved_with_disc(s.psf)
    twin = twins.measure_stars(s.coef, disc.coef, s.basis, s.x, s.y, s.flux, HALF, RINGS, *images(s, 0.0))
    assert np.count_nonzero(np.isfinite(twin).all(axis=1)) > 15
    assert close(measured(s, images(s, 1e20), disc), twin)


def test_window_larger_than_the_image():
    s = make_scene(n=5, shape=(6, 7))
    twin = twins.measure_stars(s.coef, s.coef, s.basis, s.x, s.y, s.flux, 7, RINGS, *images(s, 0.0))
    assert close(measured(s, images(s, 1e20), s.psf, half=7), twin)


def test_star_wholly_masked_or_off_the_image():
    """P103: NaN and counts of 0, never an error."""
    s = make_scene(n=6)
    s.root[:] = 0
    out = measured(s, images(s, 1e20), s.psf)
    assert np.all(out[:, kernels.QF] == 0)
    assert np.all(out[:, kernels.N_GOOD] == 0)
    assert np.isnan(out[:, [kernels.RCHI2, kernels.FLUX_ISO, kernels.SPREAD_MODEL, kernels.SHARPNESS]]).all()
    assert list(out[:, kernels.N_PIXELS]) == [36, 66, 22, 0, 22, 36]


def test_noiseless_star_has_one_flux():
    """Every flux column in one normalisation, sum 1 over the full PSF; and no shape is found in the PSF itself."""
    s = make_scene(n=10)
    s.root[:] = 1
    out = measured(s, (np.zeros_like(s.resid), s.ivar, np.ones_like(s.resid)), convolved_with_disc(s.psf))[6:]
    flux = s.flux[6:]
    assert np.allclose(out[:, [kernels.FLUX_LBS, kernels.FLUX_ISO]], flux[:, None], rtol=1e-4)
    steps = [kernels.STEP_X_ISO, kernels.STEP_Y_ISO, kernels.SPREAD_MODEL, kernels.SHARPNESS]
    assert np.abs(out[:, steps]).max() < 1e-4
    assert np.allclose(out[:, kernels.QF], 1)


def test_negative_and_zero_flux():
    """P103: a flux of 0 is no division by 0."""
    s = make_scene(n=9)
    flux = np.where(np.arange(9) % 2, 0.0, -20.0)
    twin = twins.measure_stars(s.coef, s.coef, s.basis, s.x, s.y, flux, HALF, RINGS, *images(s, 0.0))
    assert close(measured(s, images(s, 0.0), s.psf, flux=flux), twin)


def window(seed=1):
    """Return the planes of one window, some pixels masked, and the flux of its star."""
    s = make_scene(seed=seed)
    planes = np.random.default_rng(seed).normal(1, 0.3, (7, 9, 10)).astype(np.float32)
    names = ("clean", "ivar", "resid", "total", "psf", "disc", "gx")
    w = dict(zip(names, planes, strict=True))
    w["ivar"] = np.where(np.arange(90).reshape(9, 10) % 7, np.abs(w["ivar"]), np.float32(0))
    radius = np.hypot(*np.indices((9, 10)) - np.array([4.2, 4.9])[:, None, None])
    w["psf"] *= np.exp(-0.1 * radius**2).astype(np.float32)
    w["gy"] = s.resid[:9, :10] * np.float32(0.01)
    wide = {k: v.astype(float) for k, v in w.items()}
    wide["v"], wide["u"] = np.meshgrid(np.arange(9) - 4.2, np.arange(10) - 4.9, indexing="ij")
    return {k: v.ravel() for k, v in w.items()}, wide


def test_parts():
    flat, wide = window()
    out = np.full(kernels.N_STATS, np.nan)
    share = wide["psf"].sum()
    kernels.sum_shape(flat["clean"], flat["ivar"], flat["resid"], flat["total"], flat["psf"], share, out)
    kernels.fit_isolated(flat["clean"], flat["ivar"], flat["psf"], flat["gx"], flat["gy"], out)
    kernels.compare_disc(flat["clean"], flat["ivar"], flat["psf"], flat["disc"], out)
    kernels.compare_core(
        *(flat[k].reshape(9, 10) for k in ("clean", "ivar", "psf")), 10, 20, 14.9, 24.2, 1.6, 6.1, 2.0, out
    )
    assert np.allclose(out[[0, 1, 2, 3, 4, 8]], twins.sum_shape(wide), rtol=2e-3)  # 1.18 for 2.3548 / 2
    assert np.allclose(out[5:8], twins.fit_isolated(wide), rtol=1e-6)
    assert np.allclose(out[9:11], twins.compare_disc(wide), rtol=1e-6)
    assert out[11] == pytest.approx(twins.compare_core(wide, 1.6, 6.1, 2.0), rel=1e-5)


def test_one_star_is_one_row_of_all():
    s = make_scene(n=8)
    planes, out = images(s, 0.0), np.empty(kernels.N_STATS)
    args = (s.basis[7], s.x[7], s.y[7], s.flux[7], HALF, RINGS)
    kernels.measure_one(s.coef, s.coef, *args, *planes, out)
    assert np.array_equal(out, measured(s, planes, s.psf)[7], equal_nan=True)
    assert close(out[None], twins.measure_one(s.coef, s.coef, *args, *planes)[None])


def test_threads(same_bits):
    s = make_scene(2, n=60)
    planes = images(s, 0.0)
    same_bits(lambda: [measured(s, planes, s.psf)])
