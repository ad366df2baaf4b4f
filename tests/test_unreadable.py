"""FITS files that astropy opens and then stumbles over: refused with the name of the file, and closed."""

import io
import re

import numpy as np
import pytest
from astropy.io import fits
from pydantic import ValidationError

from crowdfit.errors import InputError
from crowdfit.frame import StampSizes
from crowdfit.io.fits import read_exposure
from crowdfit.psf.readers import read_psf
from crowdfit.unreadable import UNREADABLE, endless_card, reason_of
from tests.files import sky


@pytest.fixture
def raw():
    """Return the bytes of a file with SCI and ERR."""
    content = io.BytesIO()
    fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(sky(), name="SCI"),
            fits.ImageHDU(np.full((48, 64), 5.0), name="ERR"),
        ]
    ).writeto(content)
    return content.getvalue()


def spoiled(raw, old, new, extension):
    """Return the bytes with one card of an extension (from 0) replaced."""
    at = raw.index(old, raw.index(b"EXTNAME = '" + extension) - 1000)
    return raw[:at] + new.ljust(len(old))[: max(len(old), len(new))] + raw[at + max(len(old), len(new)) :]


@pytest.mark.parametrize("name", [b"SCI", b"ERR"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"XTENSION= 'IMAGE   '", b"XTENSION=  IMAGE   '"),
        (b"BITPIX  =", b"BITPIX  = 'a'"),
        (b"NAXIS1  =", b"NAXIS1  = 'x'"),
        (b"NAXIS2  =", b"NAXISX  ="),
        (b"PCOUNT  =", b"PCOUNT  = -99999999999"),
    ],
)
def test_broken_cards(raw, tmp_path, name, old, new):
    """Warnings are errors here: a file that is left open would be one."""
    path = tmp_path / "broken.fits"
    path.write_bytes(spoiled(raw, old, new, name))
    said = None
    try:
        read_exposure(path)
    except InputError as error:
        said = str(error)
    assert said is None or re.fullmatch(r".*broken\.fits.*", said)


def test_broken_card_is_refused(raw, tmp_path):
    path = tmp_path / "broken.fits"
    path.write_bytes(spoiled(raw, b"XTENSION= 'IMAGE   '", b"XTENSION=  IMAGE   '", b"SCI"))
    with pytest.raises(InputError, match=r"broken\.fits.*(cannot be read|no image)"):
        read_exposure(path)


def test_what_looks_like_a_zip_file(tmp_path):
    (tmp_path / "z.fits").write_bytes(b"PK\x03\x04" + bytes(200))
    with pytest.raises(InputError, match=r"z\.fits: cannot be read"):
        read_exposure(tmp_path / "z.fits")
    with pytest.raises(InputError, match=r"z\.fits: cannot be read"):
        read_psf(tmp_path / "z.fits")


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_cut_psf(tmp_path):
    fits.PrimaryHDU(np.ones((45, 45), np.float32)).writeto(tmp_path / "p.fits")
    whole = (tmp_path / "p.fits").read_bytes()
    (tmp_path / "p.fits").write_bytes(whole[:8000])
    with pytest.raises(InputError, match=r"p\.fits: cannot be read as a FITS file"):
        read_psf(tmp_path / "p.fits")


def test_reason_is_one_line():
    assert reason_of(ValueError("first\nsecond")) == "first"
    assert reason_of(KeyError()) == "KeyError"
    assert len(reason_of(OSError("x" * 5000))) == 200
    assert issubclass(InputError, UNREADABLE)


@pytest.mark.parametrize("name", [b"SCI", b"ERR"])
@pytest.mark.parametrize("count", [b"99999999999", b"100000"])
def test_absurd_number_of_axes(raw, tmp_path, name, count):
    """astropy would count up to it."""
    path = tmp_path / "axes.fits"
    path.write_bytes(spoiled(raw, b"NAXIS   =                    2", b"NAXIS   = " + count.rjust(20), name))
    for read in (read_exposure, read_psf):
        with pytest.raises(InputError, match=r"axes\.fits: the file is damaged \(NAXIS"):
            read(path)


@pytest.mark.parametrize("name", [b"SCI", b"ERR"])
def test_negative_size(raw, tmp_path, name):
    """astropy would go back and read the same header for ever."""
    path = tmp_path / "axes.fits"
    path.write_bytes(spoiled(raw, b"NAXIS2  =                   48", b"NAXIS2  =                  -32", name))
    for read in (read_exposure, read_psf):
        with pytest.raises(InputError, match=r"axes\.fits: the file is damaged \(NAXIS2 = -32"):
            read(path)


def test_walk_ends(raw):
    """Whole files, cut ones and others: the walk finds nothing and leaves the stream at its beginning."""
    for content in (raw, raw[:4000], b"", b"x" * 6000, raw[:2880] + b"\xff" * 5760):
        stream = io.BytesIO(content)
        assert endless_card(stream) == ""
        assert stream.tell() == 0


def test_stamps_larger_than_anything():
    with pytest.raises(ValidationError, match="smallest"):
        StampSizes(smallest=np.inf)
