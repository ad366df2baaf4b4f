"""Zero points from headers and tables, against numbers computed by hand."""

import logging

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from crowdfit.calibration.options import Calibration
from crowdfit.calibration.zeropoints import facts_of, header_zero_point, zero_point_of
from crowdfit.errors import InputError

NIRCAM = {
    "telescop": "JWST", "instrume": "NIRCAM", "detector": "NRCALONG", "band": "F444W", "unit": "MJy/sr",
    "PIXAR_SR": "9.31e-14", "PHOTMJSR": "0.3925", "EXPTIME": "42.947",
}  # fmt: skip


def value(meta, **options):
    return zero_point_of(facts_of(meta), Calibration(**options))


@pytest.mark.parametrize(
    ("area", "expected"),
    [(2.31e-14, 27.99), (2.29e-14, 28.00), (2.26e-14, 28.01), (2.23e-14, 28.03), (9.21e-14, 26.49), (9.24e-14, 26.49)],
)  # fmt: skip
def test_jwst_header(area, expected):
    """P054: ZP_AB = -6.10 - 2.5 log10(PIXAR_SR)."""
    found = value(NIRCAM | {"PIXAR_SR": str(area)})
    assert found.value == pytest.approx(expected, abs=0.006)
    assert found.value == pytest.approx(-6.10 - 2.5 * np.log10(area), abs=1e-6)
    assert (found.system, found.error) == ("AB", 0.05)


def test_jwst_rate_image_with_photmjsr():
    """P011: 1 DN/s is 0.3925 MJy/sr, which is fainter by -2.5 log10(0.3925) = 1.0154 mag."""
    rate, calibrated = value(NIRCAM | {"unit": "adu/s"}), value(NIRCAM)
    assert rate.value - calibrated.value == pytest.approx(1.01538, abs=1e-4)


def test_rate_image_without_photmjsr_has_none():
    meta = {key: item for key, item in NIRCAM.items() if key != "PHOTMJSR"}
    assert value(meta | {"unit": "adu/s"}) is None


def test_pixel_area_of_the_wcs():
    """IRAC mosaics: 1.2 arcsec pixels are 3.3846e-11 sr, so 1 MJy/sr is 33.846 uJy: 20.0762 mag."""
    found = value({"unit": "MJy/sr", "PIXEL_SR": "3.3846e-11"})
    assert found.value == pytest.approx(23.90 - 2.5 * np.log10(33.846), abs=1e-4)
    assert np.isnan(found.error)
    assert "WCS" in found.source


@pytest.mark.parametrize(
    ("unit", "expected"), [("nJy", 31.40), ("uJy", 23.90), ("Jy", 8.90), ("Jy/pix", 8.90)]
)
def test_flux_units(unit, expected):
    assert value({"unit": unit}).value == pytest.approx(expected, abs=1e-6)


def test_hst_header():
    """WFPC2 F555W: STMAG = -2.5 log10(DN/s) + 21.80; counts of 70 s have 2.5 log10(70) = 4.6127 more.

    AB by hand: f_nu = 6.920538e-18 x 5442.9^2 / 2.99792458e18 = 6.8388e-29 for 1 DN/s, 21.8125 mag.
    """
    meta = {"unit": "ct", "PHOTFLAM": "6.920538e-18", "PHOTPLAM": "5442.9", "EXPTIME": "70", "band": "F555W"}
    assert value(meta, system="ST").value == pytest.approx(21.7997 + 4.6127, abs=1e-3)
    assert value(meta).value == pytest.approx(21.8125 + 4.6127, abs=1e-3)
    assert value(meta | {"unit": "electron/s"}).value == pytest.approx(21.8125, abs=1e-3)
    assert value(meta | {"EXPTIME": ""}) is None


def test_zero_point_cards():
    """DECam: MAGZERO is for the image, MAGZPT for one second: 24.842 + 2.5 log10(107) = 29.915."""
    meta = {"unit": "", "EXPTIME": "107", "MAGZPT": "24.842"}
    assert value(meta).value == pytest.approx(29.9155, abs=1e-3)
    assert value(meta | {"MAGZERO": "29.915"}).value == 29.915
    assert value(meta | {"unit": "electron/s"}).value == 24.842
    assert value(meta | {"unit": "MJy/sr"}) is None
    assert value(meta | {"MAGZPT": "0.0", "MAGZERO": "99"}) is None


