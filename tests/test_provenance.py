"""What a fit leaves behind says where it comes from, and a run record of another fit is refused by name."""

import hashlib
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import Table

import crowdfit
from crowdfit.api import fit_image
from crowdfit.catalog import COLUMNS
from crowdfit.config import config_hash, dump, load_config
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.io.cards import read_metadata
from crowdfit.io.fits import read_exposure
from crowdfit.io.run_record import Head, RunRecord, read_head, read_record
from crowdfit.io.tables import read_catalog
from crowdfit.photometry.aperture_columns import APERTURE_ROWS
from crowdfit.provenance import (
    check_same_fit,
    checksums,
    differences,
    find_record,
    metadata_of,
    other_packages,
)
from crowdfit.psf.analytic import gaussian
from crowdfit.psf.field import Polynomial
from crowdfit.render import render
from crowdfit.sources import Sources

SHAPE = (48, 56)
SETTINGS = ("psf_update.kind=none", "stop.max_passes=2", "stop.min_passes=1", "input.gain=2.5")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """An image with a JWST-like header, errors and PSF in files of their own."""
    folder = tmp_path_factory.mktemp("field")
    psf = gaussian(2.5, radius=8)
    x, y = np.random.default_rng(1).uniform(4, 44, (2, 12))
    stars = render(psf, x, y, np.full(12, 3000.0), SHAPE)
    header = fits.Header()
    header["BUNIT"], header["FILTER"], header["XPOSURE"] = "DN/s", "F115W", 53.7
    header["CAL_VER"], header["CRDS_CTX"], header["GAIN"] = "1.14.0", "jwst_1225.pmap", 1.8
    made = {name: folder / f"{name}.fits" for name in ("sci", "err", "psf")}
    data = stars + np.random.default_rng(2).normal(50, 4, SHAPE)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data.astype("f4"), header, "SCI")]).writeto(made["sci"])
    fits.writeto(made["err"], np.full(SHAPE, 4.0))
    fits.writeto(made["psf"], psf.native(15))
    return made


@pytest.fixture(scope="module")
def run(paths, tmp_path_factory):
    """The fit, and its products."""
    out = tmp_path_factory.mktemp("out")
    config = load_config(None, SETTINGS)
    result = fit_image(
        str(paths["sci"]), str(paths["err"]), psf=str(paths["psf"]), config=config, record=out / "sci_run.h5"
    )
    result.write(out, formats=("fits", "csv"))
    return result, out


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_versions_parameters_hashes_and_calibration_are_in_the_metadata(run, paths):
    """P076: software versions, resolved parameters, hashes of all inputs, CRDS context."""
    result, _ = run
    meta = result.metadata
    assert meta["crowdfit"] == crowdfit.__version__
    for package in ("numpy", "scipy", "astropy", "numba", "sep"):
        assert meta[package] == version(package)
    assert meta["sha256"] == sha256(paths["sci"])
    assert meta["SHA256_ERR"] == sha256(paths["err"])
    assert meta["sha256_psf"] == sha256(paths["psf"])
    assert "SHA256_DQ" not in meta
    assert (meta["CRDS_CTX"], meta["CAL_VER"]) == ("jwst_1225.pmap", "1.14.0")
    assert (meta["band"], meta["unit"]) == ("F115W", "adu/s")
    assert float(meta["EXPTIME"]) == 53.7
    assert meta["config"] == dump(result.config)
    assert meta["config_hash"] == config_hash(result.config)
    assert yaml.safe_load(meta["config"])["psf_update"] == {"kind": "none"}


def test_what_won_over_the_header_is_in_the_metadata(run):
    """P005: the gain that was used, and that it is not the one of the header."""
    meta = run[0].metadata
    assert float(meta["gain"]) == 2.5
    assert "gain = 2.5 as configured, not 96.66 as in the header" in meta["notes"]


