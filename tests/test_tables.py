"""The catalogue in every format: same content, metadata, nothing half-written."""

import sys

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table

from crowdfit.catalog import COLUMNS, build_catalog, column
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.io.cards import add_metadata, read_metadata
from crowdfit.io.formats import FORMATS, check_formats
from crowdfit.io.headers import normalise_unit
from crowdfit.io.tables import _READERS, _WRITERS, read_catalog, write_catalog

METADATA = {
    "crowdfit": "0.1.0",
    "numpy": "2.4",
    "CRDS_CTX": "jwst_1046.pmap",
    "input_checksum": "a" * 64,
    "stop_reason": "it's settled: fewer than 1 % new sources",
    "config": "detect:\n  kind: score   # 'quoted'\n\n  regions: [" + "1, " * 60 + "2]\nsolve: {}",
}


def catalog(unit="MJy/sr", n=6, metadata=None):
    rng = np.random.default_rng(0)
    exposure = Exposure.of(rng.normal(0, 1, (20, 20)), np.ones((20, 20)), np.full((20, 20), 2**31), unit=unit)
    columns = {
        entry.name.replace("<r>", "2fwhm").replace("<p>", "50"): np.arange(n)
        if entry.dtype[0] in "iu"
        else rng.normal(5, 3, n)
        for entry in COLUMNS
        if entry.name not in ("ra", "dec")
    }
    columns["flags"] = np.full(n, 2**31 + 5)
    if n:
        columns["flux_lbs"][0], columns["rchi2"][0], columns["spread_model"][0] = np.nan, np.inf, 1e-300
    return build_catalog(columns, exposure, METADATA if metadata is None else metadata)


def test_every_format_has_its_functions():
    suffixes = [f".{name}" for name in FORMATS]
    assert list(_WRITERS) == list(_READERS) == suffixes


@pytest.mark.parametrize("unit", ["MJy/sr", "electron", "adu", ""])
@pytest.mark.parametrize("suffix", FORMATS)
def test_round_trip(tmp_path, suffix, unit):
    """P075: the same numbers to the last bit, units, descriptions and UCDs in every format."""
    table = catalog(unit)
    path = write_catalog(table, tmp_path / f"c.{suffix}")
    back = read_catalog(path)
    assert back.colnames == table.colnames
    for name in table.colnames:
        there, here = (np.asarray(getattr(t[name], "value", t[name])) for t in (back, table))
        np.testing.assert_array_equal(there, here, err_msg=name)
        assert (there.dtype.kind == "f") == (here.dtype.kind == "f")
        assert back[name].unit == table[name].unit, name
        assert back[name].info.description == column(name).text
        assert back[name].info.meta["ucd"] == column(name).ucd


@pytest.mark.parametrize("suffix", FORMATS)
def test_metadata_round_trip(tmp_path, suffix):
    """P076: versions, configuration and checksum are in every file, the configuration line by line."""
    meta = read_catalog(write_catalog(catalog(), tmp_path / f"c.{suffix}")).meta
    for key, value in METADATA.items():
        assert meta.get(key, meta.get(key.upper())) == value


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("text", ["/a/b.fits\n/c/d.fits", "a: 'b'\n\n  - c", "one line", "x" * 300])
def test_text_keeps_its_lines(tmp_path, suffix, text):
    """P076: whatever quotes a format chooses for it."""
    meta = read_catalog(write_catalog(catalog(metadata={"notes": text}), tmp_path / f"c.{suffix}")).meta
    assert meta.get("notes", meta.get("NOTES")) == text


BUNITS = {
    "adu": "adu", "DN": "adu", "counts": "ct", "COUNTS": "ct", "electron": "electron", "ELECTRONS": "electron",
    "e-/s": "electron / s", "ELECTRONS/S": "electron / s", "MJy/sr": "MJy / sr", "nJy": "nJy", "DN/s": "adu / s",
    "mJy/beam": "mJy / beam", "erg/s/cm2/Angstrom": "erg / (Angstrom s cm2)",
}  # fmt: skip


@pytest.mark.parametrize("bunit", BUNITS)
@pytest.mark.parametrize("suffix", ["fits", "ecsv", "vot"])
@pytest.mark.parametrize("reader", [Table.read, QTable.read, read_catalog])
def test_units_of_common_images_read_without_warnings(tmp_path, suffix, bunit, reader):
    """P075, P076: astropy reads the unit of every flux column, without a warning, and the same numbers.

    Electrons are a unit of neither the FITS standard nor VOUnits; warnings are errors here.
    """
    table = catalog(normalise_unit(bunit))
    back = reader(write_catalog(table, tmp_path / f"c.{suffix}"))
    assert back.colnames == table.colnames
    for name in ("flux", "flux_err", "sky"):
        assert str(back[name].unit) == BUNITS[bunit]
        values = getattr(back[name], "value", back[name])
        np.testing.assert_array_equal(np.asarray(values), table[name].value)
    if suffix != "vot":  # there a unit in quotes is a private one of the same name
        assert back["flux"].unit == u.Unit(BUNITS[bunit])
    assert back["x"].unit == u.pix


