"""JWST files: quality bits, pixel areas, what ERR is made of, and what their headers say."""

import logging

import numpy as np
import pytest
from astropy.io import fits

from crowdfit.errors import InputError
from crowdfit.io.dq import DQ_BITS
from crowdfit.io.fits import InputOptions, read_exposure
from tests import jwst_files as files

SKY_NOISE = np.sqrt(files.SKY / files.ELECTRONS + files.READ**2)


def notes_of(exposure):
    return " | ".join(exposure.notes)


@pytest.mark.parametrize("name", ["a_cal.fits", "a_crf.fits.gz"])
def test_cal(tmp_path, name):
    """M002, P007, P010, N001: planes by EXTNAME, keywords of the SCI header, plain and gzipped, with no options."""
    files.write_cal(tmp_path / name)
    exposure = read_exposure(tmp_path / name)
    assert (exposure.unit, exposure.band) == ("MJy/sr", "F444W")
    assert exposure.meta["EXPTIME"] == 42.947  # XPOSURE; EXPOSURE = '1' is a count of requests
    assert exposure.meta["PIXAR_SR"] == files.PIXAR_SR
    # bits that leave the slope good, and reference pixels that do not
    assert exposure.good[20:24, 30:60].all()
    assert exposure.good[40, 50:70].all()
    assert not exposure.good[: files.BORDER].any()
    assert not exposure.good[60, 20]
    assert np.all(exposure.dq[: files.BORDER] & np.uint32(2**31))
    assert exposure.wcs is not None


def test_exposure_number_is_no_time(tmp_path):
    """P007: trap: EXPOSURE counts exposure requests."""
    files.write_cal(tmp_path / "a.fits", primary={"EFFEXPTM": None}, sci={"XPOSURE": None})
    assert "EXPTIME" not in read_exposure(tmp_path / "a.fits").meta


def test_area_is_applied_to_cal(tmp_path):
    """P053, M017: image and errors are multiplied by AREA, so S/N per pixel stays and stars keep their flux."""
    files.write_cal(tmp_path / "a_cal.fits")
    with fits.open(tmp_path / "a_cal.fits") as hdus:
        sci, area = hdus["SCI"].data, hdus["AREA"].data
    exposure = read_exposure(tmp_path / "a_cal.fits")
    plain = read_exposure(tmp_path / "a_cal.fits", InputOptions(area="none"))
    good = exposure.good
    np.testing.assert_allclose(exposure.data[good], (sci * area)[good], rtol=1e-6)
    np.testing.assert_array_equal(plain.data[good], sci[good])
    snr = exposure.data * np.sqrt(exposure.ivar), plain.data * np.sqrt(plain.ivar)
    np.testing.assert_allclose(
        snr[0][good], snr[1][good], rtol=0.1
    )  # the level between the stars is not the same
    assert np.median(snr[0][good] / snr[1][good]) == pytest.approx(1, abs=2e-3)
    assert "pixel area (AREA 0.98" in notes_of(exposure)
    assert "input.area" in notes_of(plain)


@pytest.mark.parametrize("drop", [(), ("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT")])
def test_fluxes_do_not_depend_on_the_pixel_area(tmp_path, drop):
    """P053: the flux of stars is that of the truth all over a field whose pixels differ by 4 % in area."""
    from crowdfit.api import fit_image  # noqa: PLC0415
    from crowdfit.psf.analytic import moffat  # noqa: PLC0415

    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(12.2, 104, 13), np.arange(12.4, 88, 13)))
    stars = x, y, np.full(x.size, 400.0)
    files.write_cal(tmp_path / "a_cal.fits", stars, drop=drop)
    found = fit_image(
        tmp_path / "a_cal.fits", psf=moffat(files.FWHM, 3.0, radius=14), psf_update__kind="none",
        positions=stars, config="forced",
    ).catalog  # fmt: skip
    ratio = found["flux"].value / 400
    slope = np.polyfit(found["x"].value + found["y"].value, ratio, 1)[0] * 170
    assert np.mean(ratio) == pytest.approx(1, abs=0.003)
    assert abs(slope) < 0.008  # 0.035 without AREA


