"""Every column defined once; the catalogue built from measured columns."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io.votable.ucd import parse_ucd
from astropy.wcs import WCS

from crowdfit.catalog import COLUMNS, SEGMENT_COLUMNS, build_catalog, column, columns_table
from crowdfit.exposure import Exposure

CROWDSOURCE = {
    "x", "y", "flux", "dx", "dy", "dflux", "qf", "rchi2", "fracflux", "fluxlbs", "dfluxlbs", "fwhm",
    "spread_model", "dspread_model", "fluxiso", "xiso", "yiso", "flags", "sky", "passno",
}  # fmt: skip


def exposure(**facts):
    dq = np.zeros((20, 30), np.uint32)
    dq[5, 7], dq[6, 8], dq[12, 12] = 1, 2**31, 4
    return Exposure.of(np.arange(600.0).reshape(20, 30), np.ones((20, 30)), dq, **facts)


def measured(**more):
    base = {
        "id": [3, 5, 8],
        "x": [7.2, 12.0, 40.0],
        "y": [5.4, 10.0, 2.0],
        "flux": [100.0, -2.0, 0.0],
        "flux_err": [5.0, 1.0, 2.0],
    }
    return {key: np.array(value) for key, value in (base | more).items()}


def test_every_column_is_documented():
    """P076: unit, description and a valid UCD1+ in one table."""
    for definitions in (COLUMNS, SEGMENT_COLUMNS):
        names = [entry.name for entry in definitions]
        assert len(set(names)) == len(names)
    for entry in (*COLUMNS, *SEGMENT_COLUMNS):
        assert len(entry.text) > 8
        parse_ucd(entry.ucd, check_controlled_vocabulary=True, has_colon=True)
        assert np.dtype(entry.dtype).str[1:] == entry.dtype
        assert entry.unit in ("", "pix", "deg", "mag", "image")


def test_order_and_parity_with_crowdsource():
    """C042: every quantity crowdsource writes has a column that names it."""
    names = [entry.name for entry in COLUMNS]
    assert names[:5] == ["id", "x", "y", "x_err", "y_err"]
    assert names[5:9] == ["ra", "dec", "flux", "flux_err"]
    fixed = ["mag", "mag_err", "snr", "flags"]
    assert [name for name in names if name in fixed] == fixed
    aliases = {alias for entry in COLUMNS for alias in entry.alias.split("/")}
    assert aliases >= CROWDSOURCE
    assert column("x").alias == "y"  # crowdsource's x is the row


def test_text_for_people():
    text = columns_table()
    for entry in COLUMNS:
        assert f"{entry.name} " in text
        assert entry.text in text
    assert "crowdsource: passno" in text


def test_order_types_units_and_descriptions():
    """P076."""
    sky = np.ones(3)
    columns = measured(sky=sky, flags=np.array([1, 2**31, 0]), qf=sky)
    table = build_catalog(dict(reversed(columns.items())), exposure(unit="MJy/sr"), {"crowdfit": "1.0"})
    names = [entry.name for entry in COLUMNS]
    assert table.colnames == sorted(table.colnames, key=names.index)
    assert table.meta == {"crowdfit": "1.0"}
    assert table["x"].unit == u.pix
    assert table["flux"].unit == table["sky"].unit == u.MJy / u.sr
    assert table["mag"].unit == u.mag
    assert table["flags"].dtype == np.uint32
    assert table["flags"][1] == 2**31
    assert table["id"].dtype == np.int64
    for name in table.colnames:
        assert table[name].info.description == column(name).text
        assert table[name].info.meta["ucd"] == column(name).ucd


def test_without_unit():
    table = build_catalog(measured(), exposure())
    assert table["flux"].unit is None
    assert "ra" not in table.colnames
    assert "dq_core" not in table.colnames


def test_derived_columns():
    """C042: magnitudes of positive fluxes only; signal to noise; crowding in magnitudes."""
    table = build_catalog(measured(fracflux=[0.5, 1.0, 0.0]), exposure())
    np.testing.assert_allclose(table["mag"].value, [-5, np.nan, np.nan])
    np.testing.assert_allclose(table["mag_err"].value, [2.5 / np.log(10) * 0.05, np.nan, np.nan])
    np.testing.assert_allclose(table["snr"], [20, -2, 0])
    np.testing.assert_allclose(table["crowding"].value, [0.7526, 0, np.nan], atol=1e-4)


def test_given_columns_win_over_derived_ones():
    table = build_catalog(measured(crowding=[1.0, 2.0, 3.0], fracflux=[0.5, 0.5, 0.5]), exposure())
    np.testing.assert_array_equal(table["crowding"].value, [1, 2, 3])


def test_data_quality_at_the_position_and_under_the_core():
    """C034: uint32 throughout, bit 31 included; sources off the image have none."""
    table = build_catalog(measured(fwhm=[4.0, 4.1, 4.0]), exposure())
    assert table["dq"].tolist() == [1, 0, 0]
    assert table["dq_core"].tolist() == [1 | 2**31, 4, 0]
    assert table["dq"].dtype == table["dq_core"].dtype == np.uint32
    narrow = build_catalog(measured(fwhm=[0.5, 3.9, np.nan]), exposure())
    assert narrow["dq_core"].tolist() == [1, 0, 0]


@pytest.mark.parametrize("frame", [("RA---TAN", "DEC--TAN"), ("GLON-TAN", "GLAT-TAN")])
def test_sky_positions(frame):
    """N003: ICRS degrees, whatever the frame of the image."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = frame
    wcs.wcs.crval = 120.0, 10.0
    wcs.wcs.crpix = 8.2, 6.4  # 1-based: pixel 7.2, 5.4 of ours
    wcs.wcs.cdelt = -1e-4, 1e-4
    wcs.wcs.set()
    table = build_catalog(measured(), exposure(wcs=wcs))
    centre = wcs.pixel_to_world(7.2, 5.4).icrs
    assert table["ra"][0].to_value(u.deg) == pytest.approx(centre.ra.deg, abs=1e-10)
    assert table["dec"][0].to_value(u.deg) == pytest.approx(centre.dec.deg, abs=1e-10)
    if frame[0].startswith("RA"):
        assert table["ra"][0].to_value(u.deg) == pytest.approx(120)


def test_empty_catalogue():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    nothing = {name: np.zeros(0) for name in ("id", "x", "y", "flux", "flux_err", "fwhm", "flags")}
    table = build_catalog(nothing, exposure(wcs=wcs))
    assert len(table) == 0
    assert {"ra", "mag", "dq_core"} <= set(table.colnames)


def test_columns_named_by_a_radius():
    """One definition for all radii, under the name that the radius makes; order as given."""
    values = {"aper_flux_2p5pix": np.ones(3), "aper_flux_10pix": np.ones(3), "ci_10pix_2p5pix": np.ones(3)}
    table = build_catalog(measured(**values), exposure(unit="MJy/sr"))
    assert table.colnames[-3:] == list(values)
    assert table["aper_flux_10pix"].unit == u.MJy / u.sr
    assert column("aper_flux_10pix").text == column("aper_flux_<r>").text
    with pytest.raises(KeyError, match="aper_flux_wide"):
        build_catalog(measured(aper_flux_wide=np.ones(3)), exposure())


def test_undefined_and_missing_columns():
    with pytest.raises(KeyError, match="fluxx"):
        build_catalog(measured(fluxx=[1, 2, 3]), exposure())
    columns = measured()
    del columns["flux"]
    with pytest.raises(KeyError, match="flux"):
        build_catalog(columns, exposure())
    with pytest.raises(KeyError):
        column("nothing")