def test_fits_unit_without_a_standard_spelling_can_be_seen(tmp_path):
    """People and programs other than astropy find the unit in the description of the column."""
    path = write_catalog(catalog("electron"), tmp_path / "c.fits")
    header = fits.getheader(path, "CATALOG")
    number = catalog().colnames.index("flux") + 1
    assert f"TUNIT{number}" not in header
    assert header[f"TXUNI{number}"] == "electron"
    assert header[f"TCOMM{number}"] == f"{column('flux').text} [electron]"
    back = read_catalog(path)
    assert back["flux"].info.description == column("flux").text
    assert not [key for key in back.meta if key.startswith("TXUNI")]


@pytest.mark.parametrize("unit", ["furlongs", "1e-07 Jy", "7 electron", "kelectron2"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_units_of_any_kind_survive(tmp_path, suffix, unit):
    """Unknown names and odd scales: never a crash; kept wherever the format can hold them."""
    back = read_catalog(write_catalog(catalog(unit), tmp_path / f"c.{suffix}"))
    expected = catalog(unit)["flux"].unit
    assert back["flux"].unit in (expected, None)
    if suffix != "vot":
        assert back["flux"].unit == expected


@pytest.mark.parametrize("suffix", FORMATS)
def test_file_that_is_no_catalogue_is_refused(tmp_path, suffix):
    """P013: one line that names the file."""
    path = tmp_path / f"c.{suffix}"
    path.write_bytes(b"\x00\x01 nonsense\n" * 300)
    with pytest.raises(InputError, match=r"cannot be read as a catalogue \([^\n]*\); give a file"):
        read_catalog(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_empty_catalogue(tmp_path, suffix):
    back = read_catalog(write_catalog(catalog(n=0), tmp_path / f"c.{suffix}"))
    assert len(back) == 0
    assert "flux" in back.colnames


def test_fits_is_plain_for_other_programs(tmp_path):
    """Units, comments and UCDs in the usual cards; one table; checksums that hold."""
    path = write_catalog(catalog("adu"), tmp_path / "c.fits")
    with fits.open(path, checksum=True) as hdus:
        header = hdus[1].header
        assert len(hdus) == 2
        assert header["TTYPE2"] == "x"
        assert header["TUNIT2"] == "pix"
        assert header["TUCD2"] == column("x").ucd
        assert header["TCOMM2"] == column("x").text
        assert header["CROWDFIT"] == "0.1.0"
        assert hdus[1].data["flags"][0] == 2**31 + 5
    assert Table.read(path)["flux"].unit == u.adu


def test_csv_reads_with_plain_tools(tmp_path):
    path = write_catalog(catalog(), tmp_path / "c.csv")
    table = Table.read(path, format="ascii.csv", comment="#")
    assert table.colnames == catalog().colnames
    first = path.read_text().splitlines()[0]
    assert first.startswith("# metadata")


def test_ecsv_and_votable_read_with_astropy(tmp_path):
    """P078, N019: as other programs do."""
    for suffix in ("ecsv", "vot"):
        table = QTable.read(write_catalog(catalog("Jy"), tmp_path / f"c.{suffix}"))
        assert table["flux"].unit == u.Jy
        assert table["x"].info.meta["ucd"] == column("x").ucd


def test_unknown_format(tmp_path):
    with pytest.raises(InputError, match="'txt' is not a catalogue format; choose from fits, ecsv, csv"):
        write_catalog(catalog(), tmp_path / "c.txt")
    with pytest.raises(InputError, match="no such file"):
        read_catalog(tmp_path / "c.fits")
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    """P103: a missing optional package is named, with the way to get it, before the work starts."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'crowdfit\[parquet\]'"):
        check_formats(("fits", "parquet"))


def test_failed_write_leaves_the_old_file(tmp_path):
    path = write_catalog(catalog(n=2), tmp_path / "c.fits")
    before = path.read_bytes()
    broken = catalog(n=3)
    broken["x"] = np.array(["a", "b", "c"])  # no such type in a catalogue
    with pytest.raises(KeyError):
        write_catalog(broken, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_cards_of_any_kind():
    """Keys of any length, text of any length, several of them alike, quotes, numbers, non-ASCII."""
    metadata = {
        "short": "v",
        "a_long_key_name": "v",
        "number": 3,
        "real": 0.25,
        "yes": True,
        "long": "x" * 200,
        "quote": "it's",
        "a_long_key_quote": "'" * 30,
        "config_a": "1\n2",
        "config_b": "3\n4",
        "conf": "",
        "text0001": "looks like a numbered card",
        "greek": "\N{GREEK SMALL LETTER MU}m",
    }
    header = fits.Header()
    add_metadata(header, metadata)
    back = {
        key.lower(): value for key, value in read_metadata(fits.Header.fromstring(header.tostring())).items()
    }
    assert back == metadata | {"greek": "\\u03bcm"}
