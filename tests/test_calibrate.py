"""Calibrated columns: magnitudes and every part of the error budget against sums done by hand."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.io.votable.ucd import parse_ucd
from astropy.table import QTable, Table

from crowdfit.api import fit_image
from crowdfit.calibration.calibrate import calibrate, prepare
from crowdfit.calibration.columns import CALIBRATED_COLUMNS
from crowdfit.calibration.options import Calibration
from crowdfit.cli import main
from crowdfit.errors import InputError
from crowdfit.io.tables import read_catalog, write_catalog
from crowdfit.match import match_positions
from crowdfit.psf.analytic import moffat
from tests import jwst_files as files

NIRCAM = {
    "telescop": "JWST", "instrume": "NIRCAM", "band": "F444W", "unit": "MJy/sr", "PIXAR_SR": "9.31e-14",
    "PHOTMJSR": "0.3925",
}  # fmt: skip


def catalog(meta=NIRCAM, **columns):
    flux = [100.0, 50.0, -3.0]
    base = {
        "flux": u.Quantity(flux, "MJy/sr"), "flux_err": u.Quantity([2.0, 2.0, 2.0], "MJy/sr"),
        "flux_err_marginal": u.Quantity([2.5, 2.0, 2.0], "MJy/sr"), "fwhm": [2.36, 2.36, 2.36] * u.pix,
    }  # fmt: skip
    return QTable(base | columns, meta=dict(meta))


def test_columns_are_documented():
    """P058, P064, P076: unit, meaning and a valid UCD of each."""
    for entry in CALIBRATED_COLUMNS:
        parse_ucd(entry.ucd, check_controlled_vocabulary=True, has_colon=True)
        assert len(entry.text) > 8
    table = calibrate(catalog())
    assert table.colnames[4:] == [entry.name for entry in CALIBRATED_COLUMNS]
    assert table["flux_cal"].unit == u.uJy
    assert table["mag_cal"].info.meta["ucd"] == "phot.mag"


def test_header_calibration():
    """100 MJy/sr x 9.31e-14 sr = 9.31 uJy = 21.4776 mag AB; 2 % of noise is 0.0217 mag."""
    table = calibrate(catalog())
    assert table["flux_cal"][0].value == pytest.approx(9.31, rel=1e-5)
    assert table["flux_cal_err"][0].value == pytest.approx(0.1862, rel=1e-5)
    assert table["mag_cal"][0].value == pytest.approx(21.47763, abs=1e-4)
    assert table["mag_cal_err"][0].value == pytest.approx(0.0217147, abs=1e-6)
    assert np.isnan(table["mag_cal"][2].value)
    assert table["flux_cal"][2].value == pytest.approx(-0.2793, rel=1e-5)
    assert (table.meta["mag_system"], table.meta["zero_point"]) == ("AB", "26.477626")


@pytest.mark.parametrize(("system", "mag"), [("AB", 21.47763), ("Vega", 18.27363), ("ST", 26.00419)])
def test_systems(system, mag):
    """M035: flux densities do not depend on the system; ST at 4.404 um is 5 log10(44040 / 5475.4) = 4.5274 fainter."""
    table = calibrate(catalog(), Calibration(system=system))
    assert table["mag_cal"][0].value == pytest.approx(mag, abs=2e-3)
    assert table["flux_cal"][0].value == pytest.approx(9.31, rel=1e-5)


def test_order_of_corrections():
    """Total light is brighter, extinction makes bright again, a colour term adds: all by hand.

    21.4776 - 0.1 + 0.05 x (1.5 - 1.0) - 0.1 x 3.1 = 21.0926
    """
    options = Calibration(
        aperture_correction=0.1, ebv=0.1, extinction=3.1, colour="b-v", colour_term=0.05, colour_pivot=1.0
    )
    table = calibrate(catalog(b=[2.0, 1.0, 1.0], v=[0.5, 0.0, 0.0]), options)
    assert table["mag_cal"][0].value == pytest.approx(21.47763 - 0.1 + 0.025 - 0.31, abs=1e-4)
    assert table["flux_cal"][0].value == pytest.approx(9.31 * 10 ** (0.4 * (0.1 - 0.025 + 0.31)), rel=1e-5)


def test_error_budget():
    """P060 to P064: each part in its own column, the systematic ones apart; sums by hand for the first star.

    random 1.0857 x 2 / 100 x 1.5 = 0.032572; blend 1.0857 x sqrt(2.5^2 - 2^2) / 100 = 0.016286;
    sky 1.0857 x 4 pi x 0.1 / 100 = 0.013644; psf 1.0857 x 0.01; aperture 0.02; colour 0.5 x 0.04; ext. 0.31 x 0.1
    """
    options = Calibration(
        noise_factor=1.5, sky_err=0.1, psf_err=0.01, aperture_correction_err=0.02, colour="c", colour_term=0.05,
        colour_term_err=0.04, colour_pivot=1.0, ebv=0.1, extinction=3.1, ebv_err=0.1, zero_point_err=0.05,
    )  # fmt: skip
    row = calibrate(catalog(c=[1.5, 1.0, 1.0]), options)[0]
    found = {name: row[name].value for name in row.colnames if "mag" in name}
    expected = {
        "mag_cal_err": 0.032572, "mag_err_blend": 0.016286, "mag_err_sky": 0.013644, "mag_err_psf": 0.010857,
        "mag_err_aperture": 0.02, "mag_err_colour": 0.02, "mag_err_extinction": 0.031, "mag_err_zero_point": 0.05,
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3), name
    sys = np.sqrt(0.010857**2 + 0.02**2 + 0.02**2 + 0.031**2 + 0.05**2)
    assert found["mag_err_sys"] == pytest.approx(sys, rel=1e-3)
    total = np.sqrt(0.032572**2 + 0.016286**2 + 0.013644**2 + sys**2)
    assert found["mag_err_total"] == pytest.approx(total, rel=1e-3)


def test_parts_that_are_not_known_are_left_out():
    """An unknown zero-point error is NaN in its column, not 0, and does not make the sum NaN."""
    row = calibrate(catalog({"unit": "uJy"}))[0]
    assert np.isnan(row["mag_err_zero_point"])
    assert np.isnan(row["mag_err_sky"])
    assert row["mag_err_sys"].value == 0
    assert row["mag_err_total"].value == pytest.approx(np.hypot(0.0217147, 0.016286), rel=1e-3)


def test_sky_error_is_measured():
    """P063: the scatter of flux_lbs beyond what a free constant costs, for a sky that adds 4.

    In a stamp of 4 x 4 FWHM the constant costs n_eff / 16 FWHM^2 = 0.141 of the variance of flux_lbs.
    """
    rng = np.random.default_rng(2)
    n = 4000
    flux = rng.uniform(10, 35, n)
    cost = 3.0 * np.sqrt(0.141)
    free = flux + rng.normal(0, cost, n) + rng.normal(0, 4.0, n)
    table = QTable(
        {"flux": flux, "flux_err": np.full(n, 2.0), "flux_lbs": free, "flux_lbs_err": np.full(n, 3.0)}, meta=NIRCAM
    )  # fmt: skip
    found = calibrate(table)["mag_err_sky"].value * flux / 1.0857362
    np.testing.assert_allclose(found, 4.0, rtol=0.07)
    table["flux_lbs"] = flux + rng.normal(0, cost, n)
    assert np.median(calibrate(table)["mag_err_sky"].value * flux) < 1.0


def test_parts_of_a_fit_are_counted_once():
    """P064: `flux_err` of a fit is the sum of its parts, so the budget adds up to it and to nothing more.

    parts 2, sqrt(2.5^2 - 2^2) = 1.5, 1.2, 0.9 and 1.0: 1.0857 / 100 x each; in quadrature sqrt(10.5) = 3.24.
    """
    rng = np.random.default_rng(4)
    n = 100
    parts = {"isolated": 2.0, "marginal": 2.5, "sky": 1.2, "psf": 0.9, "confusion": 1.0}
    columns = {f"flux_err_{name}": np.full(n, value) for name, value in parts.items()}
    total = np.sqrt(2.5**2 + 1.2**2 + 0.9**2 + 1.0**2)
    # what a fit without parts would take for the error of the sky
    columns |= {"flux_lbs": 100 + rng.normal(0, 5, n), "flux_lbs_err": np.full(n, 3.0)}
    table = QTable({"flux": np.full(n, 100.0), "flux_err": np.full(n, total), **columns}, meta=NIRCAM)
    row = calibrate(table, Calibration(zero_point_err=0.0))[0]
    one = 1.0857362 / 100
    found = [row[f"mag_{name}"].value for name in ("cal_err", "err_blend", "err_sky", "err_psf", "err_total")]
    expected = [2.0, np.sqrt(1.5**2 + 1.0**2), 1.2, 0.9, total]
    np.testing.assert_allclose(found, one * np.array(expected), rtol=1e-5)
    assert row["flux_cal_err"].value / row["flux_cal"].value == pytest.approx(total / 100)
    noisy = calibrate(table, Calibration(noise_factor=2.0, sky_err=0.0, zero_point_err=0.0), "t")
    assert noisy["mag_cal_err"][0].value == pytest.approx(2 * 2.0 * one, rel=1e-5)


def test_stars_without_colour():
    """They get the term of the median colour, and the spread of colours as an error."""
    rng = np.random.default_rng(1)
    colour = rng.normal(1.2, 0.4, 301)
    colour[:20] = np.nan
    table = QTable({"flux": np.full(301, 10.0), "flux_err": np.ones(301), "c": colour}, meta=NIRCAM)
    table = calibrate(table, Calibration(colour="c", colour_term=0.1))
    plain = 26.477626 - 2.5
    np.testing.assert_allclose(table["mag_cal"].value[:20], plain + 0.1 * np.nanmedian(colour), atol=1e-5)
    np.testing.assert_allclose(table["mag_err_colour"].value[:20], 0.04, rtol=0.15)
    assert np.all(table["mag_err_colour"].value[20:] == 0)


def test_aperture_fluxes():
    """Another column than the flux of the fit, with its own error; what is not known of it stays out."""
    table = calibrate(catalog(flux_ap=[200.0, 1, 1], flux_ap_err=[4.0, 1, 1]), Calibration(flux="flux_ap"))
    assert table["mag_cal"][0].value == pytest.approx(21.47763 - 2.5 * np.log10(2), abs=1e-4)
    assert np.isnan(table["mag_err_blend"][0])
    with pytest.raises(InputError, match="has no column nothing; it has flux, flux_err"):
        calibrate(catalog(), Calibration(flux="nothing"))


def test_apertures_have_errors_of_their_own():
    """Columns of `crowdfit fit`: aper_flux_2fwhm goes with aper_flux_err_2fwhm, not with the error of the fit."""
    columns = {"aper_flux_2fwhm": [200.0, 1, 1], "aper_flux_err_2fwhm": [4.0, 1, 1]}
    table = calibrate(catalog(**columns), Calibration(flux="aper_flux_2fwhm", aperture_correction=0.1))
    assert table["mag_cal_err"][0].value == pytest.approx(1.0857 * 4 / 200, rel=1e-3)
    assert table["mag_cal"][0].value == pytest.approx(21.47763 - 2.5 * np.log10(2) - 0.1, abs=1e-4)


def test_tables_and_maps(tmp_path):
    """M033, M036, P057, P076: APCORR 1 / 0.8 = 0.2423 mag, E(B-V) 0.2 from a map x 2 = 0.4 mag; checksums are kept."""
    header = fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": -30.0, "CRPIX1": 3.0, "CRPIX2": 3.0,
         "CDELT1": -0.1, "CDELT2": 0.1}
    )  # fmt: skip
    fits.PrimaryHDU(np.full((5, 5), 0.2), header).writeto(tmp_path / "ebv.fits")
    rows = Table(
        rows=[("F444W", "CLEAR", 0.8, 4.0, 1.3, 5.0, 8.0), ("F444W", "CLEAR", 0.5, 1.5, 2.1, 5.0, 8.0)],
        names=("filter", "pupil", "eefraction", "radius", "apcorr", "skyin", "skyout"),
    )
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(rows, name="APCORR")]).writeto(tmp_path / "apcorr.fits")
    options = Calibration(
        apcorr=tmp_path / "apcorr.fits", aperture_radius=4.0, ebv=tmp_path / "ebv.fits", extinction=2.0
    )
    stars = catalog(ra=[10.0, 10.01, 9.99], dec=[-30.0, -30.01, -29.9])
    table = calibrate(stars, options)
    assert table["mag_cal"][0].value == pytest.approx(21.47763 - 0.24228 - 0.4, abs=1e-4)
    files_used = {line.split()[1] for line in table.meta["calibration_files"].splitlines()}
    assert files_used == {"apcorr.fits", "ebv.fits"}
    own = Calibration(apcorr=tmp_path / "apcorr.fits", eefraction=0.8, sky_annulus=(5.0, 8.0))
    assert calibrate(stars, own)["mag_cal"][0].value == pytest.approx(
        21.47763 - 2.5 * np.log10(1.3), abs=1e-4
    )


def test_extinction_by_the_curve():
    """P057: F444W, E(B-V) = 1: 3.1 x 0.0327 = 0.1014 mag; trap: tables that end at 3 um give 0."""
    pytest.importorskip("dust_extinction")
    off = calibrate(catalog())["mag_cal"] - calibrate(catalog(), Calibration(ebv=1.0))["mag_cal"]
    assert off[0].value == pytest.approx(0.1014, abs=2e-4)


def test_columns_command_prints_those_of_a_calibration(capsys):
    assert main(["columns", "--calibrated"]) == 0
    out = capsys.readouterr().out
    assert all(entry.name in out and entry.text in out for entry in CALIBRATED_COLUMNS)


def test_refusals():
    """P103: what is missing and how to mend it; nothing is asked for, nothing is refused."""
    assert prepare({"unit": "adu"}, Calibration()) is None
    with pytest.raises(
        InputError, match=r"no zero point in the header \(image unit adu.*calibration.zero_point"
    ):
        prepare({"unit": "adu"}, Calibration(ebv=0.1, extinction=1.0))
    with pytest.raises(InputError, match="told no zero point"):
        calibrate(catalog({"unit": "adu"}))
    with pytest.raises(InputError, match="calibration.wavelength"):
        prepare({"unit": "Jy", "band": "g"}, Calibration(ebv=0.1))


def test_calibrating_again_replaces_the_columns():
    once = calibrate(catalog())
    twice = calibrate(once, Calibration(aperture_correction=0.1))
    assert twice.colnames == once.colnames
    assert (once["mag_cal"] - twice["mag_cal"])[0].value == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["c.fits", "c.ecsv", "c.csv", "c.vot"])
def test_files_keep_what_calibration_needs(tmp_path, name):
    """P075, P076: a catalogue read from any format calibrates to the same numbers."""
    table = calibrate(catalog())
    table["id"] = np.arange(3)
    write_catalog(table, tmp_path / name)
    again = calibrate(read_catalog(tmp_path / name), Calibration(system="Vega"))
    assert again["mag_cal"][0].value == pytest.approx(18.27363, abs=1e-4)


@pytest.mark.parametrize("write", [files.write_cal, files.write_i2d])
def test_fit_of_a_jwst_file_needs_no_settings(tmp_path, write):
    """P053, P054: AB magnitudes of `_cal` and `_i2d` files are those of the truth, with nothing said."""
    stars = write(tmp_path / "a.fits", files.stars_of(40, bright=600.0, faint=60.0))
    found = fit_image(
        tmp_path / "a.fits", psf=moffat(files.FWHM, 3.0, radius=14), psf_update__kind="none"
    ).catalog
    pairs = match_positions((found["x"].value, found["y"].value), stars[:2], 0.7)
    truth = -6.10 - 2.5 * np.log10(stars[2] * files.PIXAR_SR)
    off = found["mag_cal"].value[pairs.first] - truth[pairs.second]
    alone = found["fracflux"][pairs.first] > 0.9
    assert np.count_nonzero(alone) > 20
    assert np.median(off[alone]) == pytest.approx(0, abs=0.005)
    assert np.median(np.abs(off[alone])) < 0.02


def test_fit_without_a_zero_point_stays_instrumental():
    """Nothing is added, nothing refused, and what cannot work is refused before the fit."""
    rng = np.random.default_rng(0)
    image = rng.normal(100, 5, (64, 64))
    with pytest.raises(InputError, match="no zero point in the header"):
        fit_image(image, calibration__ebv=0.1, calibration__extinction=1.0)
    given = fit_image(image, calibration__zero_point=25.0, psf__fwhm=3.0, stop__max_passes=2)
    assert "mag_cal" in given.catalog.colnames
    plain = fit_image(image, psf__fwhm=3.0, stop__max_passes=2)
    assert "mag_cal" not in plain.catalog.colnames


def test_fit_is_not_lost_for_a_calibration(caplog):
    """P103: what is missing is known only once the catalogue is there; the work is kept."""
    image = np.random.default_rng(0).normal(100, 5, (64, 64))
    result = fit_image(
        image, psf__fwhm=3.0, stop__max_passes=1, calibration__zero_point=25.0, calibration__colour="b-v"
    )
    assert "mag_cal" not in result.catalog.colnames
    assert "has no column b" in caplog.text
    assert "crowdfit calibrate" in caplog.text
