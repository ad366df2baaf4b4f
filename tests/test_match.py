"""Averaging catalogues of several exposures: who is matched with whom, and what the average is."""

import itertools

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io.votable.ucd import parse_ucd
from astropy.table import QTable, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdfit import flags
from crowdfit.calibration.calibrate import calibrate
from crowdfit.catalog import AVERAGE_COLUMNS, build_catalog
from crowdfit.cli import main
from crowdfit.errors import InputError
from crowdfit.exposure import Exposure
from crowdfit.io.formats import FORMATS
from crowdfit.io.tables import read_catalog, write_catalog
from crowdfit.match import average_catalogs, average_files, match_positions

SEVERAL = int(flags.bit("several"))
ARCSEC = 1 / 3600


def sky_catalog(ra, dec, flux, err=1.0, *, bits=0, unit=u.adu):
    """A catalogue with what an average needs; scalars stand for all rows."""
    n = len(np.atleast_1d(ra))
    full = (np.broadcast_to(np.asarray(values), n).copy() for values in (ra, dec, flux, err, bits))
    ra, dec, flux, err, bits = full
    return QTable(
        {
            "ra": ra * u.deg,
            "dec": dec * u.deg,
            "flux": flux * unit,
            "flux_err": err * unit,
            "flags": bits.astype(np.uint32),
        }
    )


def pixel_catalog(x, y, flux, err=1.0):
    n = len(x)
    return QTable(
        {"x": np.array(x) * u.pix, "y": np.array(y) * u.pix, "flux": np.array(flux, float)}
        | {"flux_err": np.full(n, err)}
    )


# pairs


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.1, 4), st.integers(0, 99), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=60)
def test_pairs_equal_plain_loops(n, m, radius, seed, on_sky):
    """C036: mutual nearest neighbours inside the radius, in pixels and in arcsec, as by brute force."""
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(0, 10, (2, n)), rng.uniform(0, 10, (2, m))
    distance = np.hypot(*(first[:, :, None] - second[:, None, :]))
    expected = [
        (i, j)
        for i, j in itertools.product(range(n), range(m))
        if distance[i, j] == distance[i].min() == distance[:, j].min() and distance[i, j] <= radius
    ]
    if on_sky:  # on the equator a small field is flat
        found = match_positions(first * ARCSEC, second * ARCSEC, radius * u.arcsec)
    else:
        found = match_positions(first, second, radius)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
    np.testing.assert_allclose(found.distance, [distance[pair] for pair in expected], atol=1e-6)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (359.99999, 45.0), (123.0, 89.9999), (10.0, -90.0)])
def test_distances_on_the_sphere_equal_those_of_astropy(centre):
    """C036: over the wrap of RA and at the poles."""
    rng = np.random.default_rng(4)
    origin = SkyCoord(*centre, unit="deg")
    there = origin.directional_offset_by(rng.uniform(0, 360, 50) * u.deg, rng.uniform(0, 9, 50) * u.arcsec)
    here = origin.directional_offset_by(rng.uniform(0, 360, 60) * u.deg, rng.uniform(0, 9, 60) * u.arcsec)
    found = match_positions((there.ra.deg, there.dec.deg), (here.ra.deg, here.dec.deg), "0.7 arcsec")
    nearest, separation, _ = there.match_to_catalog_sky(here)
    back, _, _ = here.match_to_catalog_sky(there)
    good = (back[nearest] == np.arange(50)) & (separation.arcsec <= 0.7)
    assert good.sum() > 10
    np.testing.assert_array_equal(found.first, np.flatnonzero(good))
    np.testing.assert_array_equal(found.second, nearest[good])
    np.testing.assert_allclose(found.distance, separation.arcsec[good], atol=1e-7)


def test_positions_that_are_not_finite_match_nothing():
    found = match_positions(([np.nan, 1.0], [0.0, 1.0]), ([1.0, np.inf, np.nan], [1.0, 0.0, 0.0]), 5)
    assert (found.first.tolist(), found.second.tolist()) == ([1], [0])


@pytest.mark.parametrize("radius", [0, -1, np.nan, "3 Jy", "wide", "1 m", [1, 2], None])
def test_bad_radius_is_refused(radius):
    with pytest.raises(InputError, match="radius: "):
        match_positions(([1.0], [1.0]), ([1.0], [1.0]), radius)


# averages with known truth


