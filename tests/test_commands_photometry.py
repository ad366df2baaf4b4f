"""`crowdfit photometry`: an existing list on an image, row by row."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table

from crowdfit.cli import main
from crowdfit.commands.photometry import list_settings
from crowdfit.config import load_config
from crowdfit.job import DONE, REFUSED
from crowdfit.simulate import named_scene, simulate

SCENE = named_scene(
    "demo", ny=140, nx=150, n_stars=120, margin=0, fwhm=3.0, flux_min=3e3, flux_max=3e5, seed=4
)


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """Return an image and the list of its true stars, in no particular order."""
    folder = tmp_path_factory.mktemp("list")
    simulated = simulate(SCENE)
    simulated.write(folder / "field.fits")
    truth = simulated.truth
    inside = (truth["x"] > 0) & (truth["x"] < 149) & (truth["y"] > 0) & (truth["y"] < 139)
    stars = Table({name: np.asarray(truth[name])[inside] for name in ("x", "y", "flux")})
    stars["x", "y"].write(folder / "list.csv")
    return folder, stars


@pytest.fixture(scope="module")
def measured(field):
    folder, _ = field
    out = folder / "out"
    assert (
        main(["photometry", str(folder / "list.csv"), str(folder / "field.fits"), "-o", str(out), "-q"])
        == DONE
    )
    return out, Table.read(out / "field_catalog.fits")


def test_rows_are_those_of_the_list(field, measured):
    """Positions as given, none added, none dropped, in the order of the list."""
    _, stars = field
    _, table = measured
    assert len(table) == len(stars)
    np.testing.assert_array_equal(table["x"].value, stars["x"])
    np.testing.assert_array_equal(table["y"].value, stars["y"])


def test_fluxes(field, measured):
    """Fitted and corrected aperture fluxes are those of the truth, within their errors."""
    _, stars = field
    _, table = measured
    pull = (table["flux"].value - stars["flux"]) / table["flux_err"].value
    assert abs(np.median(pull)) < 0.5
    assert 1.4826 * np.median(np.abs(pull)) < 2
    whole = table["aper_flux_1fwhm"] * table["aper_corr_1fwhm"]
    bright = stars["flux"] > 3e4
    assert np.median(np.abs(whole / stars["flux"] - 1)[bright]) < 0.02


def test_files(measured):
    """Catalogue and fit image; the corrections are in the header."""
    out, _ = measured
    assert sorted(path.name for path in out.iterdir()) == ["field_catalog.fits", "field_fit.fits"]
    header = fits.getheader(out / "field_fit.fits")
    lines = [header[key] for key in header if key.startswith("APER")]
    assert lines[0] == "apertures"
    assert lines[1].startswith("1fwhm: radius 3.1")


def test_with_another_configuration_and_psf(field, measured, tmp_path):
    """The list stays the list under any configuration; a catalogue and the PSF of a fit serve as they are."""
    folder, stars = field
    out, _ = measured
    status = main(
        ["photometry", str(out / "field_catalog.fits"), str(folder / "field.fits"), "-o", str(tmp_path), "-q",
         "-c", "undersampled", "--psf", str(out / "field_fit.fits"), "--set", "psf_update.kind=none",
         "--set", "aperture.radii=[2.5]", "--set", "aperture.unit=pix", "--format", "ecsv"]
    )  # fmt: skip
    assert status == DONE
    table = QTable.read(tmp_path / "field_catalog.ecsv")
    assert len(table) == len(stars)
    assert "aper_flux_2p5pix" in table.colnames
    assert "aper_flux_1fwhm" not in table.colnames


def test_settings_of_the_user_win():
    config = load_config("undersampled", list_settings("undersampled", ["aperture.kind=none"], []))
    assert (config.detect.kind, config.centroid.kind, config.prune.kind) == ("none", "none", "none")
    assert config.aperture.kind == "none"


def test_refusals(field, tmp_path, capsys):
    folder, _ = field
    image = str(folder / "field.fits")
    assert main(["photometry", str(tmp_path / "no.csv"), image, "-o", str(tmp_path)]) == REFUSED
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "far.csv").write_text("x,y\n1,2\n999,3\n")
    assert main(["photometry", str(tmp_path / "far.csv"), image, "-o", str(tmp_path)]) == REFUSED
    assert "lie outside the image" in capsys.readouterr().err
