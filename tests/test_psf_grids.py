"""Grids of PSFs: axes, positions, centre and sampling, against photutils, which reads the same files."""

import dataclasses

import numpy as np
import pytest
from astropy.io import fits

from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.psf.analytic import gaussian
from crowdfit.psf.initial import GivenPsf
from crowdfit.psf.readers import read_psf

X, Y = (0.0, 300.0, 1023.0), (0.0, 511.0)


def table(width, side=41, oversample=4, angle=30.0, blob=0.1):
    """Return an elliptical Gaussian with a blob at +x, in flux per native pixel, centred on the middle of the array."""
    grid = (np.arange(side) - (side - 1) / 2) / oversample
    x, y = np.meshgrid(grid, grid)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    r2 = ((c * x + s * y) / 1.2) ** 2 + ((c * y - s * x) * 1.2) ** 2
    psf = np.exp(-r2 * 4 * np.log(2) / width**2) + blob * np.exp(-((x - 2) ** 2 + y**2) * 2)
    return psf * oversample**2 / psf.sum()


def planes(side=41, oversample=4):
    """Return planes row by row, x fastest: each of a width of its own."""
    return np.array([table(1.8 + 0.1 * i, side, oversample) for i in range(len(X) * len(Y))])


def write_stdpsf(path, cube, x=X, y=Y):
    header = fits.Header()
    header["NXPSFS"], header["NYPSFS"] = len(x), len(y)
    for letter, nodes in (("IPSFX", x), ("JPSFY", y)):
        for i in range(10):
            header[f"{letter}{i + 1:02d}"] = int(nodes[i] + 1) if i < len(nodes) else 9999
    fits.PrimaryHDU(cube.astype(np.float32), header).writeto(path)
    return path


def write_stpsf(path, cube, labels, oversample=4, version="2.0.0", **cards):
    """Write a grid of STPSF whose planes have the (y, x) `labels`."""
    header = fits.Header(cards)
    header["OVERSAMP"] = oversample
    for i, label in enumerate(labels):
        header[f"DET_YX{i}"] = (str(label), "The PSF's (y,x) detector pixel position")
    if version:
        header["VERSION"] = version
    fits.PrimaryHDU(cube, header).writeto(path)
    return path


def model_of(path, **reading):
    """Return photutils' model of a file, its planes scaled to unit sum as ours are."""
    nddata = pytest.importorskip("astropy.nddata")
    psf = pytest.importorskip("photutils.psf", reason="photutils is not installed")
    read = psf.GriddedPSFModel.read(str(path), **reading)
    data = read.data / (read.data.sum(axis=(1, 2), keepdims=True) / np.prod(read.oversampling))
    meta = {"grid_xypos": read.grid_xypos, "oversampling": read.oversampling}
    return psf.GriddedPSFModel(nddata.NDData(data, meta=meta))


def assert_same(psf, model, extent, *, reach=3, n=40, tolerance=2e-4):
    """Compare stamps of both all over the field and beyond, at any sub-pixel position."""
    rng = np.random.default_rng(1)
    places = rng.uniform(-0.05, 1.05, (n, 2)) * extent
    for x, y in places:
        stamp = psf.stamp(x, y, 2 * reach + 1)
        col, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        yy, xx = np.mgrid[row - reach : row + reach + 1, col - reach : col + reach + 1]
        expected = model.evaluate(xx.astype(float), yy.astype(float), 1.0, x, y)
        assert np.abs(stamp - expected).max() < tolerance * expected.max(), (x, y)