def test_metadata_are_in_every_product(run):
    """P076: catalogue as FITS and CSV, fit image, run record."""
    result, out = run
    record = read_record(out / "sci_run.h5")
    headers = {
        "fits": read_catalog(out / "sci_catalog.fits").meta,
        "csv": read_catalog(out / "sci_catalog.csv").meta,
        "image": read_metadata(fits.getheader(out / "sci_fit.fits")),
        "record": record.metadata,
    }
    for where, meta in headers.items():
        found = {key.lower(): value for key, value in meta.items()}
        for key in (
            "crowdfit",
            "numpy",
            "sha256",
            "SHA256_ERR",
            "sha256_psf",
            "CRDS_CTX",
            "config_hash",
            "gain",
        ):
            assert str(found[key.lower()]) == result.metadata[key], (where, key)
        assert yaml.safe_load(found["config"]) == yaml.safe_load(dump(result.config)), where
    assert record.config_yaml == dump(result.config)
    assert record.inputs["image"] == result.metadata["sha256"]


def test_hdf5_fits_and_csv_hold_the_same_catalogue(run):
    """P075: same columns, numbers to the last bit, units, descriptions and UCDs; also for plain astropy."""
    result, out = run
    tables = {
        "fits": read_catalog(out / "sci_catalog.fits"),
        "csv": read_catalog(out / "sci_catalog.csv"),
        "hdf5": read_record(out / "sci_run.h5").catalog,
        "astropy": Table.read(out / "sci_run.h5", path="catalog"),
    }
    assert len(result.catalog) >= 10
    for where, table in tables.items():
        assert table.colnames == result.catalog.colnames
        for name in table.colnames:
            here, there = (np.asarray(getattr(t[name], "value", t[name])) for t in (table, result.catalog))
            np.testing.assert_array_equal(here, there, err_msg=f"{where} {name}")
            assert table[name].unit == result.catalog[name].unit, (where, name)
            assert table[name].info.description == result.catalog[name].info.description
            assert table[name].info.meta["ucd"] == result.catalog[name].info.meta["ucd"]


def test_every_column_has_its_unit(run):
    """P076, C042: all columns are there (ra, dec need a WCS, apertures are measured on demand), each with its unit."""
    table = run[0].catalog
    others = {"ra", "dec", *(name for name, *_ in APERTURE_ROWS)}
    assert table.colnames == [entry.name for entry in COLUMNS if entry.name not in others]
    for entry in COLUMNS:
        if entry.name in table.colnames:
            unit = {"image": "adu / s", "": "None"}.get(entry.unit, entry.unit)
            assert str(table[entry.name].unit) == unit


def test_arrays_are_hashed_too(paths):
    """P076: without files the checksums are those of the values."""
    data = fits.getdata(paths["sci"], "SCI").astype("f4")
    err = np.full(SHAPE, 4.0)
    meta = fit_image(
        data, err, psf=gaussian(2.5, radius=8), psf_update__kind="none", stop__max_passes=1
    ).metadata
    assert meta["sha256"] == hashlib.sha256(data.tobytes()).hexdigest()
    assert meta["SHA256_ERR"] == hashlib.sha256(err.tobytes()).hexdigest()
    assert "sha256_psf" not in meta


def head_of(path, exposure, config, inputs):
    return Head(path, metadata_of(exposure, config), inputs, dump(config), n_passes=2, stop_reason=None)


def other(config, *settings):
    """Return the differences that some settings make."""
    return differences(dump(load_config(config)), dump(load_config(config, settings)))


