"""Extinction: the curve, user coefficients, and maps."""

import sys

import numpy as np
import pytest
from astropy.io import fits

from crowdfit.calibration.extinction import coefficient, read_ebv
from crowdfit.errors import InputError

GRIZLI = {0.704: 2.135, 0.902: 1.415, 1.154: 0.925, 1.501: 0.601, 1.989: 0.396, 2.758: 0.254}
"""A(filter) / E(B-V) at the pivot (um) of filters where the curve of another table still reaches."""


@pytest.mark.parametrize("pivot", GRIZLI)
def test_curve_against_another_table(pivot):
    pytest.importorskip("dust_extinction")
    assert coefficient(pivot) == pytest.approx(
        GRIZLI[pivot], rel=0.2
    )  # other curves, other averages over stars


def test_curve_beyond_three_microns():
    """P057: trap: widely used coefficients are 0 beyond 3 um; A(V) is R_V E(B-V) by definition."""
    pytest.importorskip("dust_extinction")
    assert coefficient(0.55) == pytest.approx(3.1, rel=0.005)
    assert coefficient(0.55, rv=5.0) == pytest.approx(5.0, rel=0.005)
    values = [coefficient(pivot) for pivot in (3.568, 4.404, 7.636, 9.947, 20.8, 25.2)]
    assert min(values) > 0.03
    assert coefficient(9.947) > coefficient(7.636)  # the silicate feature
    with pytest.raises(InputError, match="calibration.wavelength: 40 um is off"):
        coefficient(40)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "dust_extinction.parameter_averages", None)
    with pytest.raises(InputError, match=r"pip install 'crowdfit\[extinction\]'"):
        coefficient(4.4)


def ebv_map(path, frame="RA---TAN DEC--TAN"):
    """Write a plane that rises by 0.01 a pixel of 0.1 deg along x, over the wrap of RA."""
    first, second = frame.split()
    header = fits.Header(
        {"CTYPE1": first, "CTYPE2": second, "CRVAL1": 0.0, "CRVAL2": 0.0, "CRPIX1": 11.0, "CRPIX2": 11.0,
         "CDELT1": -0.1, "CDELT2": 0.1, "CUNIT1": "deg", "CUNIT2": "deg"}
    )  # fmt: skip
    plane = np.broadcast_to(0.1 + 0.01 * np.arange(21.0), (21, 21)).astype(np.float32)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(plane, header)]).writeto(path)


def test_map(tmp_path):
    """E(B-V) between pixels, on both sides of RA = 0 (M026)."""
    ebv_map(tmp_path / "ebv.fits")
    found = read_ebv(tmp_path / "ebv.fits", [0.0, 359.95, 0.05], [0.0, 0.0, 0.1])
    np.testing.assert_allclose(found, [0.2, 0.205, 0.195], atol=1e-4)
    with pytest.raises(InputError, match="ebv.fits: 1 of 2 stars lie outside"):
        read_ebv(tmp_path / "ebv.fits", [0.0, 10.0], [0.0, 0.0])


def test_map_in_galactic_coordinates(tmp_path):
    ebv_map(tmp_path / "ebv.fits", "GLON-CAR GLAT-CAR")
    found = read_ebv(tmp_path / "ebv.fits", [266.40499], [-28.93617])  # the Galactic centre
    np.testing.assert_allclose(found, [0.2], atol=1e-3)


def test_what_is_no_map(tmp_path):
    fits.PrimaryHDU(np.ones((4, 4))).writeto(tmp_path / "a.fits")
    with pytest.raises(InputError, match="no celestial WCS"):
        read_ebv(tmp_path / "a.fits", [0.0], [0.0])
    fits.PrimaryHDU().writeto(tmp_path / "b.fits")
    with pytest.raises(InputError, match="no image of two dimensions"):
        read_ebv(tmp_path / "b.fits", [0.0], [0.0])
    with pytest.raises(InputError, match="no such file"):
        read_ebv(tmp_path / "c.fits", [0.0], [0.0])
    (tmp_path / "d.fits").write_text("x")
    with pytest.raises(InputError, match=r"d.fits: cannot be read"):
        read_ebv(tmp_path / "d.fits", [0.0], [0.0])
