"""Positions against a reference list: motions of its stars, and the shift, scale and rotation that are found."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import Distance, SkyCoord, get_body_barycentric
from astropy.table import QTable, Table
from astropy.time import Time

from crowdfit.astrometry import align, epoch_of, positions_at
from crowdfit.cli import main
from crowdfit.errors import InputError
from crowdfit.io.tables import read_catalog, write_catalog

EPOCH = Time(2023.45, format="jyear")


def sky(n=300, seed=4, ra=0.0, dec=-70.0, side=120.0):
    """Stars in a square of `side` arcsec."""
    rng = np.random.default_rng(seed)
    east, north = rng.uniform(-side / 2, side / 2, (2, n)) / 3600
    return ra + east / np.cos(np.deg2rad(dec)), dec + north, 10 ** rng.uniform(2, 4, n)


def catalog(ra, dec, flux):
    table = QTable(
        {"ra": ra * u.deg, "dec": dec * u.deg, "flux": flux * u.adu, "flux_err": np.ones(len(flux)) * u.adu}
    )
    table["flags"] = np.zeros(len(flux), np.uint32)
    table["ra"].info.description, table["ra"].info.meta = "right ascension", {"ucd": "pos.eq.ra"}
    return table


def moved(ra, dec, shift=(0.0, 0.0), rotation=0.0, scale=1.0):
    """Positions turned from north to east by degrees, scaled, then shifted by arcsec, about the middle of the field."""
    centre = SkyCoord(np.median(ra) * u.deg, np.median(dec) * u.deg)
    here = SkyCoord(ra * u.deg, dec * u.deg)
    far, angle = centre.separation(here), centre.position_angle(here) + rotation * u.deg
    there = centre.directional_offset_by(angle, far * scale)
    there = there.spherical_offsets_by(*(np.full(len(ra), step) * u.arcsec for step in shift))
    return there.ra.wrap_at(180 * u.deg).deg, there.dec.deg


def test_parallax_and_proper_motion_are_those_of_astropy():
    """P086: against a full transformation with distance, from the Earth, without aberration and bending of light."""
    ra, dec = np.array([10.0, 200.0, 359.9]), np.array([0.0, 60.0, -70.0])
    reference = Table({"ra": ra, "dec": dec, "pmra": [100.0, -50.0, 0.0], "pmdec": [0.0, 20.0, 900.0]})
    reference["parallax"] = [10.0, 0.1, 300.0]
    found = SkyCoord(*positions_at(reference, EPOCH), unit="deg")
    for row, star in zip(reference, found, strict=True):
        distance = Distance(parallax=row["parallax"] * u.mas)
        full = SkyCoord(
            row["ra"] * u.deg, row["dec"] * u.deg, distance, pm_ra_cosdec=row["pmra"] * u.mas / u.yr,
            pm_dec=row["pmdec"] * u.mas / u.yr, radial_velocity=0 * u.km / u.s, obstime=Time(2016.0, format="jyear"),
        ).apply_space_motion(new_obstime=EPOCH)  # fmt: skip
        seen = SkyCoord(full.cartesian.without_differentials() - get_body_barycentric("earth", EPOCH))
        assert SkyCoord(seen.spherical.lon, seen.spherical.lat).separation(star).mas < 0.05


def test_stars_at_rest_need_no_epoch():
    reference = Table({"ra": [1.0], "dec": [2.0], "parallax": np.ma.masked_array([5.0], [True])})
    assert [values.tolist() for values in positions_at(reference, None)] == [[1.0], [2.0]]
    reference["pmra"] = [3.0]
    with pytest.raises(InputError, match="epoch: the reference stars move"):
        positions_at(reference, None)


def test_alignment_is_found():
    """P074, P085: shift, rotation and scale of a crowd across 0h; the reference has its bright stars, with errors."""
    rng = np.random.default_rng(9)
    ra, dec, flux = sky(2000)
    bright = np.argsort(-flux)[:150]
    reference = Table({"ra": ra[bright] % 360, "dec": dec[bright] + rng.normal(0, 1, 150) / 3.6e6})
    reference["dec"][:10] += 0.04 / 3600  # stars that are wrong
    table, found = align(catalog(*moved(ra, dec, (0.5, -0.3), 0.02, 1.0001), flux), reference)
    off = SkyCoord(table["ra"], table["dec"]).separation(SkyCoord(ra * u.deg, dec * u.deg)).mas
    assert off.max() < 1.0
    assert found.rotation == pytest.approx(-0.02, abs=0.001)
    assert found.scale == pytest.approx(1 / 1.0001, abs=1e-5)
    assert found.shift == pytest.approx((-0.5, 0.3), abs=0.01)
    assert 125 <= found.n <= 145
    assert found.after < 3e-3
    assert found.before > 0.5
    assert table["ra"].info.meta == {"ucd": "pos.eq.ra"}
    assert "pairs, shift" in table.meta["astrometry"]


def test_epoch_of_the_header():
    """The middle of the exposure is preferred; dates come in lower case too, and what is no date is passed over."""
    table = catalog(*sky(5))
    assert epoch_of(table) is None
    table.meta["date-obs".upper()] = "2022-07-01"
    assert epoch_of(table).jyear == pytest.approx(2022.5, abs=0.01)
    table.meta |= {"EXPMID": "59761.5", "EXPSTART": "never"}
    assert epoch_of(table).mjd == 59761.5
    table.meta.pop("EXPMID")
    assert epoch_of(table).jyear == pytest.approx(2022.5, abs=0.01)


def test_few_pairs_give_the_shift_alone():
    ra, dec, flux = sky(5, ra=80.0)
    table, found = align(catalog(*moved(ra, dec, (0.2, 0.1)), flux), Table({"ra": ra, "dec": dec}))
    assert (found.n, found.rotation, found.scale) == (5, 0, 1)
    np.testing.assert_allclose(table["dec"].value, dec, atol=1e-7)


def test_refusals():
    ra, dec, flux = sky(20, ra=80.0)
    good, reference = catalog(ra, dec, flux), Table({"ra": ra, "dec": dec})
    with pytest.raises(InputError, match="too few"):
        align(good, Table({"ra": ra + 1, "dec": dec}))
    with pytest.raises(InputError, match="catalogue: has no column ra"):
        align(Table({"x": [1.0]}), reference)
    with pytest.raises(InputError, match="reference: has no column dec"):
        align(good, Table({"ra": ra}))
    with pytest.raises(InputError, match="radius: -1"):
        align(good, reference, radius=-1)
    with pytest.raises(InputError, match="no stars to compare"):
        align(catalog(ra, dec, flux * 0), reference)


def test_command(tmp_path, capsys):
    """A Gaia-like ECSV with motions; the epoch is asked for."""
    ra, dec, flux = sky(60, ra=80.0)
    reference = QTable({"ra": ra * u.deg, "dec": dec * u.deg, "pmra": np.full(60, 40.0) * u.mas / u.yr})
    reference.write(tmp_path / "gaia.ecsv")
    there = moved(ra, dec, (0.04 * 7.45 + 0.1, 0.0))
    write_catalog(catalog(*there, flux), tmp_path / "a.fits")
    words = ["align", str(tmp_path / "a.fits"), str(tmp_path / "gaia.ecsv"), "-o", str(tmp_path / "b.fits")]
    assert main(words) == 2
    assert "epoch" in capsys.readouterr().err
    assert main([*words, "--epoch", "2023.45"]) == 0
    assert "60 pairs, shift -100." in capsys.readouterr().out
    assert read_catalog(tmp_path / "b.fits").meta["ASTROMETRY".lower()].startswith("60 pairs")
    assert main([*words[:-1], words[1], "--epoch", "2023.45"]) == 2