def test_area_is_not_applied_to_i2d(tmp_path):
    """P053: trap: pixels of a resampled image all have one area, even when somebody left an AREA plane in."""
    files.write_i2d(tmp_path / "a_i2d.fits")
    exposure = read_exposure(tmp_path / "a_i2d.fits")
    with fits.open(tmp_path / "a_i2d.fits") as hdus:
        np.testing.assert_array_equal(exposure.data[exposure.good], hdus["SCI"].data[exposure.good])
        hdus.append(fits.ImageHDU(files.area_of(), name="AREA"))
        hdus.writeto(tmp_path / "b_i2d.fits")
    assert not exposure.good[: files.BORDER].any()
    assert "AREA" not in notes_of(exposure)
    beside = read_exposure(tmp_path / "b_i2d.fits")
    np.testing.assert_array_equal(beside.data, exposure.data)
    assert "AREA left out" in notes_of(beside)


def test_missing_area_is_a_warning(tmp_path, caplog):
    files.write_cal(tmp_path / "a_cal.fits", drop=("AREA",))
    with caplog.at_level(logging.WARNING):
        read_exposure(tmp_path / "a_cal.fits")
    assert "no AREA extension" in caplog.text


def test_area_that_is_no_relative_area(tmp_path):
    files.write_cal(tmp_path / "a_cal.fits")
    with fits.open(tmp_path / "a_cal.fits", mode="update") as hdus:
        hdus["AREA"].data = hdus["AREA"].data * np.float32(0.00396)
    with pytest.raises(InputError, match=r"a_cal.fits\[AREA\].*0.00396.*input.area"):
        read_exposure(tmp_path / "a_cal.fits")
    with fits.open(tmp_path / "a_cal.fits", mode="update") as hdus:
        hdus["AREA"].data = np.ones((5, 5), np.float32)
    with pytest.raises(InputError, match=r"\(5, 5\).*input.area"):
        read_exposure(tmp_path / "a_cal.fits")


def test_noise_without_the_photons_of_stars(tmp_path):
    """P059: trap: ERR holds the photons of the stars; VAR_* say which part of it they are."""
    files.write_cal(tmp_path / "a_cal.fits")
    exposure = read_exposure(tmp_path / "a_cal.fits", InputOptions(area="none"))
    assert exposure.gain == pytest.approx(files.ELECTRONS, rel=0.01)
    assert exposure.noise == pytest.approx(SKY_NOISE, rel=0.02)
    bright = exposure.data > 8
    assert bright.sum() > 50
    assert np.median(exposure.ivar[bright]) * SKY_NOISE**2 == pytest.approx(1, rel=0.1)
    # ERR alone has the flat-field term in it, a square of the signal that looks like more photons
    total = read_exposure(tmp_path / "a_cal.fits", InputOptions(area="none", err_ext="ERR"))
    assert total.gain < 0.99 * exposure.gain


def test_noise_where_the_sky_is_subtracted(tmp_path):
    """MIRI: photons of a subtracted background stay in VAR_POISSON, and must stay in the noise."""
    files.write_cal(tmp_path / "a_cal.fits")
    with fits.open(tmp_path / "a_cal.fits", mode="update") as hdus:
        hdus["SCI"].data = hdus["SCI"].data - np.float32(files.SKY)
    exposure = read_exposure(tmp_path / "a_cal.fits", InputOptions(area="none"))
    assert exposure.noise == pytest.approx(SKY_NOISE, rel=0.03)
    assert exposure.gain == pytest.approx(files.ELECTRONS, rel=0.02)