def test_weighted_mean_error_scatter_and_counts():
    """C036: three exposures of one star, worked out by hand."""
    flux, err = np.array([10.0, 12.0, 14.0]), np.array([1.0, 2.0, 1.0])
    dec = np.array([0.0, 0.1, 0.2]) * ARCSEC
    table = average_catalogs(
        [
            sky_catalog([50.0], [d], [f], [e], bits=[b])
            for d, f, e, b in zip(dec, flux, err, (1, 2, 8), strict=True)
        ]
    )
    assert len(table) == 1
    (row,) = table
    assert row["flux"].value == pytest.approx((10 + 12 / 4 + 14) / 2.25, rel=1e-12)
    assert row["flux_err"].value == pytest.approx(2.25**-0.5, rel=1e-12)
    assert row["flux_scatter"].value == pytest.approx(2, rel=1e-12)
    assert row["snr"] == pytest.approx(row["flux"] / row["flux_err"])
    assert row["mag"].value == pytest.approx(-2.5 * np.log10(12), rel=1e-9)
    assert row["dec"].value == pytest.approx(0.1 * ARCSEC, rel=1e-6)
    assert row["ra"].value == pytest.approx(50)
    assert row["sky_scatter"].to_value(u.arcsec) == pytest.approx(0.1, rel=1e-6)
    assert [int(row[name]) for name in ("n_detections", "n_averaged", "n_several")] == [3, 3, 0]
    assert row["flags"] == 1 | 2 | 8


def test_pulls_of_the_mean_are_normal():
    """C036: 2000 stars on 5 exposures: scatter of the pulls is 1 to within 5 sigma of its own error, 8 %."""
    rng = np.random.default_rng(3)
    n = 2000
    ra, dec = 180 + rng.permutation(n) * 5 * ARCSEC, rng.uniform(-1, 1, n) * ARCSEC
    truth = rng.uniform(100, 1000, n)
    exposures = []
    for err in (3.0, 5.0, 5.0, 8.0, 20.0):
        order = rng.permutation(n)
        off = rng.normal(0, 0.05 * ARCSEC, (2, n))
        exposures.append(
            sky_catalog((ra + off[0])[order], (dec + off[1])[order], rng.normal(truth, err)[order], err)
        )
    table = average_catalogs(exposures)
    assert len(table) == n
    assert (table["n_averaged"] == 5).all()
    pairs = match_positions((ra, dec), (table["ra"].value, table["dec"].value), 0.3 * u.arcsec)
    assert len(pairs.first) == n
    pulls = (table["flux"].value[pairs.second] - truth[pairs.first]) / table["flux_err"].value[pairs.second]
    assert np.std(pulls) == pytest.approx(1, abs=0.08)
    assert np.mean(pulls) == pytest.approx(0, abs=0.11)
    # 0.05 arcsec a coordinate, both together
    assert np.sqrt(np.mean(table["sky_scatter"].value ** 2)) == pytest.approx(0.05 * np.sqrt(2), rel=0.05)
    assert np.std(pairs.distance) < 0.05


def test_default_radius_is_that_of_crowdsource():
    """C036: 0.36 arcsec apart is one star, 0.39 are two; with a radius of one's own the other way round."""
    apart = {0.36: 1, 0.39: 2}
    for distance, n in apart.items():
        exposures = [sky_catalog([9.0], [d * ARCSEC], [5.0]) for d in (0, distance)]
        assert len(average_catalogs(exposures)) == n
        assert len(average_catalogs(exposures, "0.3 arcsec")) == 2
        assert len(average_catalogs(exposures, 0.4)) == 1


@pytest.mark.parametrize("centre", [(0.0, 10.0), (77.0, 90.0), (77.0, -90.0)])
def test_positions_over_the_wrap_and_at_the_poles(centre):
    """C036: the mean of RA 359.99999 and 0.00001 is 0, not 180."""
    origin = SkyCoord(*centre, unit="deg")
    around = origin.directional_offset_by([45, 135, 225, 315] * u.deg, 0.1 * u.arcsec)
    table = average_catalogs([sky_catalog([p.ra.deg], [p.dec.deg], [3.0]) for p in around])
    assert len(table) == 1
    mean = SkyCoord(table["ra"], table["dec"])[0]
    assert mean.separation(origin).to_value(u.arcsec) < 1e-4
    assert 0 <= mean.ra.deg < 360


# several detections of one exposure


