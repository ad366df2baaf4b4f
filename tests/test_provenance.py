"""What a fit leaves behind says where it comes from, in every product and format."""

import hashlib
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
from crowdfit.io.cards import read_metadata
from crowdfit.io.run_record import read_record
from crowdfit.io.tables import read_catalog
from crowdfit.psf.analytic import gaussian
from crowdfit.render import render

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
    """P076, C042: all columns of the table are there (ra, dec need a WCS), each with the unit defined for it."""
    table = run[0].catalog
    assert table.colnames == [entry.name for entry in COLUMNS if entry.name not in ("ra", "dec")]
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
