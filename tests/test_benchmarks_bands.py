"""P068, M037, M042: two bands of a crowded field come out as they went in, from `_cal` files to the diagram."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable

from benchmarks import bands
from crowdfit.io.fits import read_exposure

SIDE = 288


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The figures of a small field, and the folder of its files."""
    folder = tmp_path_factory.mktemp("bands")
    return bands.run(3, SIDE, folder), folder


def test_magnitudes_are_those_put_in(record):
    """Above S/N 50, in the scale of the header: within 5 mmag beside noise and what no PSF of a fit holds."""
    figures, _ = record
    for band in bands.BANDS:
        its = figures[band.name]
        assert its["n"] > 40
        assert 2 < its["beyond_mmag"] < 6
        assert abs(its["bias_mmag"] - its["beyond_mmag"]) < 5 + 3 * its["bias_err_mmag"]
        assert its["scatter_mmag"] < 20


def test_main_sequence_is_as_wide_as_it_has_to_be(record):
    """At S/N 20 within 1.2 of injected width and photons together; the width of n stars is known to 1.2 / (2 n)^0.5."""
    figures, _ = record
    for its in figures["ms"].values():
        assert its["n"] > 50
        assert its["ratio"] < 1.2 + 3 * 1.2 / np.sqrt(2 * its["n"])
        assert its["expected"] > its["injected"] > 0.5 * bands.WIDTH
        assert abs(its["offset"]) < 5 * its["width"] / np.sqrt(its["n"])
    assert figures["ms"]["clean"]["n"] < figures["ms"]["all"]["n"]


def test_files_are_all_there(record):
    _, folder = record
    assert (folder / "colours_3.png").exists()
    for band in bands.BANDS:
        with fits.open(folder / f"{band.name.lower()}_3_cal.fits") as hdus:
            assert [hdu.name for hdu in hdus[1:4]] == ["SCI", "ERR", "DQ"]
            assert hdus["AREA"].data.std() > 0
        exposure = read_exposure(folder / f"{band.name.lower()}_3_cal.fits")
        assert exposure.band == band.name
        assert exposure.noise == pytest.approx(band.noise, rel=0.15)


def test_true_catalogues_have_no_bias():
    """The yardstick itself: true magnitudes with the noise of lonely stars are unbiased and as wide as expected."""
    field, side, rng = bands.draw_field(2, 700), 700, np.random.default_rng(4)
    catalogs = []
    for number, band in enumerate(bands.BANDS):
        flux = band.flux(field.mag[number])
        noisy = np.maximum(flux + rng.normal(0, bands.isolated_errors(band, flux)), 1e-3)
        x, y = field.places(band)
        table = QTable(
            {"x": x, "y": y, "flux": noisy, "flux_err": bands.isolated_errors(band, flux)}, copy=True
        )
        table["mag_cal"] = field.mag[number] - 2.5 * np.log10(noisy / flux)
        for name in table.colnames:
            table[name].unit = "mag" if name == "mag_cal" else "pix"
        table["qf"] = table["fracflux"] = np.where(np.arange(len(x)) % 2, 1.0, 0.3)
        catalogs.append(table)
    n = len(field.x)
    colours = QTable({"row_1": np.arange(n), "row_2": np.arange(n), "flags": np.zeros(n, np.uint32)})
    colours["colour_12"] = catalogs[0]["mag_cal"] - catalogs[1]["mag_cal"]
    figures = bands.figures(field, side, catalogs, colours, [band.psf() for band in bands.BANDS])
    for band in bands.BANDS:
        its = figures[band.name]
        assert abs(its["bias_mmag"]) < 4 * its["bias_err_mmag"] < 4
        assert its["beyond_mmag"] == 0
    its = figures["ms"]["all"]
    assert its["ratio"] == pytest.approx(1, abs=4 / np.sqrt(2 * its["n"]))
    assert figures["ms"]["clean"]["share"] == pytest.approx(0.5, abs=0.1)


def test_isolated_errors_are_those_of_a_fit():
    """A lonely star on sky noise alone: 1 / sum(P^2) times the variance of a pixel, at the mean place in a pixel."""
    band = bands.BANDS[0]
    faint = bands.isolated_errors(band, np.array([1e-6, 1e-5]))[0]
    assert faint == pytest.approx(band.noise * np.sqrt(band.psf().n_eff), rel=0.1)
    bright = 1e4
    assert bands.isolated_errors(band, np.array([1.0, bright]))[1] == pytest.approx(
        np.sqrt(bright / band.electrons), rel=0.1
    )


def test_medians():
    records = [{"seed": k, "ms": {"width": w}} for k, w in ((1, 1.0), (2, 5.0), (3, 2.0))]
    assert bands.median_of(records) == {"seed": 2.0, "ms": {"width": 2.0}}


def test_command(monkeypatch, tmp_path, capsys, record):
    figures, _ = record
    monkeypatch.setattr(bands, "run", lambda seed, side, folder, options: figures | {"seed": seed})
    bands.main(["--seeds", "1", "2", "--json", str(tmp_path / "out.jsonl"), "--keep", str(tmp_path / "kept")])
    said = capsys.readouterr().out
    assert said.count("F150W above S/N 50") == 3
    assert "median" in said
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
