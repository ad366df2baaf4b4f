"""Reading: conventions, what headers say, and odd files that must work."""

import logging
import lzma
import subprocess
import sys

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.nddata.nduncertainty import UnknownUncertainty
from astropy.wcs import WCS

from crowdfit.errors import InputError
from crowdfit.io.fits import InputOptions, exposure_from_arrays, exposure_from_nddata, read_exposure
from crowdfit.io.hdus import file_stem, sha256_of
from tests.files import SHAPE, simple, sky, write, write_planes


def test_planes_by_extname(triplet):
    """P004, C034: SCI, ERR, DQ by name; every flagged pixel is unusable; the flags travel on."""
    exposure = read_exposure(triplet)
    np.testing.assert_array_equal(exposure.data[exposure.good], sky()[exposure.good])
    assert exposure.ivar[0, 0] == pytest.approx(1 / 25)
    assert np.argwhere(~exposure.good).tolist() == [[5, 6], [7, 8], [9, 10]]
    assert exposure.dq[9, 10] == 2**31
    assert exposure.dq.dtype == np.uint32
    assert exposure.name == "t"
    assert exposure.meta["SHA256"] == sha256_of(triplet)
    assert exposure.meta["EXTENSION"] == "SCI"


@pytest.mark.parametrize(
    ("options", "bad"),
    [
        ({"dq_ignore": (1,)}, 2),
        ({"dq_ignore": (5,)}, 1),
        ({"dq_ignore": (1, 4, 2**31)}, 0),
        ({"dq": "none"}, 0),
        ({"dq": "codes", "dq_ignore": (5,)}, 3),
        ({"dq": "codes", "dq_ignore": (1, 4)}, 1),
    ],
)
def test_dq_policy(triplet, options, bad):
    exposure = read_exposure(triplet, InputOptions(**options))
    assert np.count_nonzero(~exposure.good) == bad
    assert np.count_nonzero(exposure.dq) == 3


def test_first_image_without_extname(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.zeros(3))])
    path = write(tmp_path / "f.fits", table, fits.ImageHDU(sky()), fits.ImageHDU(sky(seed=1)))
    np.testing.assert_array_equal(read_exposure(path).data, sky())
    second = read_exposure(path, InputOptions(sci_ext=3))
    np.testing.assert_array_equal(second.data, sky(seed=1))


def test_extensions_by_name_number_and_version(tmp_path):
    """Two chips in one file: the planes of the chosen chip belong together."""
    hdus = []
    for version in (1, 2):
        hdus += [
            fits.ImageHDU(sky(seed=version), name="SCI", ver=version),
            fits.ImageHDU(np.full(SHAPE, float(version)), name="ERR", ver=version),
        ]
    path = write(tmp_path / "chips.fits", *hdus)
    assert read_exposure(path).ivar[0, 0] == 1
    second = read_exposure(path, InputOptions(sci_ext=3))
    assert second.ivar[0, 0] == pytest.approx(0.25)
    np.testing.assert_array_equal(second.data, sky(seed=2))
    assert read_exposure(path, InputOptions(err_ext=4)).ivar[0, 0] == pytest.approx(0.25)
    assert read_exposure(path, InputOptions(sci_ext="sci", err_ext="err")).ivar[0, 0] == 1


def test_weights_with_errors(tmp_path):
    """N005: weights give the pattern, errors the scale, on sky pixels unless told otherwise."""
    rng = np.random.default_rng(2)
    data, weight = rng.normal(0, 1, (100, 100)), np.full((100, 100), 7.0)
    weight[:, 50:] = 14.0
    rms = np.where(weight == 7, 1.0, np.sqrt(0.5))
    data *= rms
    err = 2 * rms
    stars = rng.random((100, 100)) < 0.6  # most pixels hold stars, and their errors
    data[stars] += 30
    err[stars] *= 3
    path = write_planes(tmp_path / "w.fits", SCI=data, ERR=err, WHT=weight)
    on_sky = read_exposure(path)
    assert 1 / np.sqrt(on_sky.ivar[0, 0]) == pytest.approx(2, rel=1e-5)
    assert on_sky.ivar[0, 60] == pytest.approx(2 * on_sky.ivar[0, 0])
    everywhere = read_exposure(path, InputOptions(wht_scale_on="all"))
    assert 1 / np.sqrt(everywhere.ivar[0, 0]) > 4
    only_err = read_exposure(path, InputOptions(err_ext="ERR", err_holds="sky"))
    np.testing.assert_allclose(1 / np.sqrt(only_err.ivar), err, rtol=1e-5)
    only_weight = read_exposure(path, InputOptions(wht_ext="WHT"))
    assert any("weights" in note for note in only_weight.notes)
    assert not any("ERR" in note for note in only_weight.notes)