def test_vega_zero_point():
    """M035: subtracted, with the 0.03 mag by which Vega spectra differ in the error."""
    found = value(NIRCAM, system="Vega")
    assert found.value == pytest.approx(26.4776 - 3.204, abs=1e-3)
    assert found.error == pytest.approx(np.hypot(0.05, 0.03))
    assert value(NIRCAM, system="Vega", vega_offset=3.237).value == pytest.approx(26.4776 - 3.237, abs=1e-3)
    with pytest.raises(InputError, match=r"calibration.vega_offset.*F999W"):
        value(NIRCAM | {"band": "F999W"}, system="Vega")
    # the same word on another telescope is another filter
    with pytest.raises(InputError, match="vega_offset"):
        value(NIRCAM | {"telescop": "HST", "band": "F150W2"}, system="Vega")


def test_given_wins_and_says_so(caplog):
    """P005: trap: a silent override of a header value is a bug."""
    with caplog.at_level(logging.WARNING):
        assert value(NIRCAM, zero_point=26.4, zero_point_err=0.01).value == 26.4
    assert "26.400 (given) is used, not the 26.478 of the header" in caplog.text
    assert value({}, zero_point=25.0).value == 25.0
    assert value({}) is None


def test_table(tmp_path):
    """P054, P084: one row a filter, or a filter and detector."""
    path = tmp_path / "zp.csv"
    path.write_text(
        "filter,detector,zero_point,zero_point_err\nF444W,NRCALONG,26.45,0.01\nF444W,NRCBLONG,26.5,0.02\nF277W,ANY,26.4,0.02\n"
    )
    found = value(NIRCAM, zero_points=path)
    assert (found.value, found.error) == (26.45, 0.01)
    assert value(NIRCAM | {"band": "F277W"}, zero_points=path).value == 26.4
    with pytest.raises(InputError, match=r"zp.csv: has no row for filter F150W.*F277W, F444W"):
        value(NIRCAM | {"band": "F150W"}, zero_points=path)
    with pytest.raises(InputError, match="names no FILTER"):
        value(NIRCAM | {"band": ""}, zero_points=path)
    with pytest.raises(InputError, match="no such file"):
        value(NIRCAM, zero_points=tmp_path / "none.csv")
    path.write_text("filter,zp\nF444W,1\n")
    with pytest.raises(InputError, match="no column zero_point or photmjsr; it has filter, zp"):
        value(NIRCAM, zero_points=path)


def photom(path, **columns):
    table = Table(columns)
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(table, name="PHOTOM")]).writeto(path)
    return path


def test_newer_photom_file(tmp_path):
    """R002: the ratio new / old PHOTMJSR: 0.402 / 0.3925 is 0.0260 mag brighter; filters stand in either wheel."""
    path = photom(
        tmp_path / "photom.fits",
        filter=["F444W", "F444W", "F150W"], pupil=["F470N", "CLEAR", "CLEAR"], photmjsr=[14.08, 0.402, 2.333],
        uncertainty=[0.1, 0.00402, 0.02],
    )  # fmt: skip
    new, old = value(NIRCAM, zero_points=path), value(NIRCAM)
    assert old.value - new.value == pytest.approx(2.5 * np.log10(0.402 / 0.3925), abs=1e-9)
    assert old.value - new.value == pytest.approx(0.02597, abs=1e-4)
    assert new.error == pytest.approx(0.01 * 1.0857, rel=1e-3)
    narrow = NIRCAM | {"band": "F470N", "PHOTMJSR": "14.0"}
    assert value(narrow).value - value(narrow, zero_points=path).value == pytest.approx(0.00619, abs=1e-4)
    with pytest.raises(InputError, match="no PHOTMJSR"):
        value({key: item for key, item in NIRCAM.items() if key != "PHOTMJSR"}, zero_points=path)


def test_nothing_from_an_unknown_unit():
    assert header_zero_point(facts_of({"unit": "parsec", "MAGZERO": "25"})) is None
