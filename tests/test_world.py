"""World coordinates: 0-based pixels, any celestial frame, checked once."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from crowdfit.world import pixel_to_sky, read_wcs, sky_to_pixel, without_jump


def header(**cards):
    base = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 11.0,
        "CRPIX2": 21.0, "CDELT1": -1e-4, "CDELT2": 1e-4,
    }  # fmt: skip
    return fits.Header(base | cards)


def test_pixels_count_from_zero():
    """N003: CRPIX counts from 1, crowdfit from 0."""
    wcs, note = read_wcs(header(), (40, 30))
    assert note == ""
    sky = pixel_to_sky(wcs, [10], [20])
    assert sky.ra[0] == pytest.approx(150)
    assert sky.dec[0] == pytest.approx(2)


@pytest.mark.parametrize(
    "frame", ["RA---TAN DEC--TAN", "GLON-CAR GLAT-CAR", "DEC--TAN RA---TAN", "ELON-TAN ELAT-TAN"]
)
def test_round_trip(frame):
    """P008: also with axes the other way round."""
    first, second = frame.split()
    values = {"CRVAL1": 2.0, "CRVAL2": 150.0} if first.startswith("DEC") else {}
    wcs, note = read_wcs(header(CTYPE1=first, CTYPE2=second, **values), (40, 30))
    assert note == ""
    x, y = np.array([0.0, 12.5, 29.0]), np.array([3.0, 4.25, 39.0])
    back = sky_to_pixel(wcs, *pixel_to_sky(wcs, x, y))
    np.testing.assert_allclose(back, [x, y], atol=1e-6)


def test_no_sources():
    wcs, _ = read_wcs(header(), (40, 30))
    assert pixel_to_sky(wcs, [], []).ra.shape == (0,)


def test_header_without_wcs():
    assert read_wcs(fits.Header(), (40, 30)) == (None, "")


def test_left_over_third_axis():
    """A slice of a cube keeps the wavelength axis in its header."""
    cards = {"WCSAXES": 3, "CTYPE3": "WAVE", "CRVAL3": 1e-6, "CRPIX3": 1.0, "CDELT3": 1e-9, "CUNIT3": "m"}
    wcs, note = read_wcs(header(**cards), (40, 30))
    assert note == ""
    assert wcs.naxis == 2


def test_distortion_without_inverse_is_reported():
    """A polynomial that folds the image over is good for nothing, and said to be."""
    cards = {
        "CTYPE1": "RA---TAN-SIP",
        "CTYPE2": "DEC--TAN-SIP",
        "A_ORDER": 2,
        "A_2_0": -0.05,
        "B_ORDER": 2,
        "B_0_2": 0.0,
    }
    wcs, note = read_wcs(header(**cards), (400, 300))
    assert note
    assert wcs is None or "cannot be inverted" in note


def test_same_as_astropy():
    wcs, _ = read_wcs(header(), (40, 30))
    ours = pixel_to_sky(wcs, [3.5], [7.25])
    np.testing.assert_allclose(np.ravel(ours), WCS(header()).all_pix2world(3.5, 7.25, 0))


@pytest.mark.parametrize(
    ("ra", "expected"),
    [
        ([359.9, 0.1, np.nan], [-0.1, 0.1, np.nan]),
        ([150.0, 151.0], [150.0, 151.0]),
        ([359.0, 300.0], [359.0, 300.0]),
        ([0.0, 120.0, 240.0, 350.0], [0.0, 120.0, 240.0, 350.0]),
        ([], []),
    ],
)
def test_right_ascension_without_a_jump(ra, expected):
    """M026: wrapped to (-180, 180] when the field straddles 0; not around a pole."""
    np.testing.assert_allclose(without_jump(ra), expected, atol=1e-9)


@pytest.mark.parametrize(
    "card", [{"CNPIX1": 0}, {"AMDX1": 1.0}, {"XPIXELSZ": 25.0}, {"CNPIX1": "x"}, {"PLTDECSN": 1.0}]
)
def test_torn_plate_solution(card):
    """One keyword of a plate of the Sky Survey spoilt a good WCS; the last two ended the process."""
    wcs, note = read_wcs(header(**card), (40, 30))
    assert note == ""
    sky = pixel_to_sky(wcs, [10], [20])
    assert (sky.ra[0], sky.dec[0]) == pytest.approx((150, 2))


def test_more_axes_than_there_are_keywords():
    wcs, note = read_wcs(header(WCSAXES=65535), (40, 30))
    assert wcs is None
    assert "WCSAXES is 65535" in note
