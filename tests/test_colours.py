"""Bands matched in a crowd: who belongs to whom, what a colour and its error are, and what is written."""

import logging

import numpy as np
import pytest
from astropy import units as u
from astropy.io.votable.ucd import parse_ucd
from astropy.table import QTable, Table

from crowdfit import flags
from crowdfit.catalog import brightness
from crowdfit.cli import main
from crowdfit.colours import COLOUR_COLUMNS, match_bands, write_eazy
from crowdfit.errors import InputError
from crowdfit.io.tables import read_catalog, write_catalog

SEVERAL = int(flags.bit("several"))


def catalog(x, y, flux, err=1.0, *, band="", sky=True, zero_point=None, bits=0):
    """A catalogue of stars at x, y (mas or pix), calibrated to AB if it has a zero point."""
    x, y, flux = (np.atleast_1d(np.asarray(values, float)) for values in (x, y, flux))
    err = np.broadcast_to(np.asarray(err, float), flux.shape)
    table = QTable(meta={"band": band})
    table["id"] = np.arange(len(x))
    if sky:
        table["ra"], table["dec"] = (10 + x / 3.6e6) * u.deg, y / 3.6e6 * u.deg
    else:
        table["x"], table["y"] = x * u.pix, y * u.pix
    table["flux"], table["flux_err"] = flux * u.adu, err * u.adu
    values = brightness(flux, err)
    table["mag"], table["mag_err"] = values["mag"] * u.mag, values["mag_err"] * u.mag
    if zero_point is not None:
        table["mag_cal"], table["mag_cal_err"] = (
            (values["mag"] + zero_point) * u.mag,
            values["mag_err"] * u.mag,
        )
        table["mag_err_blend"] = np.full(len(x), 0.03) * u.mag
        table["mag_err_sky"] = np.full(len(x), np.nan) * u.mag
        table["mag_err_sys"] = np.full(len(x), 0.02) * u.mag
        scale = 10 ** (-0.4 * (zero_point - 8.90))
        table["flux_cal"], table["flux_cal_err"] = flux * scale * u.Jy, err * scale * u.Jy
        table.meta["mag_system"] = "AB"
    table["flags"] = np.full(len(x), bits, np.uint32)
    return table


def crowd(n=400, seed=2, side=6000.0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, side, n), rng.uniform(0, side, n), 10 ** rng.uniform(2, 4, n)


def test_stars_of_a_crowd_find_themselves():
    """Positions with errors, a shift between the bands, stars of one band only, any order: pairs are the true ones."""
    rng = np.random.default_rng(7)
    x, y, flux = crowd()
    order = rng.permutation(400)[:350]
    noise = rng.normal(0, 4, (2, 350))
    second = catalog(x[order] + 60 + noise[0], y[order] - 30 + noise[1], 2 * flux[order])
    found = match_bands({"a": catalog(x, y, flux), "b": second}, "0.06 arcsec")
    assert len(found) > 0.95 * 350
    right = order[found["row_2"]] == found["row_1"]
    assert right.mean() > 0.99
    alone = right & (found["flags"] & SEVERAL == 0)
    np.testing.assert_allclose(found["colour_12"].value[alone], 2.5 * np.log10(2), rtol=1e-9)
    shift, unit = found.meta["shift_2"].split()
    assert unit == "arcsec"
    assert float(shift) == pytest.approx(np.hypot(0.06, 0.03), rel=0.05)
    assert np.median(found["sky_separation_2"].value) == pytest.approx(4e-3 * 1.18, rel=0.15)
    assert np.all(np.diff(found["flux_1"].value) <= 0)
    np.testing.assert_allclose(found["ra"].value, 10 + x[found["row_1"]] / 3.6e6)


def test_shift_beyond_the_next_star():
    """Bands that lie further apart than neighbouring stars: what most pairs agree on is taken out."""
    rng = np.random.default_rng(8)
    x, y, flux = crowd(2000, side=200.0)
    second = catalog(x + 8 + rng.normal(0, 0.1, 2000), y - 4, 2 * flux, sky=False)
    found = match_bands({"a": catalog(x, y, flux, sky=False), "b": second}, "2 pix")
    assert np.mean(found["row_1"] == found["row_2"]) > 0.95
    assert float(found.meta["shift_2"].split()[0]) == pytest.approx(np.hypot(8, 4), rel=0.01)