def test_i2d_weights_scaled_to_errors_on_sky(tmp_path):
    """N004, N005, N006: pattern of WHT, scale of ERR on sky pixels; twice the exposure is half the variance."""
    files.write_i2d(tmp_path / "a_i2d.fits")
    exposure = read_exposure(tmp_path / "a_i2d.fits")
    half = files.SHAPE[1] // 2
    deep, shallow = (
        float(np.median(part[part > 0])) for part in (exposure.ivar[:, :half], exposure.ivar[:, half:])
    )
    assert deep / shallow == pytest.approx(2, rel=1e-3)
    assert shallow**-0.5 == pytest.approx(SKY_NOISE, rel=0.03)
    everywhere = read_exposure(tmp_path / "a_i2d.fits", InputOptions(wht_scale_on="all"))
    assert everywhere.noise > exposure.noise  # trap: stars are in most pixels of a crowded field


def test_policies(tmp_path):
    """M003, M005: the same file under each policy; the count is in the notes."""
    files.write_cal(tmp_path / "a_cal.fits")
    with fits.open(tmp_path / "a_cal.fits") as hdus:
        dq = hdus["DQ"].data
        finite = np.isfinite(hdus["SCI"].data)

    def good(**options):
        return read_exposure(tmp_path / "a_cal.fits", InputOptions(**options)).good

    np.testing.assert_array_equal(good(dq_good="strict"), finite & (dq == 0))
    np.testing.assert_array_equal(good(dq_good="notebook"), finite & ((dq & ~np.uint32(6)) == 0))
    np.testing.assert_array_equal(good(dq_good=6), good(dq_good="notebook"))
    np.testing.assert_array_equal(good(dq_good="~JUMP_DET"), finite & ((dq & np.uint32(4)) == 0))
    np.testing.assert_array_equal(good(dq_good=None), finite)
    np.testing.assert_array_equal(good(dq_ignore=(4,)), finite & ((dq & ~np.uint32(4)) == 0))
    assert "flagged in DQ" in notes_of(read_exposure(tmp_path / "a_cal.fits"))
    with pytest.raises(InputError, match="input.dq_good.*codes"):
        good(dq_good="strict", dq="codes")


def test_mask_of_the_user_has_bits_of_its_own(tmp_path):
    """Non-zero is bad in a mask that is given, whatever the policy for the bits of the pipeline says."""
    files.write_cal(tmp_path / "a.fits")
    mask = np.zeros(files.SHAPE, np.uint8)
    mask[30, 40] = 4
    exposure = read_exposure(tmp_path / "a.fits", dq=mask)
    assert not exposure.good[30, 40]
    assert read_exposure(tmp_path / "a.fits", InputOptions(dq_good="4"), dq=mask).good[30, 40]


def test_saturated_cores(tmp_path):
    """P083: trap: SATURATED alone leaves a pixel usable; with DO_NOT_USE it is a lost core, where a star hides."""
    dq = files.quality_of()
    dq[30, 40] |= DQ_BITS["SATURATED"]
    dq[50:53, 40:43] |= DQ_BITS["SATURATED"] | DQ_BITS["DO_NOT_USE"]
    files.write_cal(tmp_path / "a_cal.fits", dq=dq)
    exposure = read_exposure(tmp_path / "a_cal.fits", InputOptions(saturate_grow=0))
    assert exposure.good[30, 40]
    expected = np.zeros(files.SHAPE, bool)
    expected[50:53, 40:43] = True
    np.testing.assert_array_equal(exposure.saturated, expected)


@pytest.mark.parametrize(
    ("primary", "band"),
    [
        ({"FILTER": "F444W", "PUPIL": "F470N"}, "F470N"),
        ({"FILTER": "F150W2", "PUPIL": "F162M"}, "F162M"),
        ({"FILTER": "F444W", "PUPIL": "CLEAR"}, "F444W"),
        ({"INSTRUME": "MIRI", "FILTER": "F770W", "PUPIL": None}, "F770W"),
    ],
)
def test_effective_filter(tmp_path, primary, band):
    """P009: filters in the pupil wheel; FILTER holds the blocker then."""
    files.write_cal(tmp_path / "a_cal.fits", primary=primary)
    assert read_exposure(tmp_path / "a_cal.fits").band == band


