"""Whole fits of real star fields; skipped, visibly, where the folder of real data is absent.

Expected widths and counts are those of the folder's README: FWHM from Gaussian fits to isolated stars, and the
number of 4-sigma detections, of which a joint fit finds more in dense fields.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.wcs import WCS
from scipy.ndimage import binary_dilation
from scipy.optimize import least_squares
from scipy.spatial import cKDTree

from crowdfit import flags
from crowdfit.api import fit_image
from crowdfit.stages.stop import STOP_REASONS

pytestmark = pytest.mark.slow

K2 = "k2_lagoon/hlsp_k2superstamp_k2_photometer_c9-lagoon-bjd{}_kepler_v1_image.fits"


class Expected(NamedTuple):
    """A file and its configuration; the README's FWHM with tolerance (pix), noise (image unit), number of detections.

    chi is the range of the robust rms of the residual over its noise, off the largest share of outlying pixels.
    """

    path: str
    config: str | None
    fwhm: float
    fwhm_error: float
    noise: float
    n4: int
    chi: tuple[float, float] = (0.85, 1.2)
    off: float = 0.005


# In Spitzer's mosaic of two frames each star has a core of its own, 9 % off the mean; NIRCam's cutout has six cosmic
# rays, which no model of stars follows. Sky that follows nebulosity takes noise too, which the weights count.
FIELDS = {
    "spitzer": Expected(
        "spitzer_glimpse/spitzer_example_image.fits", "irac", 1.80, 0.16, 0.53, 5024, off=0.008
    ),
    "wfpc2": Expected("hst_wfpc2_ngc1261/ubai2502m_c0m_aligned_F555W.fits", "wfpc2", 1.71, 0.22, 0.79, 3890),
    "nircam": Expected("jwst_nircam_ngc346/image.fits", "nircam_lw", 2.3, 0.7, 0.136, 23, off=0.008),
    "m92_v": Expected("kpno_m92/m92_V1_cal.fits", None, 3.16, 0.32, 7.5, 108),
    "m92_b": Expected("kpno_m92/m92_B1_cal.fits", None, 3.55, 0.36, 7.5, 87),
    "k2_first": Expected(K2.format("2457501.0963"), "k2", 1.2, 0.3, 71.0, 101, (0.45, 0.7)),
    "k2_second": Expected(K2.format("2457501.1167"), "k2", 1.2, 0.3, 71.0, 99, (0.45, 0.7)),
}


@cache
def fitted(name, folder):
    """Return the fit of a field; made once in this process."""
    return fit_image(Path(folder) / FIELDS[name].path, config=FIELDS[name].config)


@pytest.fixture(scope="module", params=FIELDS)
def field(request):
    """A field with its fit; of module scope, so that all tests of one field come together."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}")
    return FIELDS[request.param], fitted(request.param, str(folder))


def values(table, name):
    return np.asarray(getattr(table[name], "value", table[name]))


def test_ends_normally(field):
    """The stop rule ended it, and everything in the catalogue has a place and a flux."""
    _, result = field
    assert result.stop_reason in STOP_REASONS
    assert result.stop_reason in ("settled", "max_passes")
    for name in ("x", "y", "flux", "flux_err", "flux_err_marginal"):
        assert np.isfinite(values(result.catalog, name)).all(), name
    assert result.psf.cube[0].sum() / result.psf.oversample**2 == pytest.approx(1, abs=1e-6)