class TestStdpsf:
    @pytest.mark.peer
    def test_as_photutils_reads_it(self, tmp_path):
        path = write_stdpsf(tmp_path / "STDPSF_WFC3IR_F160W.fits", planes())
        assert_same(read_psf(path), model_of(path, format="stdpsf"), (1023, 511))

    def test_axes_and_positions(self, tmp_path):
        """Without photutils: planes run along x first, arrays are [y, x], positions count from 1."""
        psf = read_psf(write_stdpsf(tmp_path / "p.fits", planes()))
        assert psf.oversample == 4
        assert psf.field.x_nodes == X
        assert psf.field.y_nodes == Y
        cube = planes()
        for k, (y, x) in enumerate((y, x) for y in Y for x in X):
            assert np.allclose(psf.at(x, y).cube[0][20 - 12 : 20 + 13, 8:33], cube[k][8:33, 8:33], atol=1e-6)
        stamp = psf.stamp(0, 0)
        middle = psf.radius
        assert stamp[middle, middle + 2] > 1.2 * stamp[middle, middle - 2]  # the blob at +x
        assert stamp[middle + 2, middle] == pytest.approx(stamp[middle - 2, middle], rel=1e-5)

    @pytest.mark.peer
    @pytest.mark.parametrize(
        ("nx", "ny", "chips", "size"), [(9, 10, 2, 2048), (7, 8, 2, 2048), (6, 6, 4, 800), (20, 10, 8, 2048)]
    )
    def test_files_of_several_chips(self, tmp_path, nx, ny, chips, size):
        """Which planes and positions belong to which chip."""
        cube = np.array([table(1.5 + 0.005 * k, 33) for k in range(nx * ny)])
        across, up = {2: (1, 2), 4: (2, 2), 8: (4, 2)}[chips]
        x, y = (
            np.concatenate([np.linspace(0, size - 1, n // k).round() + size * i for i in range(k)])
            for n, k in ((nx, across), (ny, up))
        )
        path = tmp_path / "STDPSF_XX_F000W.fits"
        if nx <= 10:
            write_stdpsf(path, cube, x, y)
        else:
            header = fits.Header({"NXPSFS": nx, "NYPSFS": ny})
            for letter, nodes in (("IPSFX", x), ("JPSFY", y)):
                for i in range(0, len(nodes), 5):
                    header[f"{letter}{'ABCD'[i // 5]}5"] = " ".join(str(int(v + 1)) for v in nodes[i : i + 5])
            fits.PrimaryHDU(cube.astype(np.float32), header).writeto(path)
        renamed = path.rename(tmp_path / "unnamed.fits")  # photutils guesses instruments from names
        for detector in range(1, chips + 1):
            psf = read_psf(renamed, detector=detector)
            model = model_of(renamed, format="stdpsf", detector_id=detector)
            assert sorted(map(tuple, psf.field.places)) == sorted(map(tuple, model.grid_xypos.astype(float)))
            assert_same(psf, model, (size, size), reach=1, n=6, tolerance=1e-3)
        with pytest.raises(
            InputError, match=f"unnamed.fits: the file holds {chips} chips and psf.detector is None"
        ):
            read_psf(renamed)
        with pytest.raises(InputError, match="psf.detector is 9; set it to one of 1"):
            read_psf(renamed, detector=9)

    @pytest.mark.peer
    def test_real_file(self, shared_data):
        """Keywords in lower case, values of 9999 for unused positions, sums of 1.03."""
        path = shared_data / "psf" / "PSFSTD_WFC3IR_F160W.fits"
        psf = read_psf(path)
        assert psf.cube.shape == (9, 105, 105)
        assert psf.field.x_nodes == (-1.0, 506.0, 1013.0)
        assert psf.fwhm == pytest.approx(1.29, abs=0.05)
        assert_same(psf, model_of(path, format="stdpsf"), (1014, 1014), reach=8, tolerance=1e-3)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"NXPSFS": 4}, "p.fits: NXPSFS 4 times NYPSFS 2 is not the number of planes, 6"),
            ({"NXPSFS": "three"}, "p.fits: NXPSFS is 'three'; a whole number from 1 to 20"),
            ({"IPSFX02": -7}, "p.fits: keywords IPSFX.. hold .*; 3 positions that increase"),
            ({"JPSFY02": "top"}, "p.fits: keywords JPSFY.. hold"),
        ],
    )
    def test_refused(self, tmp_path, change, message):
        path = write_stdpsf(tmp_path / "p.fits", planes(17))
        with fits.open(path, mode="update") as hdus:
            hdus[0].header.update(change)
        with pytest.raises(InputError, match=message):
            read_psf(path)

    def test_settings_that_do_not_fit_are_refused(self, tmp_path):
        path = write_stdpsf(tmp_path / "p.fits", planes(17))
        with pytest.raises(
            InputError, match="psf.oversample 2 is refused, since STDPSF files have 4 samples"
        ):
            read_psf(path, oversample=2)
        with pytest.raises(InputError, match="psf.detector 1 is refused, since the file holds one chip"):
            read_psf(path, detector=1)

    def test_bad_planes(self, tmp_path):
        cube = planes(17)
        cube[2, 3, 3] = np.nan
        with pytest.raises(InputError, match=r"p.fits: psf: the planes hold NaN"):
            read_psf(write_stdpsf(tmp_path / "p.fits", cube))


