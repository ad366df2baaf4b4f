"""The gwcs object in the ASDF extension: used where it agrees with the header, and never silently wrong."""

import io
import sys

import numpy as np
import pytest

from crowdfit.errors import InputError
from crowdfit.io.fits import InputOptions, read_exposure
from crowdfit.world import pixel_to_sky, sky_to_pixel
from tests import jwst_files as files

asdf = pytest.importorskip("asdf")
pytest.importorskip("gwcs")


def read(tmp_path, content, **options):
    files.write_cal(tmp_path / "a_cal.fits", asdf=content)
    return read_exposure(tmp_path / "a_cal.fits", InputOptions(**options))


def test_exact_positions(tmp_path):
    """M025: positions are those of the gwcs object, there and back, also outside of the image."""
    exact = read(tmp_path, files.gwcs_bytes())
    (tmp_path / "a_cal.fits").unlink()
    header = read(tmp_path, files.gwcs_bytes(), wcs="header")
    x, y = np.array([0.0, 55.5, 111.0, -20.0]), np.array([0.0, 47.5, 95.0, 10.0])
    sky, approximate = pixel_to_sky(exact.wcs, x, y), pixel_to_sky(header.wcs, x, y)
    # the header has SIP terms that the object lacks: 2e-6 x 55.5^2 = 0.006 pix in the corner, nothing in the middle
    off = (
        np.hypot((sky.ra - approximate.ra) * np.cos(np.radians(30)), sky.dec - approximate.dec) / files.SCALE
    )
    assert off[1] < 1e-6
    assert off[0] == pytest.approx(np.hypot(2e-6 * 55.5**2, 3e-6 * 47.5**2), rel=0.01)
    back = sky_to_pixel(exact.wcs, sky.ra, sky.dec)
    np.testing.assert_allclose((back.x, back.y), (x, y), atol=1e-6)
    assert "CRVAL1" in exact.wcs.to_header(relax=True)
    assert any("from the gwcs object" in note for note in exact.notes)


def test_object_of_the_whole_frame_in_a_cutout(tmp_path):
    """Trap: slicing a file shifts the header and not the ASDF tree: the header wins, with a note."""
    exposure = read(tmp_path, files.gwcs_bytes(shift=400))
    assert any("400 pix from the WCS of the header" in note for note in exposure.notes)
    assert type(exposure.wcs).__name__ == "WCS"
    (tmp_path / "a_cal.fits").unlink()
    with pytest.raises(InputError, match=r"a_cal.fits\[SCI\].*400 pix.*input.wcs to header"):
        read(tmp_path, files.gwcs_bytes(shift=400), wcs="gwcs")


def test_trees_that_hold_no_gwcs(tmp_path):
    """Trap: opening a tree whose tags are not recognised must not be mistaken for success."""
    out = io.BytesIO()
    asdf.AsdfFile({"meta": {"wcs": {"steps": [1, 2]}}}).write_to(out)
    for number, content in enumerate((out.getvalue(), b"not ASDF at all", b"#ASDF 1.0.0\n")):
        exposure = read(tmp_path, content)
        assert type(exposure.wcs).__name__ == "WCS", number
        assert any("gwcs in the ASDF extension not used" in note for note in exposure.notes)
        (tmp_path / "a_cal.fits").unlink()


def test_without_the_packages(tmp_path, monkeypatch):
    """Plain astropy reads the file; who insists on gwcs is told what to install."""
    content = files.gwcs_bytes()
    monkeypatch.setitem(sys.modules, "asdf", None)
    exposure = read(tmp_path, content)
    assert exposure.wcs is not None
    assert not any("gwcs" in note for note in exposure.notes)
    (tmp_path / "a_cal.fits").unlink()
    with pytest.raises(InputError, match=r"pip install 'crowdfit\[jwst\]'"):
        read(tmp_path, content, wcs="gwcs")


def test_file_without_asdf(tmp_path):
    with pytest.raises(InputError, match="no ASDF extension"):
        read(tmp_path, None, wcs="gwcs")