class TestDifferences:
    """P100: settings that have a say in the numbers, by name, old and new as they are written."""

    def test_values(self):
        assert other(None, "stop.max_passes=3", "detect.purity=0.5", "prune.nsigma=1e-5") == {
            "stop.max_passes": ("14", "3"),
            "detect.purity": (str(load_config().detect.purity), "0.5"),
            "prune.nsigma": (str(load_config().prune.nsigma), "1.0e-05"),
        }

    def test_lists_and_nothing(self):
        found = other(None, "input.mask_regions=[[0, 3, 0, 4], [1, 2, 3, 4]]", "sky.mesh_px=32")
        assert found == {
            "input.mask_regions": ("[]", "[[0, 3, 0, 4], [1, 2, 3, 4]]"),
            "sky.mesh_px": ("null", "32.0"),
        }

    def test_another_kind_is_one_difference(self):
        """The other fields of the stage belong to another class."""
        assert other(None, "solve.kind=lsqr") == {"solve.kind": ("pcg", "lsqr")}
        assert other(None, "psf.kind=file", "psf.path='a: b.fits'") == {"psf.kind": ("blind", "file")}

    def test_callables_by_name(self):
        config = load_config()
        assert differences(dump(config), dump(replace(config, sky=head_of))) == {
            "sky.kind": ("mesh", f"{__name__}.head_of")
        }

    @pytest.mark.parametrize(
        "settings",
        [
            ("output.formats=[csv]", "output.report=no", "output.run_record=no"),
            ("input.verify=no",),
            ("tiles.layout=[2, 3]", "tiles.memory_mb=900"),
            (),
        ],
    )
    def test_what_has_no_say(self, settings):
        assert other("irac", *settings) == {}

    def test_file_of_the_psf_is_compared_by_its_content(self):
        one, two = (dump(load_config(None, ["psf.kind=file", f"psf.path={name}"])) for name in ("a", "b/a"))
        assert differences(one, two) == {}

    def test_every_other_setting_has_a_say(self):
        """A field that is added counts unless it is said not to; one that is not there is said to be so."""
        stages = yaml.safe_load(dump(load_config()))
        wanted = {
            f"{stage}.{name}"
            for stage, values in stages.items()
            for name in (["kind"] if "kind" in values else values)
            if stage not in {"output", "tiles", "joint"}
        }
        found = differences(dump(load_config()), "")
        assert set(found) == wanted
        assert {new for _, new in found.values()} == {"not set"}