def test_planes_in_other_files(tmp_path, triplet):
    weight = tmp_path / "weight.fits"
    write(weight, fits.ImageHDU(np.full(SHAPE, 0.16), name="WHT"))
    codes = np.zeros(SHAPE, np.int16)
    codes[1, 2] = 3
    quality = simple(tmp_path / "dq.fits", codes)
    exposure = read_exposure(triplet, err=weight, dq=quality)
    assert exposure.ivar[0, 0] == pytest.approx(0.16)
    assert np.argwhere(~exposure.good).tolist() == [[1, 2]]
    arrays = read_exposure(triplet, err=np.full(SHAPE, 2.0), dq=codes)
    assert arrays.ivar[0, 0] == pytest.approx(0.25)


def test_header_facts(tmp_path):
    """P005, P010: image header first, then the primary one."""
    primary = fits.PrimaryHDU()
    primary.header.update({"GAIN": 9.0, "EXPTIME": 30.0, "FILTER": "V", "CRDS_CTX": "jwst_1046.pmap"})
    image = fits.ImageHDU(sky(), fits.Header({"GAIN": 2.0, "RDNOISE": 4.0, "SATURATE": 5e4, "BUNIT": "ADU"}))
    exposure = read_exposure(write(tmp_path / "h.fits", image, primary=primary))
    assert exposure.gain == 2
    assert exposure.unit == "adu"
    assert exposure.band == "V"
    assert exposure.meta["EXPTIME"] == 30
    assert exposure.meta["SATURATE"] == 5e4
    assert exposure.meta["CRDS_CTX"] == "jwst_1046.pmap"
    assert 1 / exposure.ivar[0, 0] == pytest.approx(100 / 2 + 4, rel=0.1)


def test_options_win_over_the_header_and_say_so(tmp_path):
    """P005: a silent override is a bug."""
    path = simple(tmp_path / "o.fits", GAIN=2.0, RDNOISE=4.0)
    exposure = read_exposure(path, InputOptions(gain=3.0, rdnoise=4.0))
    assert exposure.gain == 3
    assert [note for note in exposure.notes if "header" in note] == [
        "gain = 3 as configured, not 2 as in the header"
    ]


@pytest.mark.parametrize(
    ("cards", "gain"),
    [
        ({"GAIN": 2.0, "BUNIT": "COUNTS"}, 2.0),
        ({"GAIN": 2.0, "BUNIT": "electron"}, 1.0),
        ({"GAIN": 2.0, "BUNIT": "DN/s", "EXPTIME": 50.0}, 100.0),
        ({"BUNIT": "ELECTRONS/S", "EXPTIME": 50.0}, 50.0),
        ({"GAIN": 2.0, "BUNIT": "MJy/sr", "EXPTIME": 50.0}, np.inf),
        ({"GAINA": 3.0, "GAINB": 4.0}, 3.5),
        ({"GAIN": ""}, np.inf),
        ({"GAIN": "unknown", "EGAIN": 1.5}, 1.5),
        ({"GAIN": "2.5"}, 2.5),
        ({"GAIN": 0.0}, np.inf),
        ({"GAIN": 1e300, "EGAIN": 1.5}, 1.5),
    ],
)
def test_gain_is_per_image_unit(tmp_path, cards, gain):
    """P010: the gain of a header is per count; in another unit it does not apply."""
    exposure = read_exposure(simple(tmp_path / "g.fits", **cards))
    assert exposure.gain == pytest.approx(gain)
    if cards.get("GAIN") == "unknown":
        assert any("GAIN = 'unknown' ignored" in note for note in exposure.notes)
    if cards.get("BUNIT") == "MJy/sr":
        assert any("input.gain" in note for note in exposure.notes)


def test_broken_header_cards_are_passed_over(tmp_path):
    path = tmp_path / "b.fits"
    simple(path, GAIN=1.0, EXPTIME=30.0)
    raw = path.read_bytes().replace(b"GAIN    =                  1.0", b"GAIN    = 1.2.3 'a            ")
    path.write_bytes(raw)
    exposure = read_exposure(path)
    assert np.isinf(exposure.gain)
    assert exposure.meta["EXPTIME"] == 30


@pytest.mark.parametrize(
    ("cards", "band"),
    [
        ({"FILTER": "F444W", "PUPIL": "CLEAR"}, "F444W"),
        ({"FILTER": "F444W", "PUPIL": "F470N"}, "F470N"),
        ({"FILTER1": "CLEAR1L", "FILTER2": "F814W"}, "F814W"),
        ({"FILTER1": 25, "FILTNAM1": "F555W"}, "F555W"),
        ({"FILTER": "z DECam SDSS c0004 9260.0 1520.0", "BAND": "z"}, "z"),
        ({}, ""),
    ],
)
def test_filter(tmp_path, cards, band):
    """P007: the pupil wheel holds some filters."""
    assert read_exposure(simple(tmp_path / "b.fits", **cards)).band == band