def ambiguous():
    """One star that the first exposure splits into two, 0.2 arcsec apart; a second star well away."""
    return [
        sky_catalog(
            [10, 10, 10.01], [0, 0.2 * ARCSEC, 0], [60.0, 30.0, 7.0], [3.0, 4.0, 1.0], bits=[1, 2, 4]
        ),
        sky_catalog([10, 10.01], [0.05 * ARCSEC, 0], [100.0, 9.0], [5.0, 1.0]),
    ]


def test_several_detections_are_summed():
    """C037: 60 + 30 with errors 3 and 4 in quadrature, averaged with 100 +- 5; position by the light."""
    table = average_catalogs(ambiguous(), several="sum")
    assert len(table) == 2
    star, other = table
    assert star["flux"].value == pytest.approx(95)
    assert star["flux_err"].value == pytest.approx(5 / np.sqrt(2))
    assert star["dec"].value == pytest.approx((0.2 / 3 + 0.05) / 2 * ARCSEC, rel=1e-6)
    assert [int(star[name]) for name in ("n_detections", "n_averaged", "n_several")] == [3, 2, 1]
    assert star["flags"] == 1 | 2 | SEVERAL
    assert other["flux"].value == pytest.approx(8)
    assert other["flags"] == 4


def test_several_detections_are_flagged_and_left_out():
    """C037: only the exposure with one detection counts."""
    table = average_catalogs(ambiguous(), several="flag")
    star, other = table
    assert star["flux"].value == pytest.approx(100)
    assert star["flux_err"].value == pytest.approx(5)
    assert np.isnan(star["flux_scatter"].value)
    assert star["dec"].value == pytest.approx(0.05 * ARCSEC, rel=1e-6)
    assert [int(star[name]) for name in ("n_detections", "n_averaged", "n_several")] == [3, 1, 1]
    assert star["flags"] == 1 | 2 | SEVERAL
    assert other["flux"].value == pytest.approx(8)
    assert int(other["flags"]) == 4


def test_nothing_left_to_average():
    """C037: when all detections are flagged the star stays, without a flux and with a position."""
    table = average_catalogs(ambiguous()[:1], several="flag")
    assert len(table) == 2
    star = table[table["n_several"] > 0][0]
    assert np.isnan(star["flux"].value)
    assert np.isnan(star["flux_err"].value)
    assert np.isnan(star["mag"].value)
    assert star["dec"].value == pytest.approx(0.2 / 3 * ARCSEC, rel=1e-6)
    assert int(star["n_averaged"]) == 0
    assert star["flags"] & SEVERAL


def test_too_large_a_radius_is_said(caplog):
    """C037: joined neighbours are not hidden: the count is in the log, with what to do."""
    x, y = np.meshgrid(np.arange(10.0), np.arange(10.0))
    crowded = pixel_catalog(x.ravel(), y.ravel(), np.arange(1, 101))
    average_catalogs([crowded, crowded], "0.5 pix")
    assert not caplog.records
    average_catalogs([crowded, crowded], "1.2 pix")
    assert "have several detections of one exposure within 1.2 pix" in caplog.text
    assert "try a smaller one" in caplog.text


def test_chains_of_stars_do_not_grow_together():
    """A row of stars each within reach of the next stays a row (P045)."""
    x = np.arange(40.0)
    exposures = [pixel_catalog(x + dx, 0 * x, 100 + (7 * x) % 40) for dx in (-0.05, 0.0, 0.05)]
    table = average_catalogs(exposures, 1.1)
    assert len(table) >= 14
    assert table["n_detections"].sum() == 120
    assert table["n_detections"].max() <= 9
    assert len(average_catalogs(exposures, 0.9)) == 40


@given(st.integers(0, 1000), st.sampled_from(["sum", "flag"]), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=25)
def test_order_of_catalogues_and_rows_is_irrelevant(seed, several, on_sky):
    """C036, C037: the same to the last bit, however catalogues and rows are ordered, ties included."""
    rng = np.random.default_rng(seed)
    exposures = []
    for n in rng.integers(0, 40, 4):
        where = rng.integers(0, 12, (2, n)) / 4  # many equal positions and distances
        flux, err = rng.integers(1, 6, n).astype(float), rng.integers(1, 4, n) / 3
        if on_sky:
            exposures.append(sky_catalog(*(359.9999 + where * ARCSEC), flux, err))
        else:
            exposures.append(QTable({"x": where[0], "y": where[1], "flux": flux, "flux_err": err}))
    radius = 0.3 if on_sky else 0.6
    table = average_catalogs(exposures, radius, several)
    assert int(table["n_detections"].sum()) == sum(map(len, exposures))
    mixed = [exposure[rng.permutation(len(exposure))] for exposure in exposures]
    again = average_catalogs([mixed[i] for i in rng.permutation(4)], radius, several)
    for name in table.colnames:
        np.testing.assert_array_equal(again[name], table[name], err_msg=name)