def test_chance_is_that_of_unrelated_lists():
    """Two lists that have nothing in common: a pair is as near as it is by chance, at any density."""
    x, y, flux = crowd(3000)
    x[:1500] /= 4  # four times as dense on one side
    x2, y2, flux2 = crowd(3000, seed=3)
    x2[:1500] /= 4
    found = match_bands({"a": catalog(x, y, flux), "b": catalog(x2, y2, flux2)}, "0.03 arcsec")
    chance = found["chance_2"].value
    assert len(found) > 200
    assert np.all((chance >= 0) & (chance <= 1))
    true = match_bands({"a": catalog(x, y, flux), "b": catalog(x + 1, y, flux)}, "0.03 arcsec")
    assert np.median(true["chance_2"].value) < 1e-2
    assert np.median(chance) > 0.1


@pytest.mark.parametrize("several", ["sum", "flag"])
def test_blend_of_one_band(several):
    """C037: what one band resolves and the other does not is added up, or flagged and left without a colour."""
    first = catalog([0, 40, 1000], [0, 0, 0], [300.0, 100.0, 50.0], [3.0, 4.0, 1.0], bits=2)
    second = catalog([10, 1000], [0, 0], [400.0, 50.0])
    found = match_bands({"a": first, "b": second}, "0.1 arcsec", several)
    assert found["n_1"].tolist() == [2, 1]
    assert found["n_2"].tolist() == [1, 1]
    assert found["flags"].tolist() == [SEVERAL | 2, 2]
    assert found["colour_12"].value[1] == pytest.approx(0)
    if several == "flag":
        assert np.isnan(found["colour_12"].value[0])
        assert np.isnan(found["colour_err_12"].value[0])
        assert found["flux_1"].value[0] == 300
        return
    assert found["flux_1"].value[0] == pytest.approx(400)
    assert found["flux_err_1"].value[0] == pytest.approx(5)
    assert found["colour_12"].value[0] == pytest.approx(0, abs=1e-12)
    expected = 2.5 / np.log(10) * np.hypot(5 / 400, 1 / 400)
    assert found["colour_err_12"].value[0] == pytest.approx(expected)


def test_pair_that_both_bands_resolve_is_two_stars():
    """A neighbour inside the radius spoils nothing as long as it has a partner of its own."""
    x, flux = [0, 40], [300.0, 100.0]
    found = match_bands({"a": catalog(x, [0, 0], flux), "b": catalog(x, [0, 0], flux)}, "0.1 arcsec")
    assert found["n_1"].tolist() == found["n_2"].tolist() == [1, 1]
    assert not np.any(found["flags"] & SEVERAL)
    assert found["row_2"].tolist() == [0, 1]


def test_default_radius_is_that_of_the_crowd(caplog):
    """Half of the distance between neighbours, where that is less than 0.375 arcsec."""
    x, y = (axis.ravel() * 100.0 for axis in np.mgrid[:10, :10])
    dense = catalog(x, y, np.ones(100))
    assert u.Quantity(match_bands({"a": dense, "b": dense}).meta["match_radius"]).to_value(
        "mas"
    ) == pytest.approx(50)
    sparse = catalog(20 * x, 20 * y, np.ones(100))
    assert match_bands({"a": sparse, "b": sparse}).meta["match_radius"] == "0.375 arcsec"