@pytest.mark.parametrize("frame", [("RA---TAN", "DEC--TAN"), ("GLON-CAR", "GLAT-CAR")])
def test_wcs(tmp_path, frame):
    """P008, N003: pixels count from 0; a Galactic WCS works like any other."""
    cards = {
        "CTYPE1": frame[0],
        "CTYPE2": frame[1],
        "CRVAL1": 10.0,
        "CRVAL2": 2.0,
        "CRPIX1": 1.0,
        "CRPIX2": 1.0,
    }
    path = simple(tmp_path / "w.fits", **cards, CDELT1=-1e-4, CDELT2=1e-4, **{"DATE-OBS": "01/09/87"})
    corner = read_exposure(path).wcs.pixel_to_world(0, 0)
    assert corner.spherical.lon.deg == pytest.approx(10)
    assert corner.spherical.lat.deg == pytest.approx(2)


@pytest.mark.parametrize(
    "cards",
    [
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CD1_1": 1.0, "CD1_2": 1.0, "CD2_1": 1.0, "CD2_2": 1.0},
        {"CTYPE1": "RA---XXX", "CTYPE2": "DEC--XXX"},
        {"CTYPE1": "RA---TAN", "CTYPE2": "GLAT-TAN"},
        {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 3, "B_ORDER": "x"},
        {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"},
        {
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CRVAL1": 1.0,
            "CRVAL2": 400.0,
            "CDELT1": 1.0,
            "CDELT2": 1.0,
        },
    ],
)
def test_broken_wcs_is_a_note(tmp_path, cards):
    """P008, P103: never an exception, never a warning."""
    exposure = read_exposure(simple(tmp_path / "w.fits", **cards))
    assert exposure.wcs is None
    assert any("ra, dec are left out" in note for note in exposure.notes)


def test_notes_are_logged(tmp_path, caplog):
    """P012: what was assumed is said."""
    with caplog.at_level(logging.INFO, logger="crowdfit"):
        exposure = read_exposure(simple(tmp_path / "n.fits"))
    assert any("measured on the emptiest pixels" in message for message in caplog.messages)
    assert len(exposure.notes) == len(caplog.messages)


def test_nan_inf_and_absurd_pixels():
    data = sky()
    data[1, 1:6] = np.nan, np.inf, -np.inf, 1e35, -3e31
    exposure = exposure_from_arrays(data, np.full(SHAPE, 5.0))
    assert not exposure.good[1, 1:6].any()
    assert np.count_nonzero(~exposure.good) == 5
    assert np.isfinite(exposure.data).all()
    huge = sky().astype(np.float64)
    huge[2, 2] = 1e300
    assert not exposure_from_arrays(huge).good[2, 2]


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">i2", "u1", ">i4", "f2"])
def test_number_types_and_byte_orders(tmp_path, dtype):
    data = np.clip(np.round(sky()), 0, 250).astype(dtype)
    exposure = exposure_from_arrays(data)
    np.testing.assert_array_equal(exposure.data, data.astype(np.float32))
    assert exposure.data.dtype == np.dtype("=f4")
    if data.dtype.kind != "f":  # read noise and gain unknown: it is said what was assumed
        assert any("gain unknown" in note for note in exposure.notes)


def test_scaled_integers(tmp_path):
    hdu = fits.PrimaryHDU(sky())
    hdu.scale("int16", bzero=100, bscale=0.01)
    hdu.writeto(tmp_path / "s.fits")
    exposure = read_exposure(tmp_path / "s.fits")
    np.testing.assert_allclose(exposure.data, sky(), atol=0.006)


def test_unsigned_integers(tmp_path):
    data = (sky() * 400).astype(np.uint16)
    np.testing.assert_array_equal(read_exposure(simple(tmp_path / "u.fits", data)).data, data)


@pytest.mark.parametrize("suffix", ["fits.gz", "fits.bz2", "fits.xz"])
def test_compressed_files(tmp_path, suffix):
    """N001."""
    path = simple(tmp_path / f"z.{suffix}") if suffix != "fits.xz" else tmp_path / "z.fits.xz"
    if suffix == "fits.xz":
        path.write_bytes(lzma.compress(simple(tmp_path / "z.fits").read_bytes()))
    exposure = read_exposure(path)
    np.testing.assert_array_equal(exposure.data, sky())
    assert exposure.name == "z"