@pytest.mark.parametrize(
    ("sip_error", "version", "words"),
    [
        (0.008, "1.20.2", None),
        (0.144, "1.9.4", "0.14 pix"),
        (None, "1.9.4", "0.25 pix"),
        (None, "1.20.2", None),
        (None, None, None),
    ],
)
def test_old_sip_is_a_warning(tmp_path, caplog, sip_error, version, words):
    """M025: SIP polynomials of early pipeline versions were good to 0.25 pix only."""
    files.write_cal(tmp_path / "a.fits", primary={"CAL_VER": version}, sci={"SIPMXERR": sip_error})
    with caplog.at_level(logging.WARNING):
        read_exposure(tmp_path / "a.fits")
    assert ("SIP distortion" in caplog.text) == (words is not None)
    assert words is None or words in caplog.text


def test_pixel_area_of_another_scale(tmp_path, caplog):
    """P008, P009: a mosaic on half the scale with PIXAR_SR of the detector is 1.505 mag off: said, not guessed."""
    with caplog.at_level(logging.WARNING):
        files.write_i2d(tmp_path / "a_i2d.fits")
        read_exposure(tmp_path / "a_i2d.fits")
    assert caplog.text == ""
    half = {"CDELT1": files.SCALE / 2, "CDELT2": files.SCALE / 2}
    files.write_i2d(tmp_path / "b_i2d.fits", sci=half)
    with caplog.at_level(logging.WARNING):
        read_exposure(tmp_path / "b_i2d.fits")
    assert "PIXAR_SR" in caplog.text
    assert "-1.50" in caplog.text


def test_photom_skipped(tmp_path, caplog):
    """P011: trap: a `_cal` file is in DN/s when the photom step was skipped."""
    files.write_cal(
        tmp_path / "a.fits", primary={"S_PHOTOM": "SKIPPED"}, sci={"BUNIT": "DN/s", "PHOTMJSR": None}
    )
    with caplog.at_level(logging.WARNING):
        exposure = read_exposure(tmp_path / "a.fits")
    assert exposure.unit == "adu/s"
    assert "S_PHOTOM = SKIPPED" in caplog.text


def test_subarrays_and_cutouts(tmp_path):
    """A subarray is whole; a cutout is told from SUBSIZE, and its footprint keywords are not to be trusted."""
    files.write_cal(tmp_path / "a.fits", primary={"SUBARRAY": "SUB64P"})
    assert "cut from" not in notes_of(read_exposure(tmp_path / "a.fits"))
    files.write_cal(tmp_path / "b.fits", primary={"SUBSIZE1": 2048, "SUBSIZE2": 2048})
    assert "112 x 96, cut from 2048 x 2048" in notes_of(read_exposure(tmp_path / "b.fits"))


def test_subarray_tells_where_a_psf_grid_begins(tmp_path):
    """SUBSTRT of a whole subarray; that of a cutout says nothing about where it was cut."""
    files.write_cal(tmp_path / "a.fits", primary={"SUBSTRT1": 513, "SUBSTRT2": 257})
    meta = read_exposure(tmp_path / "a.fits").meta
    assert (meta["SUBSTRT1"], meta["SUBSTRT2"]) == (513, 257)
    files.write_cal(tmp_path / "b.fits", primary={"SUBSTRT1": 513, "SUBSIZE1": 2048, "SUBSIZE2": 2048})
    assert "SUBSTRT1" not in read_exposure(tmp_path / "b.fits").meta


def test_field_over_right_ascension_zero(tmp_path):
    """M026: the catalogue has no jump of 360 deg, and matches itself."""
    from crowdfit.catalog import build_catalog  # noqa: PLC0415

    files.write_cal(tmp_path / "a.fits", ra=0.0)
    exposure = read_exposure(tmp_path / "a.fits")
    x = np.array([20.0, 55.5, 90.0])
    table = build_catalog(
        {"id": np.arange(3), "x": x, "y": np.full(3, 47.5), "flux": np.ones(3), "flux_err": np.ones(3)},
        exposure,
    )
    expected = (55.5 - x) * files.SCALE / np.cos(np.radians(30))
    np.testing.assert_allclose(table["ra"].value, expected, atol=0.01 * files.SCALE)