def gaussian_fwhm(psf, half=4):
    """Return the FWHM of Gaussians with a constant fitted to a PSF, median over pixel phases: the README's measure."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    found = []
    for dx, dy in ((0.0, 0.0), (0.25, 0.25), (0.49, 0.49), (0.49, 0.0), (0.0, 0.3)):
        stamp = psf.stamp(50 + dx, 50 + dy, 2 * half + 1).astype(float)

        def misfit(p, stamp=stamp):
            height, x0, y0, sx, sy, level = p
            return (
                height * np.exp(-0.5 * (((x - x0) / sx) ** 2 + ((y - y0) / sy) ** 2)) + level - stamp
            ).ravel()

        fit = least_squares(misfit, [stamp.max(), dx, dy, 0.8, 0.8, 0.0])
        found.append(2.3548 * np.sqrt(abs(fit.x[3] * fit.x[4])))
    return float(np.median(found))


def test_width(field):
    """P037: the FWHM is that of the README."""
    expected, result = field
    assert gaussian_fwhm(result.psf) == pytest.approx(expected.fwhm, abs=expected.fwhm_error)


def test_number_of_stars(field):
    """Stars that the README's detection sees if they are alone: five connected pixels above 4 sigma.

    The fifth brightest pixel of each star where it lies: of an undersampled star it depends on the pixel phase.
    From 0.8 times the README's number (it takes cosmic rays and pieces of one star too) to twice that (a joint fit
    finds what others hide).
    """
    expected, result = field
    x, y, flux = (values(result.catalog, name) for name in ("x", "y", "flux"))
    fifth = np.array([np.sort(result.psf.stamp(*at, 7).ravel())[-5] for at in zip(x, y, strict=True)])
    n = np.sum(flux * fifth > 4 * expected.noise)
    assert 0.8 * expected.n4 <= n <= 2.0 * expected.n4


def seen_pixels(result):
    """Return the pixels away from masked and saturated cores."""
    return result.exposure.good & ~binary_dilation(~result.exposure.good, iterations=4)


def robust_rms(sample):
    return 1.4826 * np.median(np.abs(sample - np.median(sample)))


def test_residual_is_noise(field):
    """Away from masked and saturated cores: as small as the README's noise and as expected, and without outliers.

    Outliers are off by 8 sigma, of the noise or of the residual, whichever is less.
    """
    expected, result = field
    good = seen_pixels(result)
    pull = (result.residual * np.sqrt(result.frame.fit_ivar))[good]
    assert robust_rms(result.residual[good]) < 1.15 * expected.noise
    chi = robust_rms(pull)
    assert expected.chi[0] < chi < expected.chi[1]
    assert np.mean(np.abs(pull) > 8 * min(chi, 1)) < expected.off


def test_light_is_explained(field):
    """The model holds the stars: of the pixels that stood out by 10 sigma from the sky at most 6 % still do.

    Sigma of the noise or of the residual, whichever is less.
    """
    _, result = field
    good, root = seen_pixels(result), np.sqrt(result.frame.fit_ivar)
    pull = result.residual * root
    bright = good & ((result.exposure.data - result.sky) * root > 10)
    assert bright.sum() > 50
    left = np.abs(pull[bright]) > 10 * min(robust_rms(pull[good]), 1)
    assert left.mean() < 0.06


def test_spitzer_fluxes_and_positions(shared_data):
    """Stars of the GLIMPSE catalogue (50-446 mJy, errors 4.6 %): one constant, 5 % robust scatter, 0.3 px.

    Isolated: no other star of at least a quarter of the flux within 4 px, and not saturated. The README's fluxes are
    good to about 5 %, which is the scatter allowed.
    """
    result = fitted("spitzer", str(shared_data))
    listed = Table.read(shared_data / "spitzer_glimpse" / "spitzer_example_catalog.xml", format="votable")
    sky = SkyCoord(np.asarray(listed["l"]), np.asarray(listed["b"]), unit="deg", frame="galactic")
    wcs = WCS(result.exposure.wcs.to_header(relax=True))
    x, y = wcs.world_to_pixel(sky)
    table = result.catalog
    flux = values(table, "flux")
    tree = cKDTree(np.column_stack([values(table, "x"), values(table, "y")]))
    gap, row = tree.query(np.column_stack([x, y]))
    assert np.mean(gap < 1) > 0.9
    near = tree.query_ball_point(tree.data[row], 4.0)
    lone = np.array([sum(flux[k] > 0.25 * flux[r] for k in ks) == 1 for r, ks in zip(row, near, strict=True)])
    usable = (gap < 1) & lone & ~flags.has(table["flags"], "saturated")[row]
    assert usable.sum() > 60
    assert np.median(gap[usable]) < 0.5
    ratio = flux[row[usable]] * 3.3846e-2 / np.asarray(listed["f4_5"], float)[usable]
    middle = np.median(ratio)
    assert 0.85 < middle < 1.15
    # AB magnitudes by the pixel area of the WCS against the Vega magnitudes of the list: 179.7 Jy is 0 mag in Vega
    off = values(table, "mag_cal")[row[usable]] - np.asarray(listed["mag4_5"], float)[usable]
    assert np.median(off) == pytest.approx(8.90 - 2.5 * np.log10(179.7) - 2.5 * np.log10(middle), abs=0.02)
    assert 1.4826 * np.median(np.abs(ratio / middle - 1)) < 0.05


def test_k2_epochs_repeat(shared_data):
    """29 minutes apart, nothing changes: bright stars of both catalogues agree to 3 % and 0.05 px."""
    one, two = (fitted(name, str(shared_data)).catalog for name in ("k2_first", "k2_second"))
    tree = cKDTree(np.column_stack([values(two, "x"), values(two, "y")]))
    gap, row = tree.query(np.column_stack([values(one, "x"), values(one, "y")]))
    first, second = values(one, "flux"), values(two, "flux")[row]
    snr = first / values(one, "flux_err_marginal")
    usable = (gap < 0.5) & (snr > 30) & ~flags.has(one["flags"], "saturated")
    assert usable.sum() > 100
    assert np.median(gap[usable]) < 0.05
    ratio = (second / first)[usable]
    assert abs(np.median(ratio) - 1) < 0.03
    assert robust_rms(ratio / np.median(ratio)) < 0.03


def test_m92_colours(shared_data):
    """P077: stars of B lie where V says, at the README's offset of -4.6, 2.3 px, to 0.2 px."""
    v, b = (fitted(name, str(shared_data)).catalog for name in ("m92_v", "m92_b"))
    tree = cKDTree(np.column_stack([values(v, "x"), values(v, "y")]))
    gap, row = tree.query(np.column_stack([values(b, "x") + 4.6, values(b, "y") - 2.3]))
    bright = values(b, "flux") > 30 * values(b, "flux_err")
    assert bright.sum() > 20
    assert np.mean(gap[bright] < 1.0) > 0.85
    near = bright & (gap < 1.0)
    for axis, shift in (("x", -4.6), ("y", 2.3)):
        assert np.median(values(b, axis)[near] - values(v, axis)[row[near]]) == pytest.approx(shift, abs=0.2)


def test_sky_coordinates(shared_data):
    """P008: ra and dec of a Galactic WCS are those of the stars (l 18, b 0)."""
    table = fitted("spitzer", str(shared_data)).catalog
    where = SkyCoord(table["ra"], table["dec"], unit=u.deg).galactic
    assert np.median(where.l.deg) == pytest.approx(18, abs=0.3)
    assert abs(np.median(where.b.deg)) < 0.3
