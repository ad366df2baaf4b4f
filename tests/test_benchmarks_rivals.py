"""Rivals: what they are given, what their columns mean, and that a missing one is said to be missing.

Nothing is installed here. Those that are installed in the usual place are run; the others are skipped.
"""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from benchmarks.rivals import __main__ as command
from benchmarks.rivals import (
    base,
    crowdsource,
    cut,
    daophot,
    environments,
    photutils,
    plain_sep,
    sextractor,
)
from benchmarks.rivals.base import Limits, Rival, read_field
from benchmarks.score import Stars
from crowdfit.errors import InputError
from crowdfit.simulate import SCENES, Cluster, simulate

TINY = dataclasses.replace(
    SCENES["demo"], ny=160, nx=150, n_stars=300, saturation=10_000.0, dead_columns=1, seed=3
)
EASY = dataclasses.replace(
    SCENES["demo"], ny=224, nx=224, n_stars=70, flux_min=2000.0, flux_max=4e5, bad_pixels=1e-4, seed=3
)

ALLSTAR = """\
#K IRAF       = CommunityIRAFV2.17      version    %-23s
#K TASK       = allstar                 name       %-23s
#
#N ID    XCENTER   YCENTER   MAG         MERR          MSKY           NITER    \\
#U ##    pixels    pixels    magnitudes  magnitudes    counts         ##       \\
#F %-9d  %-10.3f   %-10.3f   %-12.3f     %-14.3f       %-15.7g        %-6d
#
#N         SHARPNESS   CHI         PIER  PERROR                                \\
#U         ##          ##          ##    perrors                               \\
#F         %-23.3f     %-12.3f     %-6d  %-13s
#
1391     31.500    11.250    15.000      0.010         445.8723       4        \\
           0.052       0.637       0     No_error
214      105.569   22.747    INDEF       INDEF         430.2571       4        \\
           INDEF       INDEF       1     Star_too_faint
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Return the file of a tiny field."""
    return simulate(TINY).write(tmp_path_factory.mktemp("fields") / "tiny.fits")


@pytest.fixture(scope="module")
def easy(tmp_path_factory):
    """Return a field of bright stars with room between them."""
    path = simulate(EASY).write(tmp_path_factory.mktemp("fields") / "easy.fits")
    return base.Job("easy", 3, path, (EASY.ny, EASY.nx), EASY)


@pytest.fixture(scope="module")
def field(path):
    return read_field(path)


@pytest.fixture
def small(monkeypatch):
    """Make the scene `smoke` tiny."""
    monkeypatch.setitem(command.cut_file.__globals__, "scene_file", None)  # only cut scenes are drawn
    return ["--size", "128"]


def job_of(path):
    return base.Job("tiny", 3, path, (TINY.ny, TINY.nx), TINY)


class TestField:
    def test_an_observer_does_not_see_what_bad_pixels_hold(self, field):
        """Garbage is NaN and nothing else is; saturated pixels keep their values."""
        assert field.bad.any()
        assert field.saturated.any()
        assert np.array_equal(~np.isfinite(field.data), field.bad)
        assert (field.data[field.saturated] == TINY.saturation).all()
        assert np.isfinite(field.filled).all()
        assert np.array_equal(field.filled[~field.bad], field.data[~field.bad])
        assert (field.gain, field.read_noise, field.saturation) == (1, 6, 10_000)

    @pytest.mark.parametrize(("name", "fwhm", "share"), [("demo", 4.2, 0.05), ("undersampled", 1.95, 0.1)])
    def test_fwhm_and_noise_are_measured(self, tmp_path, name, fwhm, share):
        scene = dataclasses.replace(SCENES[name], ny=256, nx=256, n_stars=1500, seed=2, dead_columns=0)
        seen = read_field(simulate(scene).write(tmp_path / "field.fits"))
        assert seen.fwhm == pytest.approx(fwhm, rel=share)
        assert seen.noise == pytest.approx(scene.noise, rel=0.05)

    def test_empty_field_is_refused(self, tmp_path):
        scene = dataclasses.replace(TINY, n_stars=0, bad_pixels=0)
        empty = read_field(simulate(scene).write(tmp_path / "empty.fits"))
        with pytest.raises(InputError, match="no bright star"):
            _ = empty.fwhm

    def test_gain_must_be_known(self, path, tmp_path):
        with fits.open(path) as hdus:
            del hdus[0].header["GAIN"]
            hdus.writeto(tmp_path / "no_gain.fits")
        with pytest.raises(InputError, match=r"no_gain\.fits: GAIN not in"):
            read_field(tmp_path / "no_gain.fits")