def test_calints_are_refused(tmp_path):
    files.write_cal(tmp_path / "a.fits")
    with fits.open(tmp_path / "a.fits", mode="update") as hdus:
        hdus["SCI"].data = np.stack([hdus["SCI"].data] * 3)
    with pytest.raises(InputError, match="3 integrations.*_cal file"):
        read_exposure(tmp_path / "a.fits")


def test_parts_of_another_shape_are_refused(tmp_path):
    files.write_cal(tmp_path / "a.fits", drop=("AREA",))
    with fits.open(tmp_path / "a.fits", mode="update") as hdus:
        hdus["VAR_RNOISE"].data = np.ones((4, 4), np.float32)
    with pytest.raises(InputError, match=r"a.fits\[VAR_RNOISE\]: has shape \(4, 4\)"):
        read_exposure(tmp_path / "a.fits")


def test_other_telescopes_are_left_alone(tmp_path):
    """No policy and no areas for a file that does not say JWST."""
    files.write_cal(tmp_path / "a.fits", primary={"TELESCOP": "OTHER"})
    exposure = read_exposure(tmp_path / "a.fits")
    assert not exposure.good[40, 50:70].any()
    assert "AREA" not in notes_of(exposure)


def test_science_error_and_weight_cutouts(tmp_path):
    """N001, N004, N005: three gzipped files; 1/sqrt(wht) times the median of err sqrt(wht) on sky pixels."""
    from crowdfit.api import fit_image  # noqa: PLC0415

    files.write_i2d(tmp_path / "a_i2d.fits")
    with fits.open(tmp_path / "a_i2d.fits") as hdus:
        for name in ("SCI", "ERR", "WHT"):
            fits.PrimaryHDU(hdus[name].data, hdus["SCI"].header if name == "SCI" else None).writeto(
                tmp_path / f"{name.lower()}.fits.gz"
            )
    together = read_exposure(tmp_path / "a_i2d.fits")
    options = InputOptions(wht_file=tmp_path / "wht.fits.gz")
    apart = read_exposure(tmp_path / "sci.fits.gz", options, err=tmp_path / "err.fits.gz")
    np.testing.assert_array_equal(apart.ivar, together.ivar)
    assert not apart.good[: files.BORDER].any()
    # detection on this background noise, photometry with the photons of the model on top
    model = np.full(files.SHAPE, 10.0, np.float32)
    ratio = apart.ivar[apart.good] / apart.fit_ivar(model)[apart.good]
    expected = 1 + apart.ivar[apart.good] * 10 / apart.gain
    np.testing.assert_allclose(ratio, expected, rtol=1e-5)
    # weights without errors are inverse variances where the image does not contradict that
    alone = read_exposure(tmp_path / "sci.fits.gz", options)
    weight = fits.getdata(tmp_path / "wht.fits.gz")
    np.testing.assert_allclose(alone.ivar[alone.good], weight[alone.good], rtol=1e-6)
    result = fit_image(
        tmp_path / "sci.fits.gz", tmp_path / "err.fits.gz", psf__fwhm=files.FWHM, stop__max_passes=1,
        input__wht_file=tmp_path / "wht.fits.gz",
    )  # fmt: skip
    np.testing.assert_array_equal(result.exposure.ivar, together.ivar)
    with pytest.raises(InputError, match=r"wht.fits.gz.*err_kind"):
        read_exposure(
            tmp_path / "sci.fits.gz", InputOptions(wht_file=tmp_path / "wht.fits.gz", err_kind="ivar")
        )
    with pytest.raises(InputError, match=r"none.fits: no such file"):
        read_exposure(tmp_path / "sci.fits.gz", InputOptions(wht_file=tmp_path / "none.fits"))
