"""Aperture corrections and offsets from CRDS tables, against hand-computed cases."""

import numpy as np
import pytest
from astropy.table import Table

from crowdfit.calibration.references import aperture_correction, read_offset, read_rows, read_table
from crowdfit.errors import InputError

FACTS = {"BAND": "F770W", "SUBARRAY": "FULL", "DETECTOR": "MIRIMAGE"}


def apcorr():
    """Return a table with the columns of MIRI, numbers made up for the hand-computed cases."""
    rows = [
        ("F560W", "FULL", 0.5, 1.5, 2.10, 6.0, 9.0), ("F770W", "FULL", 0.5, 2.0, 2.05, 7.0, 11.0),
        ("F770W", "FULL", 0.7, 3.5, 1.45, 7.0, 11.0), ("F770W", "SUB256", 0.7, 3.6, 1.46, 7.0, 11.0),
        ("F770W", "FULL", 0.8, 5.5, 1.27, 7.0, 11.0),
    ]  # fmt: skip
    names = ("filter", "subarray", "eefraction", "radius", "apcorr", "skyin", "skyout")
    return Table(rows=rows, names=names)


def correction(**options):
    return aperture_correction(apcorr(), FACTS, "apcorr.fits", **options)


def test_own_annulus():
    """M033: trap: APCORR holds only with SKYIN, SKYOUT of its own row, whose sky has starlight in it."""
    found = correction(eefraction=0.7, annulus=(7.0, 11.0))
    assert (found.factor, found.radius, found.eefraction) == (1.45, 3.5, 0.7)
    assert correction(radius=3.5, annulus=(7.0, 11.0)).factor == 1.45
    assert 2.5 * np.log10(found.factor) == pytest.approx(0.40342, abs=1e-5)


def test_far_annulus_or_none():
    """M036: total = flux / EEFRACTION with an annulus at 25-35 px: 1 / 0.7 is 0.3873 mag, not the 0.4034 of APCORR."""
    for annulus in ((25.0, 35.0), None):
        found = correction(eefraction=0.7, annulus=annulus)
        assert found.factor == pytest.approx(1 / 0.7)
        assert 2.5 * np.log10(found.factor) == pytest.approx(0.38726, abs=1e-5)


def test_annulus_in_the_light_of_the_star():
    with pytest.raises(InputError, match=r"sky_annulus begins at 4 pix.*5.5 pix"):
        correction(eefraction=0.7, annulus=(4.0, 6.0))


def test_energy_between_rows():
    """Half way from 3.5 to 5.5 pix half way from 0.7 to 0.8."""
    found = correction(radius=4.5)
    assert found.factor == pytest.approx(1 / 0.75)
    with pytest.raises(InputError, match="aperture_radius = 9 pix is outside of the 2 to 5.5 pix"):
        correction(radius=9.0)


def test_rows_by_filter_and_subarray():
    """M033: trap: MIRI has SUBARRAY where NIRCam has PUPIL."""
    sub = aperture_correction(
        apcorr(), FACTS | {"SUBARRAY": "SUB256"}, "a", eefraction=0.7, annulus=(7.0, 11.0)
    )
    assert sub.factor == 1.46
    # a subarray that is not listed takes the row of the full frame
    assert (
        aperture_correction(apcorr(), FACTS | {"SUBARRAY": "BRIGHTSKY"}, "a", eefraction=0.8).eefraction
        == 0.8
    )
    table = Table({"filter": ["F444W", "F444W"], "pupil": ["CLEAR", "F470N"], "v": [1, 2]})
    assert read_rows(table, {"BAND": "F444W"}, "a")["v"].tolist() == [1]
    assert read_rows(table, {"BAND": "F470N"}, "a")["v"].tolist() == [2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "eefraction or calibration.aperture_radius"),
        ({"eefraction": 0.6}, "0.6 is no row; it has 0.5, 0.7, 0.8"),
        ({"eefraction": 0.7, "radius": 5.0}, "5 pix is not the 3.5 pix"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(InputError, match=words):
        correction(**options)


def test_wrong_table():
    with pytest.raises(InputError, match="no column apcorr, skyin"):
        aperture_correction(apcorr()["filter", "eefraction", "radius", "skyout"], FACTS, "a", radius=1.0)
    with pytest.raises(InputError, match="has no row for filter F2550W"):
        aperture_correction(apcorr(), FACTS | {"BAND": "F2550W"}, "a", radius=2.0)


def test_offsets_of_a_crds_file(tmp_path):
    """M035: key abvega_offset, columns filter, pupil, abvega_offset = m_AB - m_Vega."""
    asdf = pytest.importorskip("asdf")
    offsets = {
        "filter": np.array(["F444W", "F444W"]), "pupil": np.array(["CLEAR", "F470N"]),
        "abvega_offset": np.array([3.23, 3.39])
    }  # fmt: skip
    asdf.AsdfFile({"abvega_offset": {key: item.tolist() for key, item in offsets.items()}}).write_to(
        tmp_path / "o.asdf"
    )
    assert read_offset(tmp_path / "o.asdf", {"BAND": "F444W"}) == 3.23
    assert read_offset(tmp_path / "o.asdf", {"BAND": "F470N"}) == 3.39
    asdf.AsdfFile({"other": 1}).write_to(tmp_path / "p.asdf")
    with pytest.raises(InputError, match=r"p.asdf: holds no table abvega_offset"):
        read_offset(tmp_path / "p.asdf", {"BAND": "F444W"})


@pytest.mark.parametrize("name", ["t.fits", "t.ecsv", "t.csv", "t.vot", "t.txt"])
def test_tables_of_any_format(tmp_path, name):
    """Names become lower case, FITS tables are found behind an empty primary HDU."""
    formats = {
        "t.vot": "votable",
        "t.txt": "ascii.commented_header",
        "t.csv": "ascii.csv",
        "t.ecsv": "ascii.ecsv",
    }
    Table({"FILTER": ["F444W"], "ABVEGA_OFFSET": [3.2]}).write(
        tmp_path / name, format=formats.get(name, "fits")
    )
    assert read_offset(tmp_path / name, {"BAND": "F444W"}) == 3.2


def test_what_is_no_table(tmp_path):
    (tmp_path / "a.fits").write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"a.fits: cannot be read as a table"):
        read_table(tmp_path / "a.fits")
    from astropy.io import fits  # noqa: PLC0415

    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "b.fits")
    with pytest.raises(InputError, match=r"b.fits: has no table"):
        read_table(tmp_path / "b.fits")
