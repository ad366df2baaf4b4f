"""A joint fit from exposures to catalogue and files."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial import cKDTree

import crowdfit
from crowdfit import flags
from crowdfit.cli import main
from crowdfit.config import load_config
from crowdfit.errors import ConfigError, InputError
from crowdfit.io.products import image_header
from crowdfit.io.tables import read_catalog
from crowdfit.joint.columns import BAND_COLUMNS, EXPOSURE_COLUMNS
from crowdfit.joint.run import check_joint
from crowdfit.joint.stages import JointStages
from crowdfit.pointings import Pointing, point
from crowdfit.render import render
from crowdfit.scene import Scene
from crowdfit.simulate import write_field

SCENE = Scene(
    ny=112,
    nx=112,
    n_stars=700,
    slope=0.6,
    flux_min=120.0,
    flux_max=1e5,
    fwhm=2.4,
    sky=100.0,
    margin=30.0,
    seed=8,
)
QUICK = {"psf_update__kind": "none", "confusion__kind": "none", "stop__max_passes": 5}


def quick(pointed, **overrides):
    psfs = [one.made.psf for one in pointed]
    return crowdfit.fit_exposures([one.exposure for one in pointed], psf=psfs, **{**QUICK, **overrides})


@pytest.fixture(scope="module")
def dithered():
    return point(
        SCENE, [Pointing(), Pointing(dx=24.3, dy=-2.6, error_x=1.4), Pointing(dx=-3.4, dy=20.7, rotation=3.0)]
    )


@pytest.fixture(scope="module")
def result(dithered):
    return quick(dithered)


def pairs(table, truth, radius=0.5):
    """Return rows of the catalogue and of the truth that lie on each other."""
    far, row = cKDTree(np.column_stack([table["x"].value, table["y"].value])).query(
        np.column_stack([truth["x"], truth["y"]])
    )
    star = np.flatnonzero(far < radius)
    return row[star], star


def test_fluxes_of_bright_stars_are_true_on_every_exposure(dithered, result):
    table = result.catalog
    rows, stars = pairs(table, dithered[0].made.truth)
    for k, one in enumerate(dithered, start=1):
        flux, err = (np.asarray(table[f"exp{k}_{name}"].value)[rows] for name in ("flux", "flux_err"))
        true = np.asarray(one.made.truth["flux"])[stars]
        good = (
            (true > 3000)
            & np.isfinite(flux)
            & (np.asarray(table[f"exp{k}_flags"])[rows] & flags.bit("edge") == 0)
        )
        assert good.sum() > 15
        pull = (flux[good] - true[good]) / err[good]
        assert abs(np.median(pull)) < 0.8
        assert np.median(np.abs(pull)) < 1.5


def test_positions_are_those_of_the_truth(dithered, result):
    table, truth = result.catalog, dithered[0].made.truth
    rows, stars = pairs(table, truth)
    bright = np.asarray(truth["flux"])[stars] > 3000
    off = np.asarray(table["x"].value)[rows] - np.asarray(truth["x"])[stars]
    pull = off[bright] / np.asarray(table["x_err"].value)[rows][bright]
    assert np.median(np.abs(pull)) < 1.2
    assert result.ties[-1][1].rms < 0.05


def test_stars_off_a_footprint_have_no_flux_there(dithered, result):
    table = result.catalog
    outside = (np.asarray(table["exp1_flags"]) & flags.bit("outside")) > 0
    assert 10 < outside.sum() < len(table) / 2
    assert np.isnan(table["exp1_flux"].value[outside]).all()
    assert np.isnan(table["exp1_limit"].value[outside]).all()
    assert np.isfinite(table["exp1_flux"].value[~outside]).all()
    covered = sum((np.asarray(table[f"exp{k}_flags"]) & flags.bit("outside")) == 0 for k in (1, 2, 3))
    np.testing.assert_array_equal(covered, table["n_exposures"])
    # found on the others, at their place on the first
    truth = dithered[0].made.truth
    beyond = np.asarray(truth["x"]) < -8
    assert len(
        np.intersect1d(pairs(table, truth)[1], np.flatnonzero(beyond & (np.asarray(truth["flux"]) > 1500)))
    )


def test_limits_are_given_where_nothing_is_detected(result):
    table = result.catalog
    for k in (1, 2, 3):
        flux, err, limit = (
            np.asarray(table[f"exp{k}_{name}"].value) for name in ("flux", "flux_err", "limit")
        )
        weak = flux < 3 * err
        assert weak.any()
        np.testing.assert_allclose(limit[weak], np.maximum(flux[weak], 0) + 3 * err[weak])
        assert np.isnan(limit[~weak]).all()


def test_more_stars_are_found_together_than_on_one(dithered, result):
    alone = crowdfit.fit_image(dithered[0].exposure, psf=dithered[0].made.psf, **QUICK)
    truth = dithered[0].made.truth
    inside = np.all([(truth[name] > 26) & (truth[name] < 86) for name in "xy"], axis=0)
    both, one = (
        np.isin(np.flatnonzero(inside), pairs(table, truth)[1]) for table in (result.catalog, alone.catalog)
    )
    assert both.sum() > one.sum() + 5


def test_model_equals_its_parts(result):
    for one in result.exposures:
        again = one.frame.rendered(result.sources)
        np.testing.assert_allclose(again.model, one.model, atol=1e-3 * one.frame.noise)


def test_files_are_those_of_each_exposure_and_one_catalogue(result, tmp_path):
    files = result.write(tmp_path, formats=("fits", "ecsv"))
    assert [path.name for path in files] == [
        "exposure1_joint_catalog.fits", "exposure1_joint_catalog.ecsv", "exposure1_fit.fits", "exposure2_fit.fits",
        "exposure3_fit.fits",
    ]  # fmt: skip
    table = read_catalog(files[0])
    assert table.colnames == result.catalog.colnames
    facts = {str(key).lower(): value for key, value in table.meta.items()}
    assert "stars" in str(facts["exp2_tie"])


def test_every_column_is_described(result):
    names = [entry.name for entry in (*BAND_COLUMNS, *EXPOSURE_COLUMNS)]
    for name in names:
        assert name.replace("<b>", "F1").replace("<k>", "2") in result.catalog.colnames
    assert all(result.catalog[name].info.description for name in result.catalog.colnames)


def test_a_star_that_varies_has_a_flux_in_each_exposure():
    scene = dataclasses.replace(SCENE, n_stars=30, flux_min=2000.0)
    pointed = point(scene, [Pointing(), Pointing(dx=2.3, dy=1.6)])
    rows = np.argsort(-np.asarray(pointed[0].made.truth["flux"]))[:8]
    # the second exposure shows every star as it is, and eight of them 30 % fainter
    second = pointed[1].made.truth
    missing = render(
        pointed[1].made.psf, second["x"][rows], second["y"][rows], -0.3 * second["flux"][rows], (112, 112)
    )
    exposure = dataclasses.replace(pointed[1].exposure, data=pointed[1].exposure.data + missing)
    result = crowdfit.fit_exposures(
        [pointed[0].exposure, exposure],
        psf=[one.made.psf for one in pointed],
        joint__flux="exposure",
        **QUICK,
    )
    table = result.catalog
    row, star = pairs(table, pointed[0].made.truth)
    ratio = np.asarray(table["exp2_flux"].value / table["exp1_flux"].value)[row]
    varied = np.isin(star, rows) & np.isfinite(ratio)
    assert varied.sum() >= 5
    assert np.median(ratio[varied]) == pytest.approx(0.7, abs=0.03)
    assert np.nanmedian(ratio[~varied]) == pytest.approx(1.0, abs=0.05)


def test_two_bands_have_a_flux_each():
    pointed = point(
        dataclasses.replace(SCENE, n_stars=120, flux_min=1000.0),
        [Pointing(band="F1"), Pointing(dx=1.3, dy=0.6, band="F2", colour=0.5, fwhm=3.0)],
    )
    result = quick(pointed)
    assert result.bands == ("F1", "F2")
    table = result.catalog
    row, star = pairs(table, pointed[0].made.truth)
    for band, one in zip(("F1", "F2"), pointed, strict=True):
        true = np.asarray(one.made.truth["flux"])[star]
        flux, err = (np.asarray(table[f"band_{name}_{band}"].value)[row] for name in ("flux", "flux_err"))
        good = (true > 2000) & np.isfinite(flux)
        assert good.sum() > 15
        assert np.median(np.abs(flux[good] - true[good]) / err[good]) < 1.5


def test_known_stars_are_measured_where_they_are():
    scene = dataclasses.replace(SCENE, n_stars=60, flux_min=1000.0)
    pointed = point(scene, [Pointing(), Pointing(dx=4.3, dy=-2.6)])
    truth = pointed[0].made.truth
    # some lie on the second exposure only
    inside = np.all(
        [(truth[name] > low) & (truth[name] < 111) for name, low in (("x", -4), ("y", 0))], axis=0
    )
    x, y, flux = (np.asarray(truth[name])[inside] for name in ("x", "y", "flux"))
    table = quick(pointed, config="forced", positions=(x, y)).catalog
    np.testing.assert_allclose(table["x"].value, x, atol=0.02)
    pull = (table["flux"].value - flux) / table["flux_err"].value
    assert abs(np.median(pull)) < 0.6
    assert np.median(np.abs(pull)) < 1.2
    assert all(flags.has(table["flags"], "forced"))
    with pytest.raises(InputError, match=r"positions: 1 of 2 lie on no exposure \(row 2 at x 500.0"):
        quick(pointed, positions=([5.0, 500.0], [5.0, 5.0]))


def test_stages_for_single_images_are_refused(dithered):
    exposures = [one.exposure for one in dithered]
    config = load_config(None, ["detect.kind=sep", "solve.kind=lsqr", "segments.kind=sep"])
    with pytest.raises(ConfigError) as refused:
        check_joint(exposures, config)
    assert len(str(refused.value).splitlines()) == 3
    assert "detect.kind: 'sep' is for a single image; a joint fit takes 'score', 'none'" in str(refused.value)
    with pytest.raises(InputError, match="two exposures or more"):
        check_joint(exposures[:1], load_config())
    with pytest.raises(InputError, match="exposure1: two exposures have this name"):
        check_joint([exposures[0], exposures[0]], load_config())
    with pytest.raises(InputError, match="psf: 1 are given for 3"):
        crowdfit.fit_exposures(exposures, psf=[None])


def test_the_loop_gets_a_stage_for_each_of_its_own(result):
    stages = JointStages((result.config,), result.config.joint, None, ())
    for name in ("sky", "stripes", "detect", "confusion", "solve", "centroid", "psf_update", "prune", "stop"):
        assert callable(getattr(stages, name))


@pytest.fixture
def images(dithered, tmp_path):
    paths = []
    for number, one in enumerate(dithered[:2], start=1):
        made, header = one.made, image_header(one.exposure)
        header["FILTER"] = "F1"
        paths.append(
            write_field(
                tmp_path / f"dither{number}.fits", header, header, made.data, made.err, made.dq, made.truth
            )
        )
    return paths


def test_command_line_fits_images_together(images, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["fit", *map(str, images), "-o", str(out), "--joint", "--set", "stop.max_passes=2"]) == 0
    assert "2 exposures" in capsys.readouterr().out
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "dither1_fit.fits",
        "dither1_joint_catalog.fits",
        "dither1_report.html",
        "dither2_fit.fits",
    ]


def test_command_line_refuses_to_resume_a_joint_fit(images, tmp_path, capsys):
    assert main(["fit", *map(str, images), "-o", str(tmp_path / "o"), "--joint", "--resume"]) == 2
    assert "a joint fit leaves no run record" in capsys.readouterr().err