BY_ROW = [(y, x) for y in Y for x in X]
BY_COLUMN = [(y, x) for x in X for y in Y]
SQUARE = (0.0, 700.0, 2047.0)


class TestStpsfGrid:
    """DET_YX is (y, x). Before 1.3 planes follow it; since then planes are sorted and the keywords are not."""

    @pytest.mark.peer
    @pytest.mark.parametrize("side", [40, 41])
    def test_as_photutils_reads_what_is_written_today(self, tmp_path, side):
        """On a square grid photutils' (x, y) reading of the unsorted keywords is that of the sorted planes."""
        cube = np.array([table(1.8 + 0.1 * i, side) for i in range(9)])
        path = write_stpsf(tmp_path / "g.fits", cube, [(y, x) for x in SQUARE for y in SQUARE])
        assert_same(read_psf(path), model_of(path, format="webbpsf"), (2047, 2047), tolerance=5e-4)

    @pytest.mark.parametrize("version", ["1.3.0", "1.5.2", "2.0.0", "2.1.dev3"])
    def test_sorted_planes(self, tmp_path, version):
        path = write_stpsf(tmp_path / "g.fits", planes(), BY_COLUMN, version=version)
        self.assert_planes(read_psf(path))

    @pytest.mark.parametrize("version", ["0.9.2", "1.2.1", "1.2.2.dev13+g1b2c"])
    def test_planes_in_the_order_of_the_keywords(self, tmp_path, version):
        cube = planes()[[BY_ROW.index(label) for label in BY_COLUMN]]
        self.assert_planes(read_psf(write_stpsf(tmp_path / "g.fits", cube, BY_COLUMN, version=version)))

    def test_keywords_in_order_need_no_version(self, tmp_path, caplog):
        self.assert_planes(read_psf(write_stpsf(tmp_path / "g.fits", planes(), BY_ROW, version="")))
        assert not caplog.text
        cube = planes()[[BY_ROW.index(label) for label in BY_COLUMN]]
        self.assert_planes(read_psf(write_stpsf(tmp_path / "h.fits", cube, BY_COLUMN, version="")))
        assert "no VERSION says which WebbPSF or STPSF made this grid" in caplog.text

    @staticmethod
    def assert_planes(psf):
        assert (psf.field.x_nodes, psf.field.y_nodes) == (X, Y)
        for plane, (y, x) in zip(planes(), BY_ROW, strict=True):
            assert np.allclose(psf.at(x, y).cube[0][8:33, 8:33], plane[8:33, 8:33], atol=1e-6)

    @pytest.mark.parametrize("side", [40, 41])
    def test_centre_is_the_middle_of_the_array(self, tmp_path, side):
        """Between two samples of an even side: the PSF is where it is, and not half a sample off."""
        cube = np.array([table(2.5, side, blob=0)] * 6)
        psf = read_psf(write_stpsf(tmp_path / "g.fits", cube, BY_ROW))
        assert np.hypot(*psf.centroid()) < 1e-4
        assert psf.stamp(300, 511).sum(dtype=float) == pytest.approx(1, abs=3e-5)

    @pytest.mark.parametrize("oversample", [1, 2, 3])
    def test_sampling(self, tmp_path, oversample):
        cube = np.array([table(4.0, 31, oversample, blob=0)] * 6)
        psf = read_psf(write_stpsf(tmp_path / "g.fits", cube, BY_ROW, oversample=oversample))
        assert psf.oversample == oversample
        assert psf.fwhm == pytest.approx(4, rel=0.02)
        given = read_psf(tmp_path / "g.fits", oversample=2 * oversample)
        assert given.fwhm == pytest.approx(2, rel=0.02)

    def test_one_psf(self, tmp_path):
        """`num_psfs=1`: a constant PSF, written as a plane or as a cube of one."""
        for i, cube in enumerate((table(2.5), table(2.5)[np.newaxis])):
            psf = read_psf(write_stpsf(tmp_path / f"{i}.fits", cube, [(1023.0, 1023.0)]))
            assert psf.cube.shape == (1, 41, 41)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (BY_ROW[:-1], r"g.fits: DET_YX5 is None; a position '\(y, x\)' for every plane"),
            ([*BY_ROW, (9, 9)], r"more DET_YX keywords than planes \(6\)"),
            ([*BY_ROW[:-1], (9, 9)], "no rectangular grid; make the grid of PSFs without psf_location_list"),
            (["here", *BY_ROW[1:]], "DET_YX0 is 'here'"),
        ],
    )
    def test_refused(self, tmp_path, labels, message):
        with pytest.raises(InputError, match=message):
            read_psf(write_stpsf(tmp_path / "g.fits", planes(17), labels))

    def test_sampling_is_needed(self, tmp_path):
        path = write_stpsf(tmp_path / "g.fits", planes(17), BY_ROW, oversample=2.5)
        with pytest.raises(InputError, match="g.fits: OVERSAMP is 2.5; a whole number from 1 to 20"):
            read_psf(path)