def test_third_band():
    """Stars that the third band lacks keep their first colour; on pixels."""
    first = catalog([5, 20, 40], [5, 5, 5], [400.0, 300.0, 200.0], sky=False, band="B")
    second = catalog([5, 20, 40], [5, 5, 5], [200.0, 300.0, 100.0], sky=False, band="V")
    third = catalog([40.2, 5.1], [5, 5], [100.0, 100.0], sky=False, band="I")
    found = match_bands({"a": first, "b": second, "c": third}, 1.0)
    assert found["row_3"].tolist() == [1, -1, 0]
    np.testing.assert_allclose(found["pixel_separation_3"].value, [0.1, np.nan, 0.2])
    np.testing.assert_allclose(found["colour_23"].value, [-2.5 * np.log10(2), np.nan, 0], atol=1e-12)
    assert np.isfinite(found["colour_12"].value).all()
    assert [found.meta[f"band_{n}"] for n in (1, 2, 3)] == ["B", "V", "I"]
    assert found["n_3"].tolist() == [1, 0, 1]


def test_calibrated_magnitudes_and_their_errors():
    """P064: calibrated where all are; random parts and those that all stars share are carried on apart."""
    first = catalog([0, 500], [0, 0], [300.0, 100.0], zero_point=25.0, band="F090W")
    second = catalog([0, 500], [0, 0], [300.0, 100.0], zero_point=24.0, band="F150W")
    found = match_bands({"a": first, "b": second}, 0.1)
    np.testing.assert_allclose(found["colour_12"].value, 1.0)
    random = np.hypot(2.5 / np.log(10) / 300, 0.03)
    assert found["mag_err_1"].value[0] == pytest.approx(random)
    assert found["colour_err_12"].value[0] == pytest.approx(np.sqrt(2) * random)
    assert found["colour_err_sys_12"].value[0] == pytest.approx(np.sqrt(2) * 0.02)
    assert found["flux_1"].unit == u.Jy
    assert found.meta["mag_system"] == "AB"


def test_one_calibrated_band_is_not_enough(caplog):
    first = catalog([0], [0], [300.0], zero_point=25.0)
    with caplog.at_level(logging.WARNING):
        found = match_bands({"a": first, "b": catalog([0], [0], [300.0])}, 0.1)
    assert found.meta["mag_system"] == "instrumental"
    assert found["colour_12"].value[0] == pytest.approx(0)
    assert "b: no calibrated magnitudes" in caplog.text


def test_no_common_star():
    found = match_bands({"a": catalog([0], [0], [1.0]), "b": catalog([9000], [0], [1.0])}, 0.1)
    assert len(found) == 0
    assert "colour_12" in found.colnames


def test_columns_are_those_of_the_definitions():
    """Each column is one that is described, with its unit; the names of numbered ones too."""
    three = {name: catalog([0], [0], [1.0]) for name in "abc"}
    found = match_bands(three, 0.1)
    known = {entry.name: entry for entry in COLOUR_COLUMNS}
    assert len(known) == len(COLOUR_COLUMNS)
    assert set(known) - set(found.colnames) == {"x", "y", "pixel_separation_2", "pixel_separation_3"}
    assert all(found[name].info.description == known[name].text for name in found.colnames)
    for entry in COLOUR_COLUMNS:
        parse_ucd(entry.ucd, check_controlled_vocabulary=True)
    assert known["mag_2"].text == "magnitude in band 2"
    assert known["n_2"].text.startswith("detections of band 2")


@pytest.mark.parametrize(
    ("catalogs", "options", "words"),
    [
        ({"a": catalog([0], [0], [1.0])}, {}, "1 catalogues are refused"),
        ({name: catalog([0], [0], [1.0]) for name in "abcd"}, {}, "4 catalogues are refused"),
        ({"a": catalog([0], [0], [1.0]), "b": Table({"flux": [1.0]})}, {}, "b: has no column flux_err, mag"),
        ({name: catalog([0], [0], [1.0]) for name in "ab"}, {"several": "best"}, "several: 'best'"),
        ({name: catalog([0], [0], [1.0]) for name in "ab"}, {"radius": -1}, "radius: -1"),
    ],
)
def test_refusals(catalogs, options, words):
    with pytest.raises(InputError, match=words):
        match_bands(catalogs, **options)


def test_systems_must_agree():
    first, second = (catalog([0], [0], [1.0], zero_point=25.0) for _ in range(2))
    second.meta["mag_system"] = "Vega"
    with pytest.raises(InputError, match="AB, Vega"):
        match_bands({"a": first, "b": second}, 0.1)


# files