class TestConversion:
    """Every code's columns become 0-based x (column), y (row), flux and its error."""

    def test_crowdsource_x_is_the_row(self, tmp_path):
        Table({"x": [10.25, 3], "y": [30.5, 4], "flux": [100.0, -5], "dflux": [2.0, 1]}).write(
            tmp_path / "found.fits"
        )
        assert_one_star(crowdsource.stars_of(tmp_path / "found.fits"))

    def test_photutils(self, tmp_path):
        Table(
            {
                "x_fit": [30.5, np.nan],
                "y_fit": [10.25, np.nan],
                "flux_fit": [100.0, np.nan],
                "flux_err": [2.0, np.nan],
            }
        ).write(tmp_path / "found.fits")
        assert_one_star(photutils.stars_of(tmp_path / "found.fits"))

    @pytest.mark.parametrize("kind", sextractor.COLUMNS)
    def test_source_extractor_pixels_begin_at_one(self, tmp_path, kind):
        names = [name for group in sextractor.COLUMNS.values() for name in group]
        table = Table({name: [-1.0, 1.0] for name in names})
        for name, value in zip(sextractor.COLUMNS[kind], (31.5, 11.25, 100, 2), strict=True):
            table[name] = [value, 0.0]
        table.write(tmp_path / "found.cat", format="fits")
        assert_one_star(sextractor.stars_of(tmp_path / "found.cat", kind))

    def test_allstar_has_magnitudes_and_pixels_from_one(self, tmp_path):
        (tmp_path / "als").write_text(ALLSTAR)
        found = daophot.stars_of(tmp_path / "als")
        assert_one_star(found, flux=1e4, err=1e4 * 0.01 / 1.0857)

    def test_sep(self, tmp_path):
        np.save(tmp_path / "found.npy", np.array([[30.5, 5], [10.25, 5], [100, 0], [2, 1]]))
        assert_one_star(plain_sep.stars_of(tmp_path / "found.npy"))


def assert_one_star(found, flux=100.0, err=2.0):
    """The star at column 30.5 and row 10.25 is there, and no entry without flux."""
    assert isinstance(found, Stars)
    assert len(found) == 1
    assert (found.x[0], found.y[0]) == (30.5, 10.25)
    assert found.flux[0] == pytest.approx(flux)
    assert found.err[0] == pytest.approx(err, rel=1e-4)


