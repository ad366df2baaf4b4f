"""Input that must be refused, each with one clear line of file, extension and remedy (P004, P013, P103)."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from crowdfit.errors import InputError
from crowdfit.io.fits import InputOptions, exposure_from_arrays, read_exposure
from tests.files import SHAPE, simple, sky, write


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    return path


def refused(path, match, **kwargs):
    with pytest.raises(InputError, match=match) as caught:
        read_exposure(path, **kwargs)
    assert "\n" not in str(caught.value)
    assert Path(path).name in str(caught.value)


def test_missing_file(tmp_path):
    refused(tmp_path / "none.fits", "no such file; check the path")


def test_folder(tmp_path):
    refused(tmp_path, "this is a folder")


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = simple(tmp_path / "secret.fits")
    path.chmod(0)
    refused(path, "no permission")


@pytest.mark.parametrize("content", [b"", b"hello " * 1000, b"\x89PNG\r\n\x1a\n" + bytes(4000)])
def test_not_fits(tmp_path, content):
    path = tmp_path / "image.fits"
    path.write_bytes(content)
    refused(path, "cannot be read|not a FITS file")


@pytest.mark.parametrize("keep", [2880 + 1000, 2880 * 2 + 500, -20000, -3000])
def test_truncated_file(triplet, keep):
    refused(cut(triplet, keep), "damaged .*truncated.*; fetch it again")


def test_truncated_primary_image(tmp_path):
    refused(cut(simple(tmp_path / "p.fits"), 9000), "truncated.*fetch it again")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_truncated_gzip_file(tmp_path, triplet, share):
    """Astropy reads the whole part of such a file and says nothing."""
    path = tmp_path / "t.fits.gz"
    packed = gzip.compress(triplet.read_bytes())
    path.write_bytes(packed[: int(share * len(packed))])
    refused(path, "compressed file is truncated or damaged")


def test_truncated_tile_compressed_file(tmp_path):
    path = write(tmp_path / "c.fits", fits.CompImageHDU(sky(), name="SCI"))
    refused(cut(path, path.stat().st_size - 4000), "truncated")


def test_checksums(tmp_path):
    """P004: a bit that fell over on the way is noticed where the file has a DATASUM."""
    hdus = [fits.ImageHDU(sky(), name="SCI"), fits.ImageHDU(sky(), name="OTHER")]
    path = write(tmp_path / "sum.fits", *hdus, checksum=True)
    good = path.read_bytes()
    assert not any("DATASUM" in note for note in read_exposure(path).notes)
    start = good.index(sky().astype(">f4").tobytes())
    path.write_bytes(good[: start + 100] + bytes([good[start + 100] ^ 1]) + good[start + 101 :])
    refused(path, r"sum.fits\[SCI\]: the data do not match their DATASUM.*input.verify")
    assert read_exposure(path, InputOptions(verify=False)).good.all()
    other = good.rindex(sky().astype(">f4").tobytes())
    path.write_bytes(good[: other + 100] + bytes([good[other + 100] ^ 1]) + good[other + 101 :])
    assert any("extension OTHER" in note for note in read_exposure(path).notes)


def test_no_image(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.zeros(3))], name="CAT")
    refused(write(tmp_path / "t.fits", table), r"no image in this file, it has .*CAT \(no image\)")


@pytest.mark.parametrize("shape", [(64,), (2, 48, 64)])
def test_wrong_dimensions(tmp_path, shape):
    refused(simple(tmp_path / "d.fits", sky(shape)), rf"\[PRIMARY\]: the image has {len(shape)} dimensions")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sci_ext": "NONE"}, "no image extension NONE; it has 0 PRIMARY .*1 SCI"),
        ({"sci_ext": 0}, "no image extension 0"),
        ({"err_ext": 17}, "no image extension 17"),
        ({"dq_ext": "QUALITY"}, "no image extension QUALITY"),
    ],
)
def test_wanted_extension_missing(triplet, options, match):
    refused(triplet, match, options=InputOptions(**options))


@pytest.mark.parametrize("plane", ["ERR", "DQ"])
def test_shapes_differ(tmp_path, plane):
    other = fits.ImageHDU(np.ones((10, 12), np.int32), name=plane)
    path = write(tmp_path / "s.fits", fits.ImageHDU(sky(), name="SCI"), other)
    refused(
        path,
        rf"s.fits\[{plane}\]: {plane.lower()} has shape \(10, 12\) but the image s.fits\[SCI\] has \(48, 64\)"
        rf".*{plane.lower()}_ext",
    )


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_no_usable_error(value):
    with pytest.raises(InputError, match="no pixel has a positive error; give another error plane"):
        exposure_from_arrays(sky(), np.full(SHAPE, value))


def test_shapes_of_arrays_differ():
    with pytest.raises(InputError, match=r"mine: dq has shape \(3, 4\) but the image mine has \(48, 64\)"):
        exposure_from_arrays(sky(), dq=np.zeros((3, 4)), name="mine")


def test_all_masked():
    with pytest.raises(InputError, match=r"no usable pixel .*input.dq"):
        exposure_from_arrays(sky(), dq=np.ones(SHAPE, np.int16))


def test_all_nan():
    with pytest.raises(InputError, match="every pixel is NaN"):
        exposure_from_arrays(np.full(SHAPE, np.nan))


@pytest.mark.parametrize("err", [None, 1.0])
def test_constant_image(err):
    with pytest.raises(InputError, match="every usable pixel is 7; there is nothing to fit"):
        exposure_from_arrays(np.full(SHAPE, 7.0), None if err is None else np.full(SHAPE, err))


@pytest.mark.parametrize("data", [np.zeros((0, 5)), np.full((4, 5), "x"), np.ones((4, 5), complex)])
def test_no_numbers(data):
    with pytest.raises(InputError, match="numbers"):
        exposure_from_arrays(data)


@pytest.mark.parametrize("region", [(5, 5, 0, 4), (5, 2, 0, 4), (-1, 5, 0, 4)])
def test_empty_regions_are_refused(region):
    with pytest.raises(ValueError, match="mask_regions"):
        InputOptions(mask_regions=(region,))


def test_options_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="gian"):
        InputOptions(gian=2.0)
    with pytest.raises(ValueError, match="gain"):
        InputOptions(gain=0.0)
