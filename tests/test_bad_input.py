"""What bad input gets, through the command line: status 2, one clear line, and nothing left behind.

And what must simply work: bad pixels of every kind, byte orders, scaled and compressed files, stars on the edge.
"""

import gzip
import io
import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table

from crowdfit import flags
from crowdfit.api import fit_image
from crowdfit.cli import main
from crowdfit.errors import InputError
from crowdfit.io.run_record import read_record
from crowdfit.job import DONE, INTERRUPTED, REFUSED
from crowdfit.psf.analytic import moffat
from crowdfit.render import render
from crowdfit.stages.detect import significance
from crowdfit.stages.stop import STOP_REASONS
from tests.files import simple, write_planes

SHAPE = (60, 70)
FIRST_RUN = "crowdfit: first run: compiling"
QUICK = ["--set", "psf.fwhm=3", "--set", "psf_update.kind=none", "--set", "stop.max_passes=3", "--no-report"]


def stars_at(x, y, flux=3e4):
    """Return an image of stars of FWHM 3 px on sky 100 with noise 5."""
    x, y = np.atleast_1d(x), np.atleast_1d(y)
    image = render(moffat(3.0, radius=24), x, y, np.full(len(x), flux), SHAPE)
    return (100 + image + np.random.default_rng(1).normal(0, 5, SHAPE)).astype(np.float32)


GRID_X, GRID_Y = (g.ravel() + 0.3 for g in np.meshgrid(np.arange(10.0, 66, 12), np.arange(10.0, 56, 12)))


@pytest.fixture(scope="module")
def field():
    return stars_at(GRID_X, GRID_Y)


@pytest.fixture
def run(tmp_path, capsys):
    """Return a function that fits through the command line and gives status, stderr lines and the files left."""

    def run(path, *options, out="out"):
        status = main(["fit", str(path), "-o", str(tmp_path / out), *options])
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(FIRST_RUN)]
        left = sorted(p.name for p in (tmp_path / out).iterdir()) if (tmp_path / out).is_dir() else []
        return status, said, left

    return run


@pytest.fixture
def refused(run):
    """Return a check that a command is refused with one line that matches, and leaves nothing."""

    def refused(path, pattern, *options):
        status, said, left = run(path, *options)
        assert status == REFUSED, said
        assert len(said) == 1, said
        assert said[0].startswith("crowdfit: error: ")
        assert re.search(pattern, said[0]), said[0]
        assert left == []

    return refused