# odd catalogues


def test_one_catalogue_comes_back():
    """One exposure: every isolated detection as it is, brightest first."""
    given_ = sky_catalog([1.0, 1.01, 1.02], [0.0, 0.0, 0.0], [5.0, 9.0, 7.0], [1.0, 2.0, 3.0])
    table = average_catalogs([given_])
    np.testing.assert_allclose(table["flux"].value, [9, 7, 5])
    np.testing.assert_allclose(table["flux_err"].value, [2, 3, 1])
    np.testing.assert_allclose(table["ra"].value, [1.01, 1.02, 1.0], rtol=1e-12)
    assert np.isnan(table["flux_scatter"].value).all()
    assert table["id"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("n", [1, 3])
def test_empty_catalogues(n):
    """No star in any exposure: an empty, complete table."""
    table = average_catalogs([sky_catalog([], [], [])] * n)
    assert len(table) == 0
    assert {"ra", "dec", "flux", "flux_scatter", "n_several", "flags"} <= set(table.colnames)
    mixed = average_catalogs([sky_catalog([], [], []), sky_catalog([3.0], [3.0], [4.0])])
    np.testing.assert_allclose(mixed["flux"].value, [4])


def test_without_a_wcs_pixels_are_matched():
    """C036: x, y with 1.5 pix by default; 1.4 apart is one star, 1.6 are two."""
    table = average_catalogs(
        [pixel_catalog([5, 40], [5, 9], [8, 3]), pixel_catalog([6.4, 41.6], [5, 9], [8, 3])]
    )
    assert table.colnames[:4] == ["id", "x", "y", "pixel_scatter"]
    np.testing.assert_allclose(table["x"].value, [5.7, 40.0, 41.6])
    assert table["x"].unit == u.pix
    assert table["n_averaged"].tolist() == [2, 1, 1]
    assert table.meta["match_radius"] == "1.5 pix"


def test_measurements_that_cannot_be_weighted_are_left_out(caplog):
    """NaN fluxes, errors that are NaN or 0, masked entries: counted as detections, not averaged."""
    odd = [
        sky_catalog([4.0], [0.0], [np.nan]), sky_catalog([4.0], [0.0], [5.0], [np.nan]),
        sky_catalog([4.0], [0.0], [5.0], [0.0]), sky_catalog([4.0], [0.0], [6.0], [2.0]),
    ]  # fmt: skip
    masked = Table(odd[3], masked=True)
    masked["flux"].mask = True
    (row,) = average_catalogs([*odd, masked])
    assert row["flux"].value == pytest.approx(6)
    assert [int(row["n_detections"]), int(row["n_averaged"])] == [5, 1]
    assert not caplog.records
    assert len(average_catalogs([sky_catalog([4.0, np.nan], [0.0, 0.0], [5.0, 5.0])])) == 1
    assert "1 detections without a finite position" in caplog.text


def test_units_are_converted():
    """Fluxes in Jy and mJy go together; degrees and radians too."""
    first, second = (
        sky_catalog([7.0], [1.0], [2.0], unit=u.Jy),
        sky_catalog([7.0], [1.0], [4000.0], 1e3, unit=u.mJy),
    )
    second["ra"] = second["ra"].to(u.rad)
    for order in ((first, second), (second, first)):
        (row,) = average_catalogs(order)
        assert row["flux"].unit == u.Jy
        assert row["flux"].to_value(u.Jy) == pytest.approx(3)
        assert row["flux_err"].to_value(u.Jy) == pytest.approx(2**-0.5)


def test_detectors_with_zero_points_of_their_own(caplog):
    """P084: NIRCam pixels differ by 3 % in area: fluxes in MJy/sr of one star do, calibrated ones do not."""
    ra, dec = np.array([1.0, 1.01]), np.array([2.0, 2.0])
    areas, tables = (2.23e-14, 2.31e-14), []
    for area in areas:
        flux = np.array([100.0, 10.0]) * 2.23e-14 / area
        table = sky_catalog(ra, dec, flux, 1.0, unit=u.MJy / u.sr)
        table.meta = {
            "unit": "MJy/sr", "PIXAR_SR": f"{area}", "TELESCOP": "JWST", "INSTRUME": "NIRCAM", "band": "F200W"
        }  # fmt: skip
        tables.append(calibrate(table))
    plain = average_catalogs(tables)
    assert "--flux flux_cal" in caplog.text
    assert plain["flux_scatter"][0].value > 2
    caplog.clear()
    physical = average_catalogs(tables, flux="flux_cal")
    assert caplog.text == ""
    assert physical["flux_scatter"][0].value < 1e-9
    assert physical["flux"][0].to_value(u.uJy) == pytest.approx(2.23)
    # the unit alone says what a magnitude is: 23.90 - 2.5 log10(2.23) = 23.0293
    again = calibrate(physical)
    assert again["mag_cal"][0].value == pytest.approx(23.02925, abs=1e-4)
    # exposures of one detector keep what calibrates them
    same = average_catalogs([tables[0], tables[0]])
    assert calibrate(same)["mag_cal"][0].value == pytest.approx(23.02925, abs=1e-4)
    with pytest.raises(InputError, match="has no column flux_x, flux_x_err"):
        average_catalogs(tables, flux="flux_x")


def test_refusals():
    """P013: what is wrong, in which catalogue, and what to do."""
    good = sky_catalog([7.0], [1.0], [2.0])
    with pytest.raises(InputError, match="no catalogue to average; give at least one"):
        average_catalogs([])
    with pytest.raises(InputError, match="catalogue 2: has no column flux, flux_err"):
        average_catalogs([good, QTable({"ra": [1.0], "dec": [1.0]})])
    with pytest.raises(InputError, match="b: fluxes in Jy do not go with those of a in adu"):
        average_catalogs({"a": good, "b": sky_catalog([7.0], [1.0], [2.0], unit=u.Jy)})
    with pytest.raises(InputError, match="catalogue 2: has no columns ra, dec; .* '1.5 pix'"):
        average_catalogs([good, pixel_catalog([1], [1], [1])])
    with pytest.raises(InputError, match="catalogue 1: has no columns x, y to match on pixels"):
        average_catalogs([good], "2 pix")
    with pytest.raises(InputError, match="has no columns ra, dec"):
        average_catalogs([pixel_catalog([1], [1], [1])], "2 arcsec")
    with pytest.raises(InputError, match="several: 'drop' is not one of 'sum', 'flag'"):
        average_catalogs([good], several="drop")


def test_bands_that_differ_are_said(caplog):
    exposures = [sky_catalog([7.0], [1.0], [2.0]) for _ in range(2)]
    exposures[0].meta["BAND"], exposures[1].meta["band"] = "F115W", "F200W"
    average_catalogs(exposures)
    assert "different bands (F115W, F200W)" in caplog.text


def test_columns_are_documented():
    """P076: unit, description and a valid UCD1+ for each column."""
    names = [entry.name for entry in AVERAGE_COLUMNS]
    assert len(set(names)) == len(names)
    for entry in AVERAGE_COLUMNS:
        assert len(entry.text) > 8
        parse_ucd(entry.ucd, check_controlled_vocabulary=True, has_colon=True)
    table = average_catalogs(ambiguous())
    for name in table.colnames:
        assert table[name].info.description
        assert table[name].info.meta["ucd"]
    assert table["flux_scatter"].unit == u.adu


# files and the command


def write_exposures(folder, exposures):
    return [str(write_catalog(exposure, folder / f"e{i}.fits")) for i, exposure in enumerate(exposures)]


def full_catalog(n=30, shift=0.0):
    """A catalogue as a fit makes it."""
    rng = np.random.default_rng(7)
    image = Exposure.of(rng.normal(0, 1, (99, 99)), np.ones((99, 99)), unit="electron")
    x, y = rng.uniform(5, 95, (2, n))
    values = {
        "id": np.arange(n),
        "x": x + shift,
        "y": y,
        "flux": rng.uniform(50, 99, n),
        "flux_err": np.ones(n),
    }
    return build_catalog(values | {"flags": np.zeros(n)}, image, {"crowdfit": "0.1.0", "band": "F115W"})


@pytest.mark.parametrize("suffix", FORMATS)
def test_command_and_library_give_the_same_numbers(tmp_path, capsys, suffix):
    """C036, C037, P075: any format in and out, the same table; what was averaged is in the metadata."""
    paths = [str(write_catalog(full_catalog(shift=s), tmp_path / f"{s}.{suffix}")) for s in (0.0, 0.2)]
    out = tmp_path / f"mean.{suffix}"
    assert main(["average", *paths, "-o", str(out), "--radius", "0.8 pix", "--several", "flag"]) == 0
    assert "stars" in capsys.readouterr().out
    table = average_catalogs([full_catalog(shift=s) for s in (0.0, 0.2)], "0.8 pix", "flag")
    back = read_catalog(out)
    assert back.colnames == table.colnames
    for name in table.colnames:
        np.testing.assert_array_equal(np.asarray(back[name]), np.asarray(table[name]), err_msg=name)
        assert back[name].unit == table[name].unit
    meta = {key.lower(): value for key, value in back.meta.items()}
    assert meta["match_radius"] == "0.8 pix"
    assert meta["catalogs"].splitlines() == paths
    assert [line.split()[1] for line in meta["sha256"].splitlines()] == [f"0.0.{suffix}", f"0.2.{suffix}"]


def test_command_takes_arcsec(tmp_path, capsys):
    paths = write_exposures(tmp_path, [sky_catalog([9.0], [d * ARCSEC], [5.0]) for d in (0, 0.36)])
    for radius, n in (([], 1), (["--radius", "0.3"], 2)):
        out = tmp_path / f"mean{n}.fits"
        assert main(["average", *paths, "-o", str(out), *radius]) == 0
        assert len(read_catalog(out)) == n
    assert f"{out}: 2 stars, 0 with several" in capsys.readouterr().out


def test_command_can_be_quiet(tmp_path, capsys):
    paths = write_exposures(tmp_path, ambiguous())
    assert main(["average", *paths, "-o", str(tmp_path / "m.fits"), "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_command_refuses_in_one_line_with_status_2(tmp_path, capsys):
    """P013, P103: nothing is written."""
    good, other = write_exposures(
        tmp_path, [sky_catalog([7.0], [1.0], [2.0]), sky_catalog([7.0], [1.0], [2.0])]
    )
    broken, image = tmp_path / "broken.fits", tmp_path / "empty.ecsv"
    broken.write_bytes(b"SIMPLE  = nonsense")
    image.write_text("not a table")
    out = str(tmp_path / "out.fits")
    for arguments, message in (
        ([good, "-o", str(tmp_path / "out.txt")], "'txt' is not a catalogue format"),
        ([good, str(tmp_path / "none.fits"), "-o", out], "none.fits: no such file"),
        ([good, str(broken), "-o", out], "broken.fits: cannot be read as a catalogue"),
        ([good, str(image), "-o", out], "empty.ecsv: cannot be read as a catalogue"),
        ([good, good, "-o", out], "e0.fits: given twice"),
        ([good, other, "-o", other], "e1.fits: is one of the catalogues to average"),
        ([good, "-o", out, "--radius", "big"], "radius: 'big' is no length"),
        ([good, "-o", out, "--radius", "-1"], "radius: -1 is not positive"),
        ([good, "-o", out, "--several", "mean"], "'mean' is not one of 'sum', 'flag'"),
        ([good, "-o", str(tmp_path / "no" / "o.fits")], "no"),
        (["-o", out], "CATALOGUE"),
    ):
        assert main(["average", *arguments]) == 2, arguments
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert message in said
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "broken.fits",
        "e0.fits",
        "e1.fits",
        "empty.ecsv",
    ]


def test_columns_command_prints_those_of_the_average(capsys):
    assert main(["columns", "--average"]) == 0
    text = capsys.readouterr().out
    for entry in AVERAGE_COLUMNS:
        assert entry.text in text


def test_average_of_an_average_is_possible(tmp_path):
    """Nights can be averaged first and then together: what is written can be read again."""
    paths = write_exposures(tmp_path, ambiguous())
    night = average_files(paths, tmp_path / "night.fits")
    again = average_files([tmp_path / "night.fits"], tmp_path / "all.fits")
    np.testing.assert_array_equal(again["flux"], night["flux"])
    np.testing.assert_array_equal(again["flags"], night["flags"])
