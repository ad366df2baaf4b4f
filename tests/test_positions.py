"""Lists of positions for forced photometry."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from crowdfit.catalog import build_catalog
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.io.formats import FORMATS
from crowdfit.io.positions import Positions, check_fluxes, check_positions, read_positions
from crowdfit.io.tables import write_catalog
from crowdfit.world import pixel_to_sky

X, Y, FLUX = np.array([1.5, 20.25, 30.0]), np.array([4.0, 10.5, 0.0]), np.array([100.0, 50.0, -3.0])


@pytest.fixture
def wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = 150.0, 2.0
    wcs.wcs.crpix = 16.0, 12.0
    wcs.wcs.cdelt = -1e-4, 1e-4
    return wcs


@pytest.mark.parametrize("suffix", FORMATS)
def test_catalogues_of_every_format_are_lists(tmp_path, suffix):
    exposure = Exposure.of(np.eye(40), np.ones((40, 40)))
    measured = {"id": np.arange(3), "x": X, "y": Y, "flux": FLUX, "flux_err": np.ones(3)}
    path = write_catalog(build_catalog(measured, exposure), tmp_path / f"list.{suffix}")
    positions = read_positions(path)
    np.testing.assert_array_equal(positions, [X, Y, FLUX])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "1.5 4 100\n20.25 10.5 50\n30 0 -3\n"),
        ("b.txt", "# x y flux\n1.5 4 100\n20.25 10.5 50\n30 0 -3\n"),
        ("c.dat", "id x y flux\n7 1.5 4 100\n8 20.25 10.5 50\n9 30 0 -3\n"),
        ("d.csv", "# made by hand\nflux,Y,X,name\n100,4,1.5,a\n50,10.5,20.25,b\n-3,0,30,c\n"),
    ],
)
def test_text(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    np.testing.assert_allclose(read_positions(path), [X, Y, FLUX])


def test_flux_is_optional_and_gaps_in_it_are_zero(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("x,y\n1,2\n3,4\n")
    assert read_positions(path).flux is None
    path.write_text("x,y,flux\n1,2,\n3,4,5\n5,6,inf\n")
    np.testing.assert_array_equal(read_positions(path).flux, [0, 5, np.inf])


def test_sky_positions(tmp_path, wcs):
    """N003: ra, dec become 0-based pixels."""
    sky = pixel_to_sky(wcs, X, Y)
    path = tmp_path / "sky.ecsv"
    Table({"RA": sky.ra, "DEC": sky.dec}).write(path)
    positions = read_positions(path, wcs)
    np.testing.assert_allclose([positions.x, positions.y], [X, Y], atol=1e-6)
    with pytest.raises(InputError, match="the image has no WCS; give x, y"):
        read_positions(path)


def test_both_kinds_of_columns(tmp_path, wcs):
    sky = pixel_to_sky(wcs, X, Y)
    path = tmp_path / "both.csv"
    Table({"x": X + 5, "y": Y, "ra": sky.ra, "dec": sky.dec}).write(path, format="ascii.csv")
    np.testing.assert_array_equal(read_positions(path, wcs).x, X + 5)
    np.testing.assert_allclose(read_positions(path, wcs, frame="sky").x, X, atol=1e-6)


def test_table_is_found_among_the_extensions(tmp_path):
    """A simulated field holds its truth behind the images."""
    other = fits.BinTableHDU.from_columns([fits.Column("a", "D", array=np.zeros(2))])
    truth = fits.table_to_hdu(Table({"x": X, "y": Y, "flux": FLUX}))
    path = tmp_path / "scene.fits"
    fits.HDUList([fits.PrimaryHDU(np.zeros((5, 5))), other, truth]).writeto(path)
    np.testing.assert_array_equal(read_positions(path), [X, Y, FLUX])


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("none.csv", None, "no such file"),
        ("empty.csv", "x,y\n", "the list is empty"),
        ("words.csv", "a,b\n1,2\n", "no columns x, y or ra, dec; it has a, b"),
        ("gap.csv", "x,y\n1,2\n3,nan\n", "1 of 2 positions are not finite, first in row 2"),
        ("binary.fits", "nonsense", "cannot be read as a table"),
        ("broken.ecsv", "x y\n1 2\n", "cannot be read as a table"),
        ("broken.vot", "<a>", "cannot be read as a table"),
        ("broken.parquet", "PAR", "cannot be read as a table"),
    ],
)
def test_lists_that_are_refused(tmp_path, name, content, match):
    """P103: the message names the list and the remedy, on one line."""
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=match) as caught:
        read_positions(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fits_file_without_a_list(tmp_path):
    fits.PrimaryHDU(np.zeros((5, 5))).writeto(tmp_path / "image.fits")
    with pytest.raises(InputError, match="no table with columns x, y"):
        read_positions(tmp_path / "image.fits")


@pytest.mark.parametrize(
    ("x", "match"),
    [
        ([40.0, 50.0], "all 2 positions lie outside the image of 32 x 24 pixels .*row 1 at x 40.0"),
        ([3.0, 31.51], "1 of 2 positions lie outside .*row 2 at x 31.5"),
        ([-0.51, 3.0], "1 of 2 positions lie outside"),
        ([], "the list is empty"),
    ],
)
def test_positions_outside_the_image(x, match):
    """P103: a list for another image is refused before it costs an hour."""
    with pytest.raises(InputError, match=match):
        check_positions(Positions(np.array(x), np.full(len(x), 5.0), None), (24, 32))


@pytest.mark.parametrize("flux", [np.inf, np.nan, 2.1e12, -2.1e12])
def test_fluxes_out_of_proportion(flux):
    check_fluxes(np.array([0.0, -5.0, 1e12]), 2.0)
    with pytest.raises(InputError, match=r"positions: 1 of 2 fluxes are out of range, first .* in row 2"):
        check_fluxes(np.array([5.0, flux]), 2.0)


def test_positions_on_the_outer_edge_are_inside():
    check_positions(Positions(np.array([-0.5, 31.5]), np.array([23.5, -0.5]), None), (24, 32))