class TestImages:
    """P004, P014, P103: the file, the extension, and what to do."""

    def test_missing(self, refused, tmp_path):
        refused(tmp_path / "none.fits", r"none\.fits: no such file; check the path")

    def test_folder(self, refused, tmp_path):
        (tmp_path / "x.fits").mkdir()
        refused(tmp_path / "x.fits", r"x\.fits: .*folder")

    def test_unreadable(self, refused, tmp_path, field, monkeypatch):
        """Tests run as root, who may read everything; so the system's answer is made here."""
        path = simple(tmp_path / "locked.fits", field)

        def deny(*args, **kwargs):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("astropy.io.fits.open", deny)
        monkeypatch.setattr("builtins.open", deny)
        monkeypatch.setattr("pathlib.Path.open", deny)
        refused(path, r"locked\.fits: .*[Pp]ermission")

    def test_not_fits(self, refused, tmp_path):
        (tmp_path / "notes.fits").write_text("Dear diary, today the seeing was bad.\n" * 200)
        refused(tmp_path / "notes.fits", r"notes\.fits: .*FITS")

    @pytest.mark.parametrize("keep", [100, 2880, 9000])
    def test_truncated(self, refused, tmp_path, field, keep):
        path = simple(tmp_path / "cut.fits", field)
        path.write_bytes(path.read_bytes()[:keep])
        refused(path, r"cut\.fits.*(truncated|damaged|FITS|header)")

    def test_truncated_gzip(self, refused, tmp_path, field):
        path = simple(tmp_path / "cut.fits", field)
        packed = gzip.compress(path.read_bytes())
        (tmp_path / "cut.fits.gz").write_bytes(packed[: len(packed) // 2])
        refused(tmp_path / "cut.fits.gz", r"cut\.fits\.gz: .*truncated or damaged")

    def test_no_image(self, refused, tmp_path):
        Table({"a": [1.0]}).write(tmp_path / "t.fits")
        refused(tmp_path / "t.fits", r"t\.fits: no image in this file, it has ")

    @pytest.mark.parametrize("shape", [(70,), (2, 60, 70)])
    def test_dimensions(self, refused, tmp_path, shape):
        path = write_planes(tmp_path / "cube.fits", SCI=np.ones(shape, np.float32))
        refused(path, rf"cube\.fits\[SCI\]: the image has {len(shape)} dimensions.*choose one plane")

    @pytest.mark.parametrize("name", ["ERR", "DQ"])
    def test_other_shape(self, refused, tmp_path, field, name):
        path = write_planes(tmp_path / "s.fits", SCI=field, **{name: np.ones((60, 60), np.int32)})
        refused(
            path,
            rf"s\.fits\[{name}\]: {name.lower()} has shape \(60, 60\) .*s\.fits\[SCI\] has \(60, 70\); "
            rf"give planes of one shape.*input\.{name.lower()}_ext",
        )

    @pytest.mark.parametrize("option", ["--err", "--dq"])
    def test_other_shape_in_a_file_of_its_own(self, refused, tmp_path, field, option):
        """The one at fault is the other file: it is named, with its extension."""
        path = simple(tmp_path / "s.fits", field)
        other = simple(tmp_path / "plane.fits", np.ones((60, 60), np.int16))
        shapes = (
            rf"{option[2:]} has shape \(60, 60\) but the image s\.fits\[PRIMARY\] has \(60, 70\).*{option}"
        )
        refused(path, rf"plane\.fits\[PRIMARY\]: {shapes}", option, str(other))
        name = option[2:].upper()
        other = write_planes(tmp_path / "named.fits", OTHER=field, **{name: np.ones((60, 60), np.int16)})
        refused(path, rf"named\.fits\[{name}\]: {shapes}", option, str(other))

    @pytest.mark.parametrize(("kind", "what"), [("error", "error"), ("ivar", "weight")])
    def test_no_usable_error_in_a_file_of_its_own(self, refused, tmp_path, field, kind, what):
        other = simple(tmp_path / "plane.fits", np.zeros(SHAPE))
        pattern = rf"plane\.fits\[PRIMARY\]: no pixel has a positive {what}; give another.*--err"
        options = ["--err", str(other), "--set", f"input.err_kind={kind}"]
        refused(simple(tmp_path / "s.fits", field), pattern, *options)

    def test_all_masked(self, refused, tmp_path, field):
        path = write_planes(tmp_path / "m.fits", SCI=field, DQ=np.ones(SHAPE, np.int32))
        refused(path, r"m\.fits\[SCI\]: no usable pixel.*DQ")

    def test_all_nan(self, refused, tmp_path):
        path = write_planes(tmp_path / "n.fits", SCI=np.full(SHAPE, np.nan, np.float32))
        refused(path, r"n\.fits\[SCI\]: every pixel is NaN or infinite; is this the right extension")

    @pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
    def test_constant(self, refused, tmp_path, value):
        path = write_planes(tmp_path / "c.fits", SCI=np.full(SHAPE, value, np.float32))
        refused(path, rf"c\.fits\[SCI\]: every usable pixel is {value:g}")

    @pytest.mark.parametrize("value", [0.0, -2.0, np.nan])
    def test_no_usable_error(self, refused, tmp_path, field, value):
        path = write_planes(tmp_path / "e.fits", SCI=field, ERR=np.full(SHAPE, value, np.float32))
        refused(path, r"e\.fits\[ERR\]: no pixel has a positive error.*input\.err_ext")

    def test_no_usable_inverse_variance(self, refused, tmp_path, field):
        path = write_planes(tmp_path / "e.fits", SCI=field, ERR=np.zeros(SHAPE))
        pattern = r"e\.fits\[ERR\]: no pixel has a positive weight.*input\.err_ext"
        refused(path, pattern, "--set", "input.err_kind=ivar")

    def test_wanted_extension(self, refused, tmp_path, field):
        path = write_planes(tmp_path / "w.fits", SCI=field)
        refused(path, r"w\.fits: no image extension DATA; it has", "--set", "input.sci_ext=DATA")


class TestOtherFiles:
    """PSF, list, configuration, output folder."""

    @pytest.fixture
    def image(self, tmp_path, field):
        return simple(tmp_path / "field.fits", field, GAIN=1.0)

    @pytest.mark.parametrize(
        ("table", "pattern"),
        [
            (np.ones((10, 10)), r"p\.fits: psf: shape \(10, 10\) is refused; .*odd sizes"),
            (-np.ones((11, 11)), r"p\.fits: psf: the sum is -121; it must be positive"),
            (np.full((11, 11), np.nan), r"p\.fits: psf: .*NaN"),
            (np.eye(1, 41 * 41).reshape(41, 41), r"p\.fits: the PSF has no width, .*around its middle"),
            (np.ones((4, 11, 11)), r"p\.fits: psf: shape \(4, 11, 11\)"),
            (
                moffat(3.0, radius=45, oversample=1).cube[0],
                r"p\.fits: 91 px on a side is larger than the image field .*cut the PSF.*psf\.oversample",
            ),
        ],
        ids=["even", "negative", "nan", "no width", "3-D", "large"],
    )
    def test_psf(self, refused, image, tmp_path, table, pattern):
        psf = simple(tmp_path / "p.fits", np.asarray(table, np.float32))
        refused(image, pattern, "--psf", str(psf))
        refused(image, pattern, "--set", "psf.kind=file", "--set", f"psf.path={psf}")

    def test_psf_file_that_is_none(self, refused, image, tmp_path):
        refused(image, r"none\.fits: ", "--psf", str(tmp_path / "none.fits"))
        (tmp_path / "text.fits").write_text("no")
        refused(image, r"text\.fits: cannot be read as a FITS file", "--psf", str(tmp_path / "text.fits"))
        Table({"a": [1.0]}).write(tmp_path / "t.fits")
        refused(image, r"t\.fits: no image extension", "--psf", str(tmp_path / "t.fits"))

    @pytest.mark.parametrize("factor", ["x", 0, -2, 2.5])
    def test_psf_header_with_a_strange_oversampling(self, refused, image, tmp_path, factor):
        """The keyword is somebody else's; the message names the file and the setting that overrules it."""
        psf = simple(tmp_path / "p.fits", moffat(3.0, radius=12, oversample=1).cube[0], OVERSAMP=factor)
        refused(image, r"p\.fits: .*OVERSAMP.*psf\.oversample", "--psf", str(psf))

    def test_positions_outside(self, refused, image, tmp_path):
        (tmp_path / "list.csv").write_text("x,y\n10,10\n500,10\n")
        options = ["--positions", str(tmp_path / "list.csv"), "-c", "forced"]
        refused(
            image,
            r"positions: 1 of 2 positions lie outside the image of 70 x 60 pixels .*row 2.*remove these rows",
            *options,
        )

    def test_positions_missing_or_empty(self, refused, image, tmp_path):
        refused(image, r"none\.csv: no such file", "--positions", str(tmp_path / "none.csv"))
        (tmp_path / "list.csv").write_text("x,y\n")
        refused(image, r"list\.csv: the list is empty", "--positions", str(tmp_path / "list.csv"))

    @pytest.mark.parametrize(
        ("options", "pattern"),
        [
            (["--set", "detect.nsgma=4"], r"detect\.nsgma: .*nsigma"),
            (["--set", "stop.max_passes=0"], r"stop\.max_passes: .*0"),
            (["-c", "nircam"], r"nircam.*nircam_"),
            (["--set", "sky.kind=median"], r"sky\.kind: .*mesh"),
        ],
    )
    def test_configuration(self, refused, image, options, pattern):
        refused(image, pattern, *options)

    def test_output_folder_is_a_file(self, image, tmp_path, capsys):
        (tmp_path / "out").write_text("mine")
        assert main(["fit", str(image), "-o", str(tmp_path / "out")]) == REFUSED
        said = capsys.readouterr().err
        assert re.fullmatch(
            r"crowdfit: error: .*out: cannot write there .*; choose another folder with -o\n", said
        )
        assert (tmp_path / "out").read_text() == "mine"

    def test_output_folder_not_writable(self, image, tmp_path, capsys, monkeypatch):
        """Noticed before the fit; tests run as root, so the system's answer is made here."""

        def deny(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("crowdfit.io.atomic.tempfile.TemporaryFile", deny)
        assert main(["fit", str(image), "-o", str(tmp_path / "out")]) == REFUSED
        said = capsys.readouterr().err
        assert "cannot write there (Permission denied)" in said
        assert said.count("\n") == 1
        assert list((tmp_path / "out").iterdir()) == []

    def test_disk_full_while_writing(self, image, tmp_path, capsys, monkeypatch):
        """Nothing half-written: the temporary file goes, no product has its name; status 1, one line."""

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("crowdfit.io.products.fits.HDUList.writeto", full)
        status = main(["fit", str(image), "-o", str(tmp_path / "out"), *QUICK])
        said = [s for s in capsys.readouterr().err.splitlines() if not s.startswith(FIRST_RUN)]
        assert status == 1
        assert len(said) == 1
        assert "No space left on device" in said[0]
        names = {p.name for p in (tmp_path / "out").iterdir()}
        assert "field_fit.fits" not in names
        assert names <= {"field_catalog.fits", "field_run.h5"}


def test_library_raises_the_same(tmp_path):
    """The exception of the library has the message of the command."""
    with pytest.raises(InputError, match="no such file"):
        fit_image(tmp_path / "none.fits")


def catalog_of(run, path, *options):
    """Fit through the command line and read the catalogue back."""
    status, said, left = run(path, *QUICK, *options)
    assert status == DONE, said
    assert len(left) == 3, left
    stem = path.name.split(".")[0]
    return QTable.read(path.parent / "out" / f"{stem}_catalog.fits")


def found_at(table, x, y, within=0.3):
    gap = np.hypot(table["x"].value[:, None] - x, table["y"].value[:, None] - y)
    return (gap.min(axis=0) < within) if len(table) else np.zeros(len(x), bool)


class TestSimplyWorks:
    """Every grid star is found to 0.3 px, whatever the image is like."""

    def check(self, table, expected=None):
        found = found_at(table, GRID_X, GRID_Y)
        assert found[slice(None) if expected is None else expected].all()
        # the PSF of these runs is held at a guess, and two stars on the edge leave a second one beside them
        assert len(table) <= len(GRID_X) + 2
        return table

    def test_plain(self, run, tmp_path, field):
        self.check(catalog_of(run, simple(tmp_path / "f.fits", field)))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30, 3.4e38])
    def test_bad_pixels(self, run, tmp_path, field, value):
        """NaN, inf and huge values are not used, and do not touch a star two pixels away."""
        data = field.copy()
        data[np.round(GRID_Y[::4]).astype(int), np.round(GRID_X[::4]).astype(int) + 3] = value
        data[25:27, 3] = value
        self.check(catalog_of(run, simple(tmp_path / "f.fits", data)))

    def test_half_of_the_image_is_nan(self, run, tmp_path, field):
        data = field.copy()
        data[:, :32] = np.nan
        table = catalog_of(run, simple(tmp_path / "f.fits", data))
        self.check(table, GRID_X > 36)
        assert (table["x"].value > 28).all()

    @pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8", "<f8"])
    def test_byte_orders(self, field, dtype):
        result = fit_image(field.astype(dtype), psf__fwhm=3.0, psf_update__kind="none", stop__max_passes=3)
        self.check(result.catalog)

    def test_integers(self, run, tmp_path, field, capsys):
        """Scaled, unsigned and plain integers; without a gain it works and says what it assumed."""
        scaled = fits.ImageHDU(np.round(field).astype(np.int16), name="SCI")
        scaled.header["BZERO"], scaled.header["BSCALE"] = 1000.0, 0.5
        path = tmp_path / "scaled.fits"
        fits.HDUList([fits.PrimaryHDU(), scaled]).writeto(path)
        unsigned = simple(tmp_path / "unsigned.fits", np.round(field).astype(np.uint16))
        plain = simple(tmp_path / "plain.fits", np.round(field).astype(np.int32))
        for file in (path, unsigned, plain):
            assert main(["fit", str(file), "-o", str(tmp_path / "out"), *QUICK, "-v"]) == DONE
            assert "gain" in capsys.readouterr().err
            table = QTable.read(tmp_path / "out" / f"{file.name.split('.')[0]}_catalog.fits")
            assert found_at(table, GRID_X, GRID_Y).all()

    def test_compressed_files_have_the_same_numbers(self, run, tmp_path, field):
        """gzip, and tile compression without loss (fpack -g)."""
        (tmp_path / "a").mkdir()
        plain = catalog_of(run, simple(tmp_path / "f.fits", field))
        content = io.BytesIO()
        fits.PrimaryHDU(field).writeto(content)
        (tmp_path / "g.fits.gz").write_bytes(gzip.compress(content.getvalue()))
        tiles = fits.CompImageHDU(field, compression_type="GZIP_2", quantize_level=0.0)
        fits.HDUList([fits.PrimaryHDU(), tiles]).writeto(tmp_path / "h.fits.fz")
        for name in ("g.fits.gz", "h.fits.fz"):
            status, said, _ = run(tmp_path / name, *QUICK, out=f"out_{name[0]}")
            assert status == DONE, said
            table = QTable.read(tmp_path / f"out_{name[0]}" / f"{name[0]}_catalog.fits")
            np.testing.assert_array_equal(table["flux"], plain["flux"])
            np.testing.assert_array_equal(table["x"], plain["x"])

    def test_rice_compressed(self, run, tmp_path, field):
        """fpack's default: quantised with dither, so numbers differ by the quantisation only."""
        tiles = fits.CompImageHDU(field, name="SCI", compression_type="RICE_1", quantize_level=16)
        fits.HDUList([fits.PrimaryHDU(), tiles]).writeto(tmp_path / "r.fits.fz")
        self.check(catalog_of(run, tmp_path / "r.fits.fz"))

    @pytest.mark.parametrize(
        ("x", "y"),
        [(0.0, 30.0), (-0.4, 30.0), (69.0, 30.0), (69.4, 59.4), (0.0, 0.0), (35.0, -0.3), (35.0, 59.0)],
    )
    def test_star_on_the_very_edge(self, x, y):
        """Found once, flagged, its flux to 10 % (half of it is off)."""
        result = fit_image(
            stars_at([x, 40.3], [y, 20.2], 1e5), psf=moffat(3.0, radius=24), psf_update__kind="none"
        )
        table = result.catalog
        near = np.hypot(table["x"].value - x, table["y"].value - y) < 1.0
        assert near.sum() == 1
        assert flags.has(table["flags"], "edge")[near].all()
        assert np.abs(table["x"].value[near][0] - x) < 0.2
        assert np.asarray(table["flux"])[near][0] == pytest.approx(1e5, rel=0.10)

    def test_star_beyond_the_edge(self):
        """Its light on the image is explained by a star where it is, and not by one that is not there."""
        psf = moffat(3.0, radius=24)
        result = fit_image(stars_at([-2.0, 40.3], [30.0, 20.2], 1e5), psf=psf, psf_update__kind="none")
        x, y = result.catalog["x"].value, result.catalog["y"].value
        assert np.hypot(x + 2.0, y - 30.0).min() < 0.3
        assert np.abs(significance(result.frame)[20:41, :8]).max() < 6

    def test_no_stars(self, run, tmp_path):
        """An empty, valid catalogue, status 0."""
        data = np.random.default_rng(5).normal(100, 5, SHAPE).astype(np.float32)
        status, said, left = run(simple(tmp_path / "f.fits", data), "--set", "psf.fwhm=3")
        assert status == DONE, said
        assert left == ["f_catalog.fits", "f_fit.fits", "f_report.html", "f_run.h5"]
        table = QTable.read(tmp_path / "out" / "f_catalog.fits")
        assert len(table) == 0
        assert "spread_model" in table.colnames
        assert fits.getdata(tmp_path / "out" / "f_fit.fits", "MODEL").max() == 0

    def test_one_star(self, run, tmp_path):
        table = catalog_of(run, simple(tmp_path / "f.fits", stars_at([35.2], [30.1])))
        assert len(table) == 1

    def test_no_stars_and_nothing_known(self):
        """The PSF of an image of noise cannot be measured; the fit still ends."""
        result = fit_image(np.random.default_rng(5).normal(100, 5, SHAPE))
        assert len(result.catalog) == 0
        assert result.stop_reason in STOP_REASONS

    @pytest.mark.parametrize("level", [-1000.0, 0.0])
    def test_sky_below_zero(self, level):
        """Images with their sky taken off, or with negative values, have noise of their own."""
        data = stars_at(GRID_X, GRID_Y) - 100 + level
        result = fit_image(data, psf__fwhm=3.0, psf_update__kind="none", stop__max_passes=3)
        assert found_at(result.catalog, GRID_X, GRID_Y).all()

    @pytest.mark.parametrize("unit", [1e-15, 1e12])
    def test_extreme_units(self, unit):
        """Nothing in counts: an image in erg/s/cm2/A or in nano-anything gives the same stars."""
        data = stars_at(GRID_X, GRID_Y).astype(np.float64) - 100
        err = np.full(SHAPE, 5.0)
        settings = {"psf__fwhm": 3.0, "psf_update__kind": "none", "stop__max_passes": 3}
        one, other = (fit_image(data * k, err * k, **settings) for k in (1.0, unit))
        assert len(one.catalog) == len(other.catalog)
        np.testing.assert_allclose(
            np.asarray(other.catalog["flux"]) / unit, np.asarray(one.catalog["flux"]), rtol=1e-3
        )


class TestInterrupt:
    """Ctrl-C: status 130, and the finished passes in a record that can be read."""

    def test_in_the_middle_of_a_pass(self, run, tmp_path, field, monkeypatch):
        """While the third pass is at work; what it had done is lost, the two before are kept."""
        import crowdfit.loop  # noqa: PLC0415

        real, calls = crowdfit.loop.summarize, []

        def interrupted(*args):
            calls.append(args[0])
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr("crowdfit.loop.summarize", interrupted)
        path = simple(tmp_path / "f.fits", field)
        status, said, left = run(path, "--set", "psf.fwhm=3", "--set", "stop.min_passes=4")
        assert status == INTERRUPTED
        assert left == ["f_run.h5"]
        assert re.fullmatch(
            r".*f\.fits: interrupted; the finished passes are kept in .*f_run\.h5, and .*--resume.*", said[-1]
        )
        record = read_record(tmp_path / "out" / "f_run.h5")
        assert list(record) == [0, 1]
        assert len(record[1].sources) >= len(GRID_X)

    def test_before_the_first_pass(self, run, tmp_path, field, monkeypatch):
        def interrupted(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr("crowdfit.io.fits.read_exposure", interrupted)
        status, said, left = run(simple(tmp_path / "f.fits", field))
        assert status == INTERRUPTED
        assert left == []
        assert len(said) == 1

    def test_the_next_image_is_not_begun(self, run, tmp_path, field, monkeypatch, capsys):
        paths = [simple(tmp_path / f"{name}.fits", field) for name in "ab"]

        def interrupted(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr("crowdfit.run.iterate", interrupted)
        assert main(["fit", *map(str, paths), "-o", str(tmp_path / "out")]) == INTERRUPTED
        assert "b.fits" not in capsys.readouterr().err

    def test_before_anything(self, tmp_path, monkeypatch, capsys):
        """While the configuration is read, or the folder made."""

        def interrupted(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr("crowdfit.commands.fit.prepare", interrupted)
        assert main(["fit", "f.fits", "-o", str(tmp_path / "out")]) == INTERRUPTED
        # typer swallows the interrupt in some versions; a traceback it never shows
        assert capsys.readouterr().err in ("", "crowdfit: interrupted\n")
        assert not (tmp_path / "out").exists()


def test_out_of_memory_is_one_line(run, tmp_path, field, monkeypatch):
    """A failure of the machine, not of the input: status 1."""

    def exhausted(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("crowdfit.run.iterate", exhausted)
    status, said, _ = run(simple(tmp_path / "f.fits", field))
    assert status == 1
    assert said == ["crowdfit: error: out of memory"]
