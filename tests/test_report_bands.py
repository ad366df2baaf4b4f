"""The page of `crowdfit cmd`: diagrams, errors, distances, what was matched; and tables with hardly a star."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from crowdfit.cli import main
from crowdfit.colours import match_bands
from crowdfit.errors import InputError
from crowdfit.io.tables import read_catalog, write_catalog
from crowdfit.report import bands, canvas
from crowdfit.report.bands import write_bands_report
from tests.test_colours import catalog, crowd
from tests.test_report import Page


def matched(n=300, *, third=True, sky=True, zero_point=25.0):
    """Two or three bands of one crowd; a star of the second band is two in the first."""
    x, y, flux = crowd(n)
    rng = np.random.default_rng(5)
    names = ("F090W", "F150W", "F277W")[: 3 if third else 2]
    extra = ([x[0] + 30], [y[0]], [flux[0] / 3]) if n else ([], [], [])
    tables = {}
    for k, name in enumerate(names):
        places = [
            x + rng.normal(0, 2, n),
            y + rng.normal(0, 2, n),
            flux * (1 + 0.3 * k) * 10 ** rng.normal(0, 0.1, n),
        ]
        if k == 0:
            places = [np.append(one, more) for one, more in zip(places, extra, strict=True)]
        tables[f"{name.lower()}_catalog.fits"] = catalog(*places, band=name, sky=sky, zero_point=zero_point)
    return match_bands(tables, "0.06 arcsec" if sky else "60 pix")


def test_page(tmp_path):
    """P065, P068, M037: diagrams, errors and facts of three bands."""
    table = matched()
    text = write_bands_report(table, tmp_path / "c.html").read_text("utf-8")
    page = Page(text)
    assert not page.open
    assert {"cmd", "two-colours", "colour-error", "distances"} == {name for name in page.ids} - {
        "diagrams",
        "quality",
    }
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe"} & set(page.tags)
    for words in ("F090W, F150W, F277W", "0.06 arcsec", "AB", "f150w_catalog.fits", "added up", "0.028 mag"):
        assert words in page.text, words
    assert f"stars {len(table)}" in page.text
    assert write_bands_report(table, tmp_path / "again.html").read_text("utf-8") == text


def test_two_bands_have_no_second_colour(tmp_path):
    """P065: a page without that diagram."""
    page = Page(write_bands_report(matched(third=False), tmp_path / "c.html").read_text("utf-8"))
    assert "cmd" in page.ids
    assert "two-colours" not in page.ids


def test_diagram_shows_the_stars():
    """Blue points, orange bars of errors, grey ones with several detections."""
    table = matched()
    with canvas.look():
        pictures = {picture.name: picture for picture in bands._pictures(table)}
    for name in ("cmd", "two-colours"):
        dots = np.asarray(Pillow.open(io.BytesIO(pictures[name].png)).convert("RGB"), int)
        assert np.mean(dots[..., 2] - dots[..., 0] > 80) > 1e-3
    dots = np.asarray(Pillow.open(io.BytesIO(pictures["cmd"].png)).convert("RGB"), int)
    assert np.mean(dots[..., 0] - dots[..., 2] > 80) > 1e-5


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("sky", [True, False])
def test_few_stars(n, sky, tmp_path):
    """No pair, one, three; on the sky or in pixels; instrumental magnitudes."""
    page = Page(
        write_bands_report(matched(n, sky=sky, zero_point=None), tmp_path / "c.html").read_text("utf-8")
    )
    assert not page.open
    assert "nan" not in page.text.split()
    assert "instrumental" in page.text
    assert ("pix" in page.text) == (not sky)


def test_table_that_was_read_back(tmp_path):
    """FITS files make the keys of the metadata upper case."""
    path = write_catalog(matched(), tmp_path / "c.fits")
    text = [
        write_bands_report(table, tmp_path / f"{k}.html").read_text("utf-8")
        for k, table in enumerate((matched(), read_catalog(path)))
    ]
    assert text[0] == text[1]


def test_folder_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        write_bands_report(matched(3), tmp_path / "nowhere" / "c.html")


def test_command_writes_it(tmp_path, capsys):
    paths = []
    for name in ("a", "b"):
        x, y, flux = crowd(100)
        paths.append(
            str(write_catalog(catalog(x, y, flux, band=name, zero_point=25.0), tmp_path / f"{name}.fits"))
        )
    out = tmp_path / "colours.ecsv"
    assert main(["cmd", *paths, "-o", str(out)]) == 0
    assert f"{tmp_path / 'colours.html'}: report" in capsys.readouterr().out
    assert (tmp_path / "colours.html").exists()
    assert main(["cmd", *paths, "-o", str(out), "--report", str(tmp_path / "page.html"), "-q"]) == 0
    assert (tmp_path / "page.html").exists()
    assert main(["cmd", *paths, "-o", str(out), "--report", str(tmp_path / "colours.png")]) == 2
    assert "is one of the other files" in capsys.readouterr().err
