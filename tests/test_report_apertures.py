"""The apertures in the report: curve of growth, corrections, contamination; and nothing where there are none."""

import io
from dataclasses import replace

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable
from PIL import Image as Pillow

from crowdfit.photometry.corrections import Corrections
from crowdfit.report import apertures, canvas
from crowdfit.report.page import write_report
from tests.test_report import Page, make_fit

LABELS, RADII = ("2fwhm", "1fwhm"), np.array([6.0, 3.0])


def corrected(stars=(1.1, 1.32), n=40):
    return Corrections(LABELS, RADII, np.array([1.1, 1.3]), np.array(stars), np.array([0.001, 0.002]), n)


def with_apertures(catalog, *, finite=True):
    """A catalogue with contamination of two circles: 0.4 and 0.2 of each star before, half of it noise after."""
    table = catalog.copy()
    noise = np.random.default_rng(1).normal(0, 0.05, len(table))
    for label, before in zip(LABELS, (0.4, 0.2), strict=True):
        table[f"aper_contam_{label}"] = np.full(len(table), before)
        table[f"aper_left_{label}"] = 0.01 + noise if finite else np.nan * noise
    return table


@pytest.fixture(scope="module")
def result():
    return make_fit(400)


def test_table_says_what_was_measured(result):
    """One row a circle: both corrections, their difference in mmag, medians and width of the contamination."""
    found = apertures.summary(with_apertures(result.catalog), corrected())
    assert len(found.headings) == len(found.rows[0])
    big, small = found.rows
    assert big[:4] == ("2fwhm", "6.00", "1.1000", "1.1000 ± 0.0010")
    assert big[4] == "+0.0"
    assert float(small[4]) == pytest.approx(2500 * np.log10(1.32 / 1.3), abs=0.06)
    assert small[5] == "0.200"
    assert float(small[6]) == pytest.approx(0.01, abs=0.01)
    assert float(small[7]) == pytest.approx(0.05, rel=0.2)
    assert "40 bright, lonely stars" in found.text


def test_without_stars_there_are_dashes(result):
    found = apertures.summary(with_apertures(result.catalog, finite=False), corrected((np.nan, np.nan), 2))
    assert "too few" in found.text
    assert found.rows[0][3:] == ("\N{EN DASH}",) * 5


def test_nothing_without_apertures(result):
    assert apertures.summary(result.catalog, None) is None
    assert apertures.aperture_pictures(result.catalog, None) == []
    none = Corrections((), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0), 0)
    assert apertures.summary(result.catalog, none) is None
    assert apertures.aperture_pictures(result.catalog, none) == []


def dots(picture):
    return np.asarray(Pillow.open(io.BytesIO(picture.png)).convert("RGB"), int)


def test_pictures(result):
    """Stars that grow otherwise than the PSF are somewhere else; without stars no orange is drawn."""
    table = with_apertures(result.catalog)
    with canvas.look():
        growth, contamination = apertures.aperture_pictures(table, corrected())
        other, _ = apertures.aperture_pictures(table, corrected((1.1, 1.2)))
        bare, _ = apertures.aperture_pictures(table, corrected((np.nan, np.nan)))
    orange = [np.mean(dots(p)[..., 0] - dots(p)[..., 2] > 100) for p in (growth, other, bare)]
    assert growth.png != other.png
    assert min(orange[:2]) > 1e-4
    assert orange[2] < 1e-4
    assert contamination.name == "contamination"
    assert np.mean(dots(contamination)[..., 0] - dots(contamination)[..., 2] > 100) > 1e-4


def test_odd_catalogues(result):
    """No source with finite values, a single one, none at all: still pictures."""
    for table in (with_apertures(result.catalog, finite=False), with_apertures(result.catalog[:1]),
                  with_apertures(result.catalog[:0])):  # fmt: skip
        with canvas.look():
            drawn = apertures.aperture_pictures(table, corrected((np.nan, np.nan), 0))
        assert all(picture.png.startswith(b"\x89PNG") for picture in drawn)
        assert len(apertures.summary(table, corrected()).rows) == 2


def test_page_has_the_section(tmp_path):
    fit = make_fit(400)
    fit = replace(fit, catalog=with_apertures(fit.catalog), corrections=corrected())
    page = Page(write_report(fit, tmp_path / "r.html").read_text("utf-8"))
    assert not page.open
    assert {"apertures", "growth", "contamination"} <= set(page.ids)
    assert "#apertures" in page.links
    assert "1.3200 ± 0.0020" in page.text
    plain = Page(write_report(make_fit(50), tmp_path / "p.html").read_text("utf-8"))
    assert "apertures" not in plain.ids
    assert "#apertures" not in plain.links


def test_masked_and_units():
    """Columns as a file gives them: quantities, masked entries."""
    table = QTable(
        {"aper_contam_1": np.ma.masked_array([0.1, 9.0], [False, True]), "aper_left_1": [0.0, 0.0] * u.one}
    )
    found = apertures.Contamination.of(table, "1")
    np.testing.assert_array_equal(found.before, [0.1, np.nan])
    assert found.medians == (0.1, 0.0)