class TestMissing:
    @pytest.fixture
    def nothing(self, monkeypatch, tmp_path):
        """Return a folder without environments, on a machine without programs."""
        monkeypatch.setattr(base.shutil, "which", lambda name: None)
        return tmp_path / "nothing"

    @pytest.mark.parametrize("code", [code for code in command.RIVALS if code is not plain_sep.PlainSep])
    def test_a_missing_rival_is_reported_as_missing(self, code, nothing, path, tmp_path):
        rival = code(nothing)
        assert not rival.available()
        record = command.run_one(rival, job_of(path), tmp_path, Limits())
        assert record["status"] == "missing"
        assert record["message"].startswith("missing: ")
        assert record["version"] is None
        assert (record["field"], record["seed"], record["code"]) == ("tiny", 3, rival.name)
        assert "score" not in record

    def test_list_says_what_is_missing(self, nothing, capsys):
        assert command.main(["list", "--folder", str(nothing)]) == 0
        lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
        assert set(lines) == set(command.CODES)
        assert "available" in lines["sep"]
        assert "missing    program source-extractor, program psfex" in lines["sextractor"]
        assert "missing    program irafcl" in lines["allstar"]
        assert str(nothing / "crowdsource") in lines["crowdsource"]

    def test_missing_is_not_failing(self, nothing, small, tmp_path, capsys):
        argv = ["run", "dense", *small, "--codes", "crowdsource", "--folder", str(nothing)]
        assert command.main([*argv, "--out", str(tmp_path / "r.jsonl"), "--work", str(tmp_path)]) == 0
        assert "missing" in capsys.readouterr().out
        assert json.loads((tmp_path / "r.jsonl").read_text())["status"] == "missing"

    def test_environment_without_the_module(self, tmp_path):
        """An environment that was made but not filled is missing too."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "crowdsource"], check=True)
        (lack,) = crowdsource.Crowdsource(tmp_path).missing()
        assert lack.startswith("module crowdsource.crowdsource_base in ")


class TestInstall:
    @pytest.fixture
    def calls(self, monkeypatch):
        """Record the commands instead of running them."""
        made = []

        def record(words, **_):
            made.append([str(word) for word in words])
            return subprocess.CompletedProcess(words, 0)

        monkeypatch.setattr(environments.subprocess, "run", record)
        return made

    def test_one_environment_for_each_python_rival(self, calls, tmp_path, capsys):
        assert command.main(["install", "--folder", str(tmp_path)]) == 0
        made = [words[-1] for words in calls if "venv" in words]
        assert made == [str(tmp_path / "photutils"), str(tmp_path / "crowdsource")]
        (alone,) = [words for words in calls if "--no-deps" in words]
        assert alone[-1] == "crowdsourcephoto==0.5.9"
        assert any("numpy<2" in words for words in calls)
        said = capsys.readouterr().out
        assert "apt-get install" in said
        assert "iraf-noao" in said
        assert not any("apt-get" in words for words in calls)

    def test_apt_is_run_when_asked_for(self, calls, tmp_path):
        assert command.main(["install", "sextractor", "--apt", "--folder", str(tmp_path)]) == 0
        assert [words[words.index("apt-get") :][-2:] for words in calls] == [["source-extractor", "psfex"]]

    def test_failure_is_told(self, monkeypatch, tmp_path, capsys):
        def fail(words, **_):
            raise subprocess.CalledProcessError(1, [str(word) for word in words])

        monkeypatch.setattr(environments.subprocess, "run", fail)
        assert command.main(["install", "crowdsource", "--folder", str(tmp_path)]) == 1
        assert "crowdsource: failed: " in capsys.readouterr().err


class TestCut:
    def test_density_stays(self):
        """Also just inside the border: the margin is as wide as before."""
        whole = SCENES["dense"]
        part = cut.cut_scene(whole, 512)

        def density(scene):
            return scene.n_stars / ((scene.nx + 2 * scene.margin) * (scene.ny + 2 * scene.margin))

        assert density(part) == pytest.approx(density(whole), rel=1e-3)
        assert (part.nx, part.ny, part.margin, part.dead_columns) == (512, 512, whole.margin, 1)
        assert dataclasses.replace(part, nx=whole.nx, ny=whole.ny, n_stars=60_000, dead_columns=2) == whole

    def test_cluster_keeps_its_surface_density(self):
        cluster = Cluster(x=511.5, y=255.5, n_stars=40_000, core_radius=120.0)
        whole = dataclasses.replace(SCENES["dense"], clusters=(cluster,))
        (small,) = cut.cut_scene(whole, 256).clusters
        assert (small.x, small.y) == (127.5, 63.5)
        assert small.n_stars / small.core_radius**2 == pytest.approx(40_000 / 120**2)
        assert small.concentration == cluster.concentration

    @pytest.mark.parametrize("size", [20, 2048])
    def test_size_is_checked(self, size, tmp_path, capsys):
        assert command.main(["run", "dense", "--size", str(size), "--work", str(tmp_path)]) == 2
        assert f"size: {size} is not between" in capsys.readouterr().err

    def test_file_cannot_be_cut(self, path, capsys):
        assert command.main(["run", str(path), "--size", "128"]) == 2
        assert "only scenes by name" in capsys.readouterr().err

    def test_whole_scene_is_the_one_of_the_other_benchmarks(self, tmp_path):
        assert cut.cut_file("smoke", 3, None, tmp_path) == cut.scene_file("smoke", 3, tmp_path)

    def test_cut_scene_is_another_field(self, tmp_path):
        (job,) = command.jobs(["dense"], [4], 128, tmp_path)
        assert (job.field, job.seed, job.size) == ("dense-128", 4, (128, 128))
        assert job.path.exists()
        (again,) = command.jobs(["dense"], [4], 128, tmp_path)
        assert again.path == job.path


class TestInputs:
    """What is written for the rivals."""

    def test_crowdsource_stops_by_area_and_tiles_large_images(self, field, tmp_path):
        rival = crowdsource.Crowdsource(tmp_path)
        (words,) = rival.commands(field, tmp_path, Limits())
        task = json.loads((tmp_path / "task.json").read_text())
        assert task["fewstars"] == round(100 * 160 * 150 / 2**20)
        assert task["tiles"] == [1, 1]
        assert task["fwhm"] == field.fwhm
        assert words[0] == str(tmp_path / "crowdsource" / "bin" / "python")

    def test_source_extractor_options(self, field, tmp_path):
        first, psf, second = sextractor.SourceExtractor().commands(field, tmp_path, Limits(threads=3))
        assert psf[psf.index("-NTHREADS") + 1] == "3"
        assert float(second[second.index("-GAIN") + 1]) == 1
        assert "-PSF_NAME" in second
        assert "-PSF_NAME" not in first
        columns = (tmp_path / "second.param").read_text().split()
        assert "FLUX_PSF" in columns
        assert "FLUX_POINTSOURCE" not in columns  # costs as much again
        assert (fits.getdata(tmp_path / "weight.fits") == ~field.bad).all()
        assert np.isfinite(fits.getdata(tmp_path / "image.fits")).all()

    @pytest.mark.parametrize(
        ("kind", "least", "name"),
        [
            ("mexhat", 4.9, "mexhat_5.0_11x11.conv"),
            ("mexhat", 2.2, "mexhat_2.5_7x7.conv"),
            ("gauss", 9.0, "gauss_5.0_9x9.conv"),
            ("gauss", 1.2, "gauss_1.5_3x3.conv"),
        ],
    )
    def test_filter_is_just_wider(self, kind, least, name):
        assert sextractor.filter_file(kind, least).name == name

    def test_all_filters_are_there(self):
        folder = sextractor.FILTER_FOLDERS[0]
        if not folder.exists():
            pytest.skip("Source Extractor is not installed")
        for kind, entries in sextractor.FILTERS.items():
            for width, _ in entries:
                assert sextractor.filter_file(kind, width).exists()

    def test_iraf_is_given_functions_and_true_noise(self, field, tmp_path):
        rival = daophot.Allstar()
        (words,) = rival.commands(field, tmp_path, Limits())
        lines = (tmp_path / "fit.cl").read_text().splitlines()
        assert f"HOME={tmp_path}" in words
        assert lines[-1] == "logout"
        assert sum(line.startswith("daofind (") for line in lines) == 2
        assert "daopars.maxnstar = 50000" in lines
        assert f"datapars.sigma = {field.noise:.6g}" in lines
        assert all("verify=no" in line for line in lines if line.startswith(("allstar (", "psf (", "phot (")))
        image = fits.getdata(tmp_path / "im.fits")
        (datamin,) = [float(line.split("=")[1]) for line in lines if line.startswith("datapars.datamin")]
        assert np.array_equal(image < datamin, field.bad)
        assert not field.bad.all()

    def test_settings_have_reasons(self, capsys):
        for code in command.RIVALS:
            assert code.settings
            assert all(len(setting.why) > 10 for setting in code.settings.values())
        assert command.main(["list", "sep", "--settings"]) == 0
        assert "aperture_fwhm = 0.6: radius of the aperture" in capsys.readouterr().out


class Fake(Rival):
    """A rival that runs what it is told and has found nothing."""

    name = "fake"

    def __init__(self, *code):
        super().__init__()
        self.code = code

    def missing(self):
        return ()

    def version(self):
        return "1"

    def commands(self, field, work, limits):
        return [[sys.executable, "-S", "-c", code] for code in self.code]

    def catalogue(self, field, work):
        return Stars(*np.loadtxt(work / "no_such_file", ndmin=2))


class TestRun:
    def test_costs_are_added_and_memory_is_the_largest(self, path, tmp_path):
        spin = "x = bytearray(b'1' * {}); sum(range(2_000_000))"
        record = Fake(spin.format(150_000_000), spin.format(1), "raise SystemExit(7)").run(
            job_of(path), tmp_path, Limits()
        )
        assert record["status"] == 7
        assert record["peak_mb"] > 150
        assert record["cpu_s"] > 0
        assert record["wall_s"] > 0

    def test_commands_after_a_failure_are_not_run(self, path, tmp_path):
        flag = tmp_path / "flag"
        record = Fake("print('oh no'); raise SystemExit(3)", f"open({str(flag)!r}, 'w')").run(
            job_of(path), tmp_path, Limits()
        )
        assert (record["status"], record["message"]) == (3, "oh no")
        assert not flag.exists()

    def test_no_catalogue_is_a_failure(self, path, tmp_path):
        record = Fake("print('all is well')").run(job_of(path), tmp_path, Limits())
        assert record["status"] == 1
        assert "no catalogue" in record["message"]
        assert "all is well" in record["message"]

    def test_time_is_limited(self, path, tmp_path):
        record = Fake("import time; time.sleep(60)").run(job_of(path), tmp_path, Limits(seconds=1))
        assert record["message"] == "stopped after 1 s"

    def test_threads_are_limited(self, path, tmp_path):
        code = "import os, sys; sys.exit(' '.join([os.environ['OMP_NUM_THREADS'], str('PYTHONPATH' in os.environ)]))"
        record = Fake(code).run(job_of(path), tmp_path, Limits(threads=3, seconds=0))
        assert record["message"] == "3 False"

    def test_sep_beside_crowdfit_and_the_floor(self, tmp_path, capsys):
        """The records have the keys of `benchmarks.run`, so that they can stand in one table."""
        out = tmp_path / "rivals.jsonl"
        argv = ["run", "sparse", "--seeds", "2", "--size", "160", "--codes", "sep", "crowdfit", "floor"]
        assert (
            command.main(
                [*argv, "--out", str(out), "--work", str(tmp_path), "--threads", "1", "--no-warm-up"]
            )
            == 0
        )
        records = {r["code"]: r for r in map(json.loads, out.read_text().splitlines())}
        assert set(records) == {"sep", "crowdfit", "floor"}
        for record in records.values():
            assert (record["field"], record["seed"], record["size"]) == ("sparse-160", 2, [160, 160])
            assert record["status"] == 0
            assert record["version"]
            assert record["time"]
            assert record["threads"] == 1
            assert record["score"].keys() == records["sep"]["score"].keys()
        for name in ("sep", "crowdfit"):
            assert records[name]["wall_s"] > 0
            assert records[name]["peak_mb"] > 20
        assert records["sep"]["given"]["minarea"] == 3
        assert records["sep"]["score"]["completeness_snr10"] > 0.7
        assert records["floor"]["score"]["f1_snr10"] >= records["sep"]["score"]["f1_snr10"]
        said = capsys.readouterr().out
        assert said.count("sparse-160 sep") == 2
        assert said.count("sparse-160 floor") == 2

    def test_floor_needs_a_scene(self, path, tmp_path):
        assert (
            command.main(
                [
                    "run",
                    str(path),
                    "--codes",
                    "floor",
                    "--out",
                    str(tmp_path / "r.jsonl"),
                    "--work",
                    str(tmp_path),
                ]
            )
            == 1
        )
        assert "needs a scene" in json.loads((tmp_path / "r.jsonl").read_text())["message"]

    def test_unknown_code(self, capsys):
        with pytest.raises(SystemExit):
            command.main(["run", "dense", "--codes", "dolphot"])
        assert "dolphot: not one of crowdfit, floor, sep" in capsys.readouterr().err

    @pytest.mark.slow
    @pytest.mark.peer
    @pytest.mark.parametrize("name", [c.name for c in command.RIVALS if c is not plain_sep.PlainSep])
    def test_installed_rival(self, name, easy, tmp_path):
        """On an easy field every code finds the bright stars where they are."""
        rival = command.CODES[name]()
        if missing := rival.missing():
            pytest.skip(f"{name} is not installed: {', '.join(missing)}")
        record = command.run_one(rival, easy, tmp_path, Limits(threads=1, seconds=300))
        assert record["status"] == 0, record["message"]
        assert record["version"][0].isdigit() or record["version"].startswith("IRAF 2")
        figures = next(entry for entry in record["score"]["bins"] if entry["snr"] == "50-200")
        assert figures["completeness"] > 0.6
        assert figures["pos_med"] < 0.15
        assert abs(figures["bias_mmag"]) < 100
