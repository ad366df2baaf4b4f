"""The writer of synthetic JWST files: what a reader of real ones relies on is there, and its noise is that of ERR."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from crowdfit.errors import InputError
from crowdfit.io.dq import DQ_BITS
from crowdfit.io.jwst_writer import BORDER, Camera, area_of, quality_of, write_cal, write_i2d

SHAPE = (80, 100)
SKY = 2.0


def test_cal_has_the_structure_of_a_real_file(tmp_path):
    """P007: extensions by name and order, units, time, and quality bits that hide a pixel."""
    camera = Camera(instrument="MIRI", detector="MIRIMAGE", filter="F770W", extra={}, exptime=120.0)
    path = write_cal(tmp_path / "a_cal.fits", np.zeros(SHAPE), SKY, camera)
    with fits.open(path) as hdus:
        names = [hdu.name for hdu in hdus]
        head, sci, dq = hdus[0].header, hdus["SCI"].header, hdus["DQ"].data
        lost = (dq & DQ_BITS["DO_NOT_USE"]) != 0
        np.testing.assert_array_equal(np.isnan(hdus["SCI"].data), lost)
        assert dq.dtype == np.uint32
        np.testing.assert_allclose(hdus["AREA"].data, area_of(SHAPE))
    assert names == ["PRIMARY", "SCI", "ERR", "DQ", "AREA", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT"]
    assert (head["TELESCOP"], head["INSTRUME"], head["FILTER"]) == ("JWST", "MIRI", "F770W")
    assert (sci["BUNIT"], sci["XPOSURE"]) == ("MJy/sr", 120.0)
    assert sci["PIXAR_A2"] == pytest.approx(sci["PIXAR_SR"] / 2.350443e-11, abs=1e-5)
    assert lost[:BORDER].all()
    np.testing.assert_array_equal(dq, quality_of(SHAPE))


def test_light_is_divided_by_the_area(tmp_path):
    """P053: a source of flux f in MJy/sr of the average pixel has surface brightness f / AREA."""
    light = np.full(SHAPE, 1e4)
    path = write_cal(tmp_path / "a_cal.fits", light, 0.0, Camera(electrons=1e6))
    with fits.open(path) as hdus:
        scaled = hdus["SCI"].data * hdus["AREA"].data
    np.testing.assert_allclose(scaled[np.isfinite(scaled)], 1e4, rtol=1e-3)


@pytest.mark.parametrize("write", [write_cal, write_i2d])
def test_noise_is_that_of_the_errors(tmp_path, write):
    with fits.open(write(tmp_path / "a.fits", np.zeros(SHAPE), SKY)) as hdus:
        err = hdus["ERR"].data
        parts = sum(hdus[name].data for name in ("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT"))
        seen = np.isfinite(err)
        np.testing.assert_allclose(err[seen] ** 2, parts[seen], rtol=1e-5)
        # the flat-field error stands in ERR but is no noise from pixel to pixel here
        pull = (hdus["SCI"].data - SKY) / np.sqrt(hdus["VAR_POISSON"].data + hdus["VAR_RNOISE"].data)
    good = np.isfinite(pull)
    assert np.std(pull[good]) == pytest.approx(1, abs=4 / np.sqrt(2 * good.sum()))


def test_i2d_is_deeper_where_there_are_more_exposures(tmp_path):
    depth = np.where(np.arange(SHAPE[1]) < 50, 4.0, 1.0)
    with fits.open(write_i2d(tmp_path / "a_i2d.fits", np.zeros(SHAPE), SKY, depth=depth)) as hdus:
        assert [hdu.name for hdu in hdus][:5] == ["PRIMARY", "SCI", "ERR", "CON", "WHT"]
        err, weight = hdus["ERR"].data, hdus["WHT"].data
    assert (weight[:BORDER] == 0).all()
    assert np.isnan(err[:, -BORDER:]).all()
    assert np.nanmedian(err[:, 50:]) / np.nanmedian(err[:, :50]) == pytest.approx(2, rel=0.03)


def test_pointing(tmp_path):
    """The named point of the sky lies as many pixels from the middle as said."""
    path = write_cal(tmp_path / "a_cal.fits", np.zeros(SHAPE), SKY, ra=20.0, dec=5.0, centre=(6.0, -3.0))
    with fits.open(path) as hdus:
        header = hdus["SCI"].header
    x, y = WCS(header).world_to_pixel_values(20.0, 5.0)
    assert (float(x), float(y)) == pytest.approx((49.5 + 6, 39.5 - 3), abs=1e-3)


def test_cards_and_extensions_are_changed_and_left_out(tmp_path):
    path = write_cal(
        tmp_path / "a.fits.gz", np.zeros(SHAPE), SKY, primary={"CAL_VER": None}, sci={"PHOTMJSR": 7.0}, drop=("AREA",)
    )  # fmt: skip
    with fits.open(path) as hdus:
        assert "CAL_VER" not in hdus[0].header
        assert hdus["SCI"].header["PHOTMJSR"] == 7.0
        assert "AREA" not in hdus


@pytest.mark.parametrize("shape", [(10, 100), (80,)])
def test_what_is_no_image_is_refused(tmp_path, shape):
    with pytest.raises(InputError, match="light: shape"):
        write_cal(tmp_path / "a.fits", np.zeros(shape), SKY)
    assert not (tmp_path / "a.fits").exists()