@pytest.mark.parametrize("method", ["RICE_1", "GZIP_2"])
def test_tile_compressed_images(tmp_path, method):
    """N001: fpack files hold their image in extension 1; DQ survives exactly."""
    dq = np.zeros(SHAPE, np.int32)
    dq[3, 4] = 12
    path = write(
        tmp_path / "c.fits.fz",
        fits.CompImageHDU(sky(), name="SCI", compression_type=method),
        fits.CompImageHDU(dq, name="DQ", compression_type=method),
        checksum=True,
    )
    exposure = read_exposure(path)
    np.testing.assert_allclose(exposure.data[exposure.good], sky()[exposure.good], atol=1)
    assert exposure.dq[3, 4] == 12
    assert np.argwhere(~exposure.good).tolist() == [[3, 4]]
    assert exposure.name == "c"


@pytest.mark.parametrize(
    ("plane", "value"),
    [(np.int32, 2**31 + 1), (np.uint32, 2**31 + 1), (np.int64, 2**31 + 1), (np.float32, 8.0), (bool, 1)],
)
def test_dq_of_any_type(plane, value):
    """Bit 31 must not turn negative on the way (the int32 cast of crowdsource did that)."""
    dq = np.zeros(SHAPE, plane)
    dq[2, 3] = np.uint32(value).astype(plane) if plane is np.int32 else value
    exposure = exposure_from_arrays(sky(), dq=dq)
    assert exposure.dq[2, 3] == value
    assert not exposure.good[2, 3]
    if plane is np.float32:
        dq[4, 4] = np.nan
        assert not exposure_from_arrays(sky(), dq=dq).good[4, 4]


def test_masked_arrays_and_quantities():
    data = np.ma.masked_greater(np.round(sky()).astype(np.int16), 110)
    exposure = exposure_from_arrays(data)
    np.testing.assert_array_equal(exposure.good, ~data.mask)
    with_unit = exposure_from_arrays(sky() * u.electron, np.full(SHAPE, 5.0) * u.electron)
    assert with_unit.unit == "electron"
    assert with_unit.gain == 1


@pytest.mark.parametrize(
    ("kind", "value"), [(StdDevUncertainty, 4.0), (VarianceUncertainty, 16.0), (InverseVariance, 1 / 16)]
)
def test_nddata(kind, value):
    mask = np.zeros(SHAPE, bool)
    mask[3, 3] = True
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    ccd = CCDData(
        sky(), unit="adu", uncertainty=kind(np.full(SHAPE, value)), mask=mask, wcs=wcs, meta={"GAIN": 2.0}
    )
    ccd.meta["FILTER"] = "R"
    exposure = exposure_from_nddata(ccd, name="mine")
    assert exposure.ivar[0, 0] == pytest.approx(1 / 16)
    assert np.argwhere(~exposure.good).tolist() == [[3, 3]]
    assert exposure.unit == "adu"
    assert exposure.wcs is wcs
    assert exposure.name == "mine"
    assert exposure_from_nddata(NDData(sky())).unit == ""


def test_nddata_header_and_flags():
    ccd = CCDData(sky(), unit="adu", meta=fits.Header({"GAIN": 2.0, "FILTER": "R"}))
    ccd.flags = np.eye(*SHAPE, dtype=np.int16)
    exposure = exposure_from_nddata(ccd)
    assert exposure.gain == 2
    assert exposure.band == "R"
    assert np.count_nonzero(~exposure.good) == 48


def test_ccddata_file(tmp_path):
    """What CCDData writes is read as it was meant, variance included."""
    ccd = CCDData(sky(), unit="adu", uncertainty=VarianceUncertainty(np.full(SHAPE, 16.0)), mask=sky() > 115)
    ccd.write(tmp_path / "ccd.fits")
    exposure = read_exposure(tmp_path / "ccd.fits")
    assert exposure.ivar[0, 0] == pytest.approx(1 / 16)
    np.testing.assert_array_equal(exposure.good, sky() <= 115)


def test_nddata_uncertainty_of_unknown_kind():
    with pytest.raises(InputError, match="UnknownUncertainty cannot be used; give a standard deviation"):
        exposure_from_nddata(NDData(sky(), uncertainty=UnknownUncertainty(np.ones(SHAPE))))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/b.c.fits", "b.c"), ("m.fits.gz", "m"), ("m.fit", "m"), ("m.fits.fz", "m"), ("m.FTS", "m"),
        ("m", "m"), ("m.fz", "m"),
    ],
)  # fmt: skip
def test_file_stem(name, stem):
    assert file_stem(name) == stem


def test_import_stays_clear_of_the_loop():
    """Reading must not pull in the fitter, nor be pulled in by it."""
    code = (
        "import sys, crowdfit.io.fits; print([name for name in sys.modules if name.startswith('crowdfit')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = out.stdout
    assert "crowdfit.io.fits" in loaded
    assert "crowdfit.api" not in loaded
    assert "crowdfit.loop" not in loaded
