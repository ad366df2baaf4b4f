"""Zero points against a reference catalogue: known truth with outliers, crowds, colours, and the wrap of RA."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Table

from crowdfit import flags
from crowdfit.calibration.fitted import fit_zero_point, read_reference, write_plot
from crowdfit.calibration.references import read_table
from crowdfit.cli import main
from crowdfit.errors import InputError
from crowdfit.io.tables import read_catalog, write_catalog

ZERO = 25.3
SCATTER = 0.02
N = 400


def pair(ra=359.999, colour_term=0.0, seed=1, n=N):
    """Return a catalogue and reference stars of zero point 25.3, one in ten of them wrong; RA goes over 0."""
    rng = np.random.default_rng(seed)
    alpha, delta = (ra + rng.uniform(-0.02, 0.02, n)) % 360, -30 + rng.uniform(-0.02, 0.02, n)
    flux = 10 ** rng.uniform(2, 4, n)
    colour = rng.normal(0.8, 0.4, n)
    mag = ZERO - 2.5 * np.log10(flux) + colour_term * (colour - np.median(colour)) + rng.normal(0, SCATTER, n)
    mag[::10] += rng.uniform(0.3, 2, len(mag[::10]))
    catalog = QTable(
        {
            "id": np.arange(n), "ra": (alpha + 0.02 / 3600) % 360 * u.deg, "dec": (delta - 0.01 / 3600) * u.deg,
            "flux": flux, "flux_err": np.full(n, 1.0), "flags": np.zeros(n, np.uint32), "b": colour, "v": np.zeros(n),
        },
        meta={"band": "V"},
    )  # fmt: skip
    return catalog, Table({"ra": alpha, "dec": delta, "b": mag + colour, "v": mag})


def fitted(catalog, table, mag="v", colour=None, **options):
    return fit_zero_point(catalog, read_reference(table, "ref", mag, colour), **options)


def test_zero_point_and_its_error():
    """M030, M032: clipped median, rms of the stars kept, error of the mean; the outliers are clipped."""
    found = fitted(*pair())
    assert found.value == pytest.approx(ZERO, abs=4 * SCATTER / np.sqrt(0.8 * N))
    assert found.rms == pytest.approx(
        SCATTER * 0.88, rel=0.1
    )  # a Gaussian cut at 2 sigma has 0.88 of its width
    assert found.error == pytest.approx(found.rms / np.sqrt(found.n_used), rel=0.01)
    assert found.n_matched == N
    assert not found.used[::10].any()
    assert found.n_used > 0.8 * N


def test_shift_over_the_wrap():
    """M026, M028: trap: (RA1 - RA2) cos(Dec), with RA wrapped: 0.02 arcsec in RA is 0.0173 on the sky at Dec -30."""
    found = fitted(*pair())
    assert found.shift == pytest.approx((0.02 * np.cos(np.radians(30)), -0.01), abs=1e-4)


def test_colour_term():
    """P056, P069: slope and zero point at the median colour."""
    found = fitted(*pair(colour_term=0.12), colour="b-v", colour_term=True)
    assert found.colour_term == pytest.approx(0.12, abs=4 * found.colour_term_err)
    assert found.colour_term_err == pytest.approx(SCATTER / 0.4 / np.sqrt(0.8 * N), rel=0.3)
    assert found.value == pytest.approx(ZERO, abs=0.005)
    assert fitted(*pair(colour_term=0.12)).rms > 1.5 * found.rms


def test_ambiguous_matches_are_counted():
    """M027: trap: proximity misbehaves in a crowd; a second star inside the radius is reported."""
    catalog, table = pair()
    beside = catalog[:30].copy()
    beside["dec"] = beside["dec"] + 0.05 * u.arcsec
    beside["flux"] = beside["flux"] / 3
    from astropy.table import vstack  # noqa: PLC0415

    found = fitted(vstack([catalog, beside]), table)
    assert 30 <= found.n_ambiguous <= 32  # one pair is as close by chance
    assert found.value == pytest.approx(ZERO, abs=0.005)


def test_bad_stars_take_no_part():
    catalog, table = pair()
    catalog["flags"][:100] |= flags.bit("saturated")
    catalog["flux"][:100] *= 0.5
    catalog["qf"] = np.r_[np.ones(300), np.full(100, 0.5)]
    found = fitted(catalog, table)
    assert found.n_matched == 200
    assert found.value == pytest.approx(ZERO, abs=0.005)


def test_pipeline_catalogue(tmp_path):
    """M027: `_cat.ecsv` has a sky_centroid and aper_total_abmag."""
    catalog, table = pair()
    sky = SkyCoord(table["ra"], table["dec"], unit="deg")
    QTable({"label": np.arange(N), "sky_centroid": sky, "aper_total_abmag": table["v"]}).write(
        tmp_path / "a_cat.ecsv", format="ascii.ecsv"
    )
    reference = read_reference(read_table(tmp_path / "a_cat.ecsv"), "a_cat.ecsv")
    assert reference.mag_name == "aper_total_abmag"
    assert fit_zero_point(catalog, reference).value == pytest.approx(ZERO, abs=0.005)


def test_refusals():
    catalog, table = pair()
    with pytest.raises(InputError, match="ref: only 0 of 400 reference stars match.*check the WCS"):
        fitted(catalog, Table({"ra": table["ra"] + 1, "dec": table["dec"], "v": table["v"]}))
    with pytest.raises(InputError, match="has no column of magnitudes; name one.*it has ra, dec"):
        read_reference(table["ra", "dec"], "ref")
    with pytest.raises(InputError, match="has no columns ra, dec; it has v"):
        read_reference(table["v",], "ref")
    with pytest.raises(InputError, match="ref: .*no column x"):
        read_reference(table, "ref", "v", "x-v")
    with pytest.raises(InputError, match="in pixels"):
        fitted(catalog, table, radius="2 pix")


def test_plot(tmp_path):
    found = fitted(*pair())
    assert write_plot(found, tmp_path / "a.png", "a").stat().st_size > 5000
    with pytest.raises(InputError, match="a.xyz: the plot cannot be written"):
        write_plot(found, tmp_path / "a.xyz", "a")


def calibrated(tmp_path, *arguments, **kind):
    catalog, table = pair(**kind)
    write_catalog(catalog, tmp_path / "cat.fits")
    table.write(tmp_path / "ref.csv", format="ascii.csv", overwrite=True)
    return main(["calibrate", str(tmp_path / "cat.fits"), "-o", str(tmp_path / "out.ecsv"), *arguments])


def test_command(tmp_path, capsys):
    """P054, P073: the command line gives the numbers of the library, a plot, and the fit in the metadata."""
    assert calibrated(tmp_path, "--reference", str(tmp_path / "ref.csv"), "--reference-mag", "v") == 0
    table = read_catalog(tmp_path / "out.ecsv")
    catalog, reference = pair()
    expected = fitted(catalog, reference).value
    np.testing.assert_allclose(table["mag_cal"].value, expected - 2.5 * np.log10(catalog["flux"]), atol=1e-6)
    assert (tmp_path / "out_zero_point.png").exists()
    assert "zero point 25.29" in capsys.readouterr().out
    assert "ref.csv" in table.meta["zero_point_reference"]
    assert table["mag_err_zero_point"][0].value == pytest.approx(0.001, abs=3e-4)


def test_command_with_colours(tmp_path):
    """The fitted colour term is applied with the stars' own colours."""
    arguments = (
        "--reference",
        str(tmp_path / "ref.csv"),
        "--reference-mag",
        "v",
        "--set",
        "calibration.colour=b-v",
    )
    assert calibrated(tmp_path, *arguments, colour_term=0.12) == 0
    table = read_catalog(tmp_path / "out.ecsv")
    _, reference = pair(colour_term=0.12)
    off = table["mag_cal"].value - np.asarray(reference["v"])
    off = np.delete(off, np.s_[::10])
    assert np.std(off) == pytest.approx(SCATTER, rel=0.15)
    assert np.mean(off) == pytest.approx(0, abs=0.005)
    assert float(table.meta["colour_term"]) == pytest.approx(0.12, abs=0.015)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "told no zero point"),
        (("--set", "detect.nsigma=4"), "only settings of `calibration`"),
        (("--reference-mag", "v"), "need --reference"),
        (("--reference", "none.csv"), "none.csv: no such file"),
        (("--set", "calibration.system=Mars"), "calibration.system"),
    ],
)
def test_command_refuses(tmp_path, capsys, arguments, words):
    """P103: exit status 2 and one line."""
    assert calibrated(tmp_path, *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out.ecsv").exists()


def test_correction_is_not_made_twice(tmp_path, capsys):
    """M030: a fitted zero point holds the aperture correction already."""
    arguments = ("--reference", str(tmp_path / "ref.csv"), "--reference-mag", "v")
    assert calibrated(tmp_path, *arguments, "--set", "calibration.aperture_correction=0.1") == 2
    assert "holds the correction already" in capsys.readouterr().err