class TestSameFit:
    """P100: trap: refuse to resume when the inputs or configuration changed, naming the difference."""

    @pytest.fixture
    def config(self):
        return load_config(None, SETTINGS)

    @pytest.fixture
    def exposure(self, paths, config):
        return read_exposure(paths["sci"], config.input, err=paths["err"])

    def refusal(self, tmp_path, was, now):
        """Return the lines of the refusal of (exposure, config, inputs) `now` by the record of others."""
        with pytest.raises(InputError) as caught:
            check_same_fit(head_of(tmp_path / "x_run.h5", *was), *now)
        lines = str(caught.value).splitlines()
        assert lines[-1].startswith(
            "only the same fit can be resumed; restore what differs, or leave out --resume"
        )
        return lines[:-1]

    def test_the_same(self, tmp_path, exposure, config):
        inputs = checksums(exposure, config)
        check_same_fit(head_of(tmp_path / "x_run.h5", exposure, config, inputs), exposure, config, inputs)

    def test_settings(self, tmp_path, exposure, config):
        inputs = checksums(exposure, config)
        changed = load_config(None, [*SETTINGS, "detect.purity=0.7", "solve.kind=lsqr"])
        assert self.refusal(tmp_path, (exposure, config, inputs), (exposure, changed, inputs)) == [
            f"detect.purity: {config.detect.purity} in {tmp_path}/x_run.h5, 0.7 now",
            f"solve.kind: pcg in {tmp_path}/x_run.h5, lsqr now",
        ]

    def test_image_of_that_name_with_other_pixels(self, paths, tmp_path, exposure, config):
        again = tmp_path / "sci.fits"
        data = fits.getdata(paths["sci"], "SCI")
        data[3, 4] += 1
        fits.HDUList(
            [fits.PrimaryHDU(), fits.ImageHDU(data, fits.getheader(paths["sci"], 1), "SCI")]
        ).writeto(again)
        changed = read_exposure(again, config.input, err=paths["err"])
        old, new = checksums(exposure, config), checksums(changed, config)
        (line,) = self.refusal(tmp_path, (exposure, config, old), (changed, config, new))
        assert line == (
            f"{tmp_path}/x_run.h5: was made from another image sci.fits (SHA-256 {sha256(paths['sci'])[:12]} then, "
            f"{sha256(again)[:12]} now)"
        )

    def test_error_plane_left_out(self, paths, tmp_path, exposure, config):
        changed = read_exposure(paths["sci"], config.input)
        old, new = checksums(exposure, config), checksums(changed, config)
        (line,) = self.refusal(tmp_path, (exposure, config, old), (changed, config, new))
        assert f"was made from other errors (SHA-256 {sha256(paths['err'])[:12]} then, none now)" in line

    def test_list_of_stars(self, tmp_path, exposure, config):
        lists = [Sources.at([3.0, 4.0], [5.0, y]) for y in (6.0, 7.0)]
        old, new = (checksums(exposure, config, sources=stars) for stars in lists)
        (line,) = self.refusal(tmp_path, (exposure, config, old), (exposure, config, new))
        assert "was made from another list of positions" in line
        assert checksums(exposure, config, sources=Sources.at([3.0, 4.0], [5.0, 6.0])) == old

    def test_psf(self, paths, tmp_path, exposure):
        """A file by what is in it, wherever it lies; values by themselves."""
        moved, changed = tmp_path / "moved.fits", tmp_path / "changed.fits"
        moved.write_bytes(paths["psf"].read_bytes())
        fits.writeto(changed, 2 * fits.getdata(paths["psf"]))
        of_file = {
            path: load_config(None, ["psf.kind=file", f"psf.path={path}"])
            for path in (paths["psf"], moved, changed)
        }
        first, again, other = (checksums(exposure, config) for config in of_file.values())
        assert first == again
        config = of_file[changed]
        (line,) = self.refusal(tmp_path, (exposure, of_file[moved], first), (exposure, config, other))
        assert f"was made from another PSF {changed}" in line
        given = gaussian(2.5, radius=8)
        kinds = [
            given,
            replace(given, field=Polynomial(0, (1.0, 2.0), (1.0, 1.0))),
            given.native(15),
            given.native(17),
        ]
        assert len({checksums(exposure, load_config(), psf)["psf"] for psf in kinds}) == len(kinds)
        with pytest.raises(InputError, match=r"none\.fits: cannot be read .*; check psf.path"):
            checksums(exposure, load_config(None, ["psf.kind=file", "psf.path=none.fits"]))

    def test_exposure_changed_by_hand(self, tmp_path, exposure, config):
        """The checksums of its files no longer say what it holds."""
        old = checksums(exposure, config)
        for name, value in {"ivar": 2 * exposure.ivar, "gain": 3.0, "data": exposure.data + 1}.items():
            changed = replace(exposure, **{name: value})
            now = (changed, config, checksums(changed, config))
            (line,) = self.refusal(tmp_path, (exposure, config, old), now)
            assert line.endswith("the values, errors or mask of sci were others when this run began")
        plain = Exposure.of(exposure.data, exposure.ivar)
        assert checksums(plain, config)["image"] == ""

    def test_other_crowdfit(self, tmp_path, exposure, config):
        """What its settings mean may have changed, so they are not compared."""
        inputs = checksums(exposure, config)
        head = head_of(tmp_path / "x_run.h5", exposure, config, inputs)
        head.metadata["crowdfit"] = "0.0.7"
        with pytest.raises(
            InputError, match=rf"x_run\.h5: crowdfit 0\.0\.7 .*is {crowdfit.__version__}; resume"
        ):
            check_same_fit(head, exposure, load_config(), inputs)

    def test_other_packages(self, tmp_path, exposure, config):
        """They are no other fit, but their names are told."""
        inputs = checksums(exposure, config)
        head = head_of(tmp_path / "x_run.h5", exposure, config, inputs)
        metadata = metadata_of(exposure, config)
        assert other_packages(head, metadata) == []
        head.metadata["scipy"] = "0.9"
        check_same_fit(head, exposure, config, inputs)
        assert other_packages(head, metadata) == [f"scipy 0.9 -> {version('scipy')}"]

    def test_where_there_is_nothing_to_go_on_from(self, tmp_path, exposure, config, run):
        """No file, or one of a run that was killed in its first pass, which may be of any settings."""
        inputs = checksums(exposure, config)
        assert find_record(tmp_path / "none.h5", exposure, config, inputs) is None
        RunRecord(tmp_path / "empty.h5").start({}, "", {})
        assert find_record(tmp_path / "empty.h5", exposure, config, inputs) is None
        _, out = run
        with pytest.raises(InputError, match="psf.kind: file in"):
            find_record(out / "sci_run.h5", exposure, config, inputs)
        assert read_head(out / "sci_run.h5").n_passes == 2