@pytest.fixture
def files(tmp_path):
    x, y, flux = crowd()
    paths = [tmp_path / f"{name}_catalog.fits" for name in ("one", "two", "three")]
    for path, zero_point in zip(paths, (25.0, 24.5, 24.0), strict=True):
        write_catalog(catalog(x, y, flux, zero_point=zero_point, band=path.stem[:3].upper()), path)
    return [str(path) for path in paths]


def test_command(files, tmp_path, capsys):
    """Table and diagram of two bands, and of three; what was done is said."""
    out = tmp_path / "out.fits"
    assert main(["cmd", *files[:2], "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "400 stars in ONE and TWO" in said
    assert "AB magnitudes" in said
    table = read_catalog(out)
    np.testing.assert_allclose(table["colour_12"].value, 0.5)
    two = out.with_suffix(".png").read_bytes()
    assert two[:4] == b"\x89PNG"
    other = tmp_path / "three.ecsv"
    plot = tmp_path / "three.pdf"
    assert main(["cmd", *files, "-o", str(other), "--plot", str(plot), "-q"]) == 0
    assert plot.read_bytes()[:4] == b"%PDF"
    assert "colour_23" in read_catalog(other).colnames


def test_columns_are_printed(capsys):
    assert main(["columns", "--colours"]) == 0
    assert "colour_err_sys_12" in capsys.readouterr().out


def test_eazy_table(files, tmp_path):
    """P067: fluxes in uJy, whose zero point is 23.9, under the numbers of the filters."""
    out, eazy = tmp_path / "out.ecsv", tmp_path / "out.cat"
    assert main(["cmd", *files[:2], "-o", str(out), "--eazy", str(eazy), "--eazy-filters", "7,9", "-q"]) == 0
    table, written = read_catalog(out), Table.read(eazy, format="ascii.commented_header")
    assert written.colnames == ["id", "F7", "E7", "F9", "E9"]
    np.testing.assert_allclose(23.9 - 2.5 * np.log10(written["F9"]), table["mag_2"].value, atol=1e-5)
    np.testing.assert_allclose(
        written["E7"] / written["F7"] * 2.5 / np.log(10), table["mag_err_1"].value, rtol=1e-4
    )


def test_eazy_marks_what_is_missing(tmp_path):
    three = {name: catalog([0, 500], [0, 0], [2.0, 1.0], zero_point=25.0) for name in "ab"}
    table = match_bands(three | {"c": catalog([0], [0], [1.0], zero_point=25.0)}, 0.1)
    written = Table.read(write_eazy(table, tmp_path / "t.cat", (1, 2, 3)), format="ascii.commented_header")
    assert written["F3"][1] == written["E3"][1] == -99
    with pytest.raises(InputError, match="3 different numbers"):
        write_eazy(table, tmp_path / "t.cat", (1, 2))
    plain = match_bands({name: catalog([0], [0], [2.0]) for name in "ab"}, 0.1)
    with pytest.raises(InputError, match="not calibrated"):
        write_eazy(plain, tmp_path / "t.cat", (1, 2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{0}", "{0}", "-o", "x.fits"], "given twice"),
        (["{0}", "{1}", "-o", "{1}"], "is one of the other files"),
        (["{0}", "{1}", "-o", "x.fits", "--eazy", "e.cat"], "need each other"),
        (["{0}", "{1}", "-o", "x.fits", "--eazy", "e.cat", "--eazy-filters", "a,b"], "whole numbers"),
        (["{0}", "{1}", "-o", "x.fits", "--plot", "x.nonsense"], "cannot be written"),
        (["{0}", "{1}", "-o", "x.txt"], "not a catalogue format"),
    ],
)
def test_command_refuses(files, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["cmd", *(word.format(*files) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_regions_command(files, tmp_path):
    out = tmp_path / "stars.reg"
    assert main(["regions", files[0], "-o", str(out), "--radius", "0.05", "-q"]) == 0
    lines = out.read_text().splitlines()
    assert lines[2] == "icrs"
    assert len(lines) == 403
    assert main(["regions", files[0], "-o", files[0]]) == 2