def test_recentred_only_if_asked_for(tmp_path):
    """What a position means is the library's own matter."""
    cube = np.array([np.roll(gaussian(3.0, radius=8).cube[0], 2, axis=1)] * 6)
    path = write_stdpsf(tmp_path / "p.fits", cube)
    assert read_psf(path).centroid() == pytest.approx((0.5, 0), abs=1e-3)
    assert np.hypot(*read_psf(path, recentre=True).centroid()) < 1e-3
    plain = tmp_path / "plain.fits"
    fits.writeto(plain, cube[0], fits.Header({"OVERSAMP": 4}))
    assert np.hypot(*read_psf(plain).centroid()) < 1e-3
    assert read_psf(plain, recentre=False).centroid() == pytest.approx((0.5, 0), abs=1e-3)


def test_cutout_of_a_detector(tmp_path):
    """The grid is one of detector pixels; the image says where on the detector it begins."""
    path = write_stdpsf(tmp_path / "p.fits", planes())
    exposure = Exposure.of(np.eye(64), np.ones((64, 64)))
    start = dataclasses.replace(exposure, meta={"SUBSTRT1": 301, "SUBSTRT2": 512})
    from_header = GivenPsf(path=path)(start)
    whole, cut = GivenPsf(path=path)(exposure), GivenPsf(path=path, first_pixel=(300.0, 511.0))(exposure)
    assert np.array_equal(cut.stamp(0, 0), whole.stamp(300, 511))
    assert np.array_equal(from_header.stamp(0, 0), cut.stamp(0, 0))
    assert np.array_equal(whole.cube, read_psf(path).cube)
    assert not np.allclose(cut.stamp(0, 0), whole.stamp(0, 0), atol=1e-3)


def test_cube_of_unknown_planes(tmp_path):
    fits.writeto(tmp_path / "c.fits", planes(17))
    with pytest.raises(
        InputError, match=r"c.fits: psf: shape \(6, 17, 17\) is refused: nothing says what its 6 planes are"
    ):
        read_psf(tmp_path / "c.fits")
    fits.writeto(tmp_path / "d.fits", table(2.0, 17))
    with pytest.raises(
        InputError, match="d.fits: psf.detector 2 is refused, since the file holds one detector"
    ):
        read_psf(tmp_path / "d.fits", detector=2)
