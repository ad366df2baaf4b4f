"""The benchmark harness runs, so that it cannot rot; on fields too small for their figures to mean much."""

import dataclasses
import json
import subprocess
import sys

import numba
import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import label

from benchmarks import floor, kernels, run, saturated, scenes, smoke, startup
from benchmarks.machine import Machine, measure_machine
from benchmarks.operations import count_operations
from benchmarks.run import Setup
from benchmarks.score import Stars, score, truth_of
from crowdfit._kernels import filters, normal
from crowdfit.simulate import SCENES, named_scene, simulate

TINY = dataclasses.replace(SCENES["demo"], ny=96, nx=110, n_stars=200, dead_columns=0)


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """Return the file of a tiny field."""
    return simulate(TINY).write(tmp_path_factory.mktemp("fields") / "tiny.fits")


class TestMeasure:
    """P113: cost as the operating system counts it."""

    def test_cost_is_that_of_the_command_alone(self, tmp_path):
        ballast = np.ones(50_000_000)
        cost = run.measure([sys.executable, "-c", "print('hello')"], tmp_path / "log")
        assert ballast.sum() == 5e7
        assert cost["status"] == 0
        assert 1 < cost["peak_mb"] < 150
        assert cost["cpu_s"] >= 0
        assert cost["wall_s"] > 0
        assert (tmp_path / "log").read_text() == "hello\n"

    def test_memory_and_cpu_are_counted(self, tmp_path):
        code = "x = bytearray(b'1' * 200_000_000); sum(range(3_000_000))"
        cost = run.measure([sys.executable, "-c", code], tmp_path / "log")
        assert cost["peak_mb"] > 200
        assert cost["cpu_s"] > 0

    @pytest.mark.parametrize(
        ("code", "status"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)]
    )
    def test_status(self, tmp_path, code, status):
        assert run.measure([sys.executable, "-c", code], tmp_path / "log")["status"] == status


class TestScenes:
    def test_file_is_drawn_once(self, tmp_path):
        path = scenes.scene_file("smoke", 3, tmp_path)
        stamp = path.stat().st_mtime_ns
        assert scenes.scene_file("smoke", 3, tmp_path) == path
        assert path.stat().st_mtime_ns == stamp

    def test_changed_scene_is_another_file(self, tmp_path, monkeypatch):
        path = scenes.scene_file("smoke", 3, tmp_path)
        monkeypatch.setitem(scenes.BENCH_SCENES, "smoke", dataclasses.replace(scenes.SMOKE, n_stars=10))
        assert scenes.scene_file("smoke", 3, tmp_path) != path

    def test_groups_stand_for_their_members(self):
        assert scenes.expand(["ladder", "dense"]) == [
            "ladder200", "ladder100", "ladder50", "ladder25", "ladder12", "ladder8", "dense",
        ]  # fmt: skip
        assert set(scenes.expand(["ladder"])) <= set(scenes.BENCH_SCENES)
        assert {"sparse", "dense", "undersampled", "cluster", "big", "huge"} <= set(scenes.BENCH_SCENES)
        sizes = [scenes.BENCH_SCENES[name] for name in scenes.expand(["scale"])]
        assert [scene.ny * scene.nx / 2**20 for scene in sizes] == [1, 4, 16]
        assert sizes[-1].n_stars == 10**6

    def test_jobs(self, tmp_path, monkeypatch):
        """A scene once a seed; files and real fields have no seeds, and real fields a configuration."""
        monkeypatch.setitem(scenes.BENCH_SCENES, "smoke", TINY)
        wanted = scenes.jobs(["smoke", "real", "a/mine.fits"], [3, 4], tmp_path)
        assert [(job.field, job.seed) for job in wanted[:2]] == [("smoke", 3), ("smoke", 4)]
        assert all(job.path.exists() for job in wanted[:2])
        assert {job.field for job in wanted[2:-1]} == set(scenes.REAL_FIELDS)
        assert {job.seed for job in wanted[2:]} == {0}
        assert wanted[2].config == "irac"
        assert wanted[-1].path.is_absolute()

    def test_has_truth(self, field, tmp_path):
        assert scenes.has_truth(field)
        fits.writeto(tmp_path / "bare.fits", np.ones((4, 4)))
        assert not scenes.has_truth(tmp_path / "bare.fits")

    def test_smoke_is_as_dense_as_dense(self):
        def density(scene):
            return scene.n_stars / ((scene.nx + 2 * scene.margin) * (scene.ny + 2 * scene.margin))

        assert density(scenes.SMOKE) == pytest.approx(density(SCENES["dense"]), rel=0.05)


class TestRun:
    def test_whole_command(self, field, tmp_path, capsys):
        """P113: a run leaves one JSON line that says what was run, where, and how it went."""
        out = tmp_path / "runs.jsonl"
        settings = ["--set", "stop.max_passes=2", "--set", "output.report=false"]
        argv = [str(field), "--no-warm-up", "--out", str(out), "--work", str(tmp_path / "work"), *settings]
        assert run.main(argv) == 0
        (record,) = [json.loads(line) for line in out.read_text().splitlines()]
        assert record["field"] == "tiny"
        assert record["status"] == 0
        assert record["wall_s"] > 0
        assert record["peak_mb"] > 50
        assert record["threads"] == 2
        assert record["settings"] == ["stop.max_passes=2", "output.report=false"]
        assert len(record["config_hash"]) == 12
        assert {"crowdfit", "python", "numpy", "numba"} <= set(record["versions"])
        assert record["host"]["cores"] > 0
        assert record["score"]["completeness_snr10"] > 0.3
        assert record["fit"]["passes"] == 2
        assert record["fit"]["stop_reason"] == "max_passes"
        assert record["fit"]["stage_seconds"]["solve"] > 0
        assert record["code"] == "crowdfit"
        assert record["counts"]["n_cat"] >= record["counts"]["n_snr10"] > 10
        assert 0.5 < record["fit"]["chi"] < 3
        assert capsys.readouterr().out.count("tiny") == 2

    def test_field_without_truth(self, field, tmp_path, capsys):
        """Cost, residual and number of stars are recorded, and nothing is scored."""
        with fits.open(field) as hdus:
            hdus["SCI"].writeto(tmp_path / "bare.fits")
        out = tmp_path / "runs.jsonl"
        argv = [str(tmp_path / "bare.fits"), "--no-warm-up", "--out", str(out), "--work", str(tmp_path)]
        assert run.main([*argv, "--set", "stop.max_passes=1", "--set", "output.report=false"]) == 0
        record = json.loads(out.read_text())
        assert "score" not in record
        assert record["counts"]["n_cat"] > 10
        assert capsys.readouterr().out.splitlines()[-1].split()[5:] == ["-"] * 9

    def test_missing_real_field_is_said(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(scenes.REAL_FIELDS, "m92_v", scenes.RealField("absent.fits"))
        assert run.main(["m92_v", "--no-warm-up", "--work", str(tmp_path), "--out", str(tmp_path / "o")]) == 0
        assert "m92_v: missing" in capsys.readouterr().out

    def test_failed_fit_is_reported(self, tmp_path, capsys):
        broken = tmp_path / "broken.fits"
        broken.write_bytes(b"not a FITS file")
        argv = [
            str(broken),
            "--no-warm-up",
            "--out",
            str(tmp_path / "runs.jsonl"),
            "--work",
            str(tmp_path / "work"),
        ]
        assert run.main(argv) == 1
        record = json.loads((tmp_path / "runs.jsonl").read_text())
        assert record["status"] == 2
        assert "broken.fits" in record["message"]
        assert "failed (2)" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["smoke", "--solver", "abacus"], "abacus"),
            (["no_such_scene"], "no_such_scene"),
            (["smoke", "--set", "a.b=1"], "a"),
        ],
    )
    def test_wrong_request(self, argv, message, tmp_path, capsys):
        assert run.main([*argv, "--work", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err

    def test_options_reach_the_command(self):
        setup = Setup(1, "nircam_sw", ("solve.kind=lsqr",))
        assert setup.arguments() == ["--threads", "1", "-q", "-c", "nircam_sw", "--set", "solve.kind=lsqr"]

    def test_table_shows_medians(self):
        def record(seed, f1):
            figures = {
                "f1_snr10": f1,
                "f1_snr5": f1,
                "completeness_snr10": f1,
                "false_frac_snr10": 0.1,
                "bins": [],
            }
            return {
                "field": "dense",
                "seed": seed,
                "status": 0,
                "wall_s": 1.0,
                "cpu_s": 2.0,
                "peak_mb": 3.0,
                "score": figures,
            }

        lines = run.table([record(1, 0.7), record(2, 0.8), record(3, 0.876)]).splitlines()
        assert len(lines) == 5
        assert lines[-1].split()[:6] == ["dense", "med", "1.0", "2.0", "3", "0.800"]
        assert lines[-1].split()[-1] == "-"

    def test_codes_have_lines_of_their_own(self):
        records = [{"field": "dense", "seed": 1, "status": 0, "code": code} for code in ("crowdfit", "floor")]
        heads = [line[:18].strip() for line in run.table(records).splitlines()]
        assert heads == ["field", "dense", "dense floor"]


def test_smoke_judges_figures():
    figures = {"f1_snr10": 0.9, "f1_snr5": 0.8, "bins": [{"snr": "50-200", "bias_mmag": 3.0}]}
    assert smoke.complaints({"status": 0, "score": figures}) == []
    (complaint,) = smoke.complaints({"status": 0, "score": figures | {"f1_snr10": 0.5}})
    assert "f1_snr10 is 0.5" in complaint
    (complaint,) = smoke.complaints(
        {"status": 0, "score": figures | {"bins": [{"snr": "50-200", "bias_mmag": None}]}}
    )
    assert "bias" in complaint
    (complaint,) = smoke.complaints({"status": 2, "message": "no such file"})
    assert "no such file" in complaint


def test_floor_is_unbiased_and_nearly_complete(monkeypatch):
    """P116: the true sources with the true PSF, fitted linearly, come out right."""
    scene = dataclasses.replace(TINY, ny=200, nx=200, n_stars=600, seed=4)
    monkeypatch.setitem(scenes.BENCH_SCENES, "smoke", scene)
    record = floor.floor("smoke", 4)
    assert (record["field"], record["code"], record["size"]) == ("smoke", "floor", [200, 200])
    figures = record["score"]
    assert figures["completeness_snr10"] > 0.97
    assert figures["false_frac_snr10"] < 0.03
    bright = next(b for b in figures["bins"] if b["snr"] == "50-200")
    assert abs(bright["bias_mmag"]) < 10
    assert bright["scatter"] < 0.03


def test_floor_knows_the_light_between_the_stars(monkeypatch):
    """A cluster on an empty field: the faint stars shine where the cluster is, and bias nobody outside it.

    Before, one mean for the whole frame made the stars outside faint by more than their error.
    """
    clusters = ({"x": 130.0, "y": 130.0, "n_stars": 6000, "core_radius": 25.0, "gamma": 4.0},)
    scene = named_scene("cluster", ny=260, nx=260, clusters=clusters, dead_columns=0, seed=3)
    made = simulate(scene)
    truth = truth_of(made)
    found = floor.fit_floor(made, truth)
    figures = score(truth, found)
    low = next(b for b in figures.density_bins if b.n >= 30)
    assert abs(low.pull_med) < 5 * 1.25 / np.sqrt(low.n)


def test_floor_is_recorded(monkeypatch, tmp_path, capsys):
    """It goes to the file of results, with the code and machine it was made with."""
    monkeypatch.setitem(scenes.BENCH_SCENES, "smoke", TINY)
    floor.main(["smoke", "--seeds", "1", "2", "--out", str(tmp_path / "runs.jsonl")])
    records = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [(r["code"], r["field"], r["seed"]) for r in records] == [("floor", "smoke", s) for s in (1, 2)]
    assert {"commit", "versions", "host", "time"} <= set(records[0])
    assert "smoke floor" in capsys.readouterr().out


@pytest.fixture(scope="module")
def bright_field():
    """Return a small field with saturated stars, and its truth."""
    scene = dataclasses.replace(saturated.saturated_scene("sparse", 4), ny=300, nx=300, n_stars=1500)
    made = simulate(scene)
    return made, truth_of(made)


class TestSaturated:
    """The measure of saturated stars, on catalogues that are known."""

    def test_truth_is_found_and_good(self, bright_field):
        made, truth = bright_field
        full = made.exposure.saturated
        main = saturated.measure(made, truth.stars)
        # every star of the truth is an entry: a blob with two of them is not found once
        assert main.n >= 2
        assert main.n_good == main.n_once <= main.n
        assert (main.flux_95, main.place_95, main.false_near, main.false_far) == (0, 0, 0, 0)
        assert main.n <= label(full, np.ones((3, 3)))[1]

    def test_each_fault_is_counted(self, bright_field):
        made, truth = bright_field
        stars = truth.stars
        bright = np.argsort(-stars.flux)[:60]
        few = Stars(stars.x[bright], stars.y[bright], stars.flux[bright], stars.err[bright])
        ideal = saturated.measure(made, few)
        shifted = dataclasses.replace(few, x=few.x + 0.2 * truth.fwhm)
        assert saturated.measure(made, shifted).n_good == 0
        assert saturated.measure(made, dataclasses.replace(few, flux=few.flux * 1.2)).n_good == 0
        twice = Stars(*(np.append(a, a) for a in (few.x, few.y, few.flux, few.err)))
        assert saturated.measure(made, twice).n_once == 0
        # a false entry three FWHM from the brightest of them
        core = bright[
            made.exposure.saturated[np.rint(few.y).astype(int) % 300, np.rint(few.x).astype(int) % 300]
        ]
        x, y = stars.x[core[0]] + 3 * truth.fwhm, stars.y[core[0]]
        more = Stars(*(np.append(a, b) for a, b in zip(
            (few.x, few.y, few.flux, few.err), (x, y, 3e3, 1.0), strict=True)))  # fmt: skip
        assert saturated.measure(made, more).false_near == ideal.false_near + 1
        assert 0 < ideal.area_near < 1

    def test_rates_of_several_fields(self):
        """Two fields with 9 false entries elsewhere on nine tenths of the area: one expected near each."""
        one = saturated.Saturated(
            n=10, n_once=10, n_good=9, n_alone=8, n_alone_good=8, flux_median=0.001, flux_95=0.1, place_median=0.001,
            place_95=0.1, false_near=3, false_far=9, area_near=0.1, largest_blob=13.0,
        )  # fmt: skip
        assert one.expected_near == pytest.approx(1)
        text = saturated.line("sparse all", [one, one])
        assert "stars   20, once 1.000, good 0.900 (alone on the blob, 16: 1.000)" in text
        assert text.endswith("false near 6, expected 2.0: 3.00")


class TestKernels:
    def test_kernels_of_a_fit_are_recorded(self, monkeypatch):
        made = simulate(TINY)
        recorders, wall = kernels.record_fit(made, 1)
        names = {r.name for r in recorders}
        assert {"normal.fill_blocks", "stamps.fill_stamps", "render.add_stars"} <= names
        assert sum(r.seconds for r in recorders) < wall
        chosen = [r for r in recorders if r.name in ("stamps.fill_stamps", "filters.correlate")]
        text = kernels.report(chosen, wall, {1: Machine(1e12, 1e9)}, made.data.size)
        lines = text.splitlines()
        assert lines[0] == "x1: 1000.0 GB/s, 1.0 Gflop/s"
        assert "all kernels" in lines[-1]
        for line, r in zip(lines[2:4], sorted(chosen, key=lambda r: -r.seconds), strict=True):
            cells = line.split()
            assert cells[0] == r.name
            assert float(cells[6]) == pytest.approx(r.count() / 1e6, abs=0.005)
            assert float(cells[5]) == pytest.approx(r.size / 1e6, abs=0.005)
            assert cells[-1] == "arithmetic"
        assert not any(
            isinstance(value, kernels.Recorder)
            for name, module in sys.modules.items()
            if name.startswith("crowdfit")
            for value in vars(module).values()
        )

    def test_operations_are_counted(self):
        """By hand: a dot product of n numbers has 2 n, the nine of a block 18 n + 9, a correlation 2 per tap."""
        rows = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)
        acc = np.zeros(9)
        assert count_operations(normal.dot_rows, (rows[0], rows[1])) == 80
        assert count_operations(normal.overlap_block, (*rows, *rows, acc)) == 18 * 40 + 9
        np.testing.assert_allclose(acc, (rows.astype(float) @ rows.T.astype(float)).ravel(), rtol=1e-6)
        image, psf = np.ones((30, 30), np.float32), np.ones((5, 5), np.float32)
        inner = 2 * 25 * 26 * 26
        assert inner < count_operations(filters.correlate, (image, psf, np.zeros_like(image))) <= 2 * 25 * 900

    def test_counting_copy_does_the_same(self):
        """Loops, branches, kernels in other modules and array expressions: the counted call fills the same numbers."""
        rng = np.random.default_rng(2)
        own = rng.normal(size=(20, 9)) + 5 * np.eye(3).ravel()
        own = own[:, [0, 1, 2, 1, 4, 5, 2, 5, 8]]
        one, two = np.zeros((20, 9)), np.zeros((20, 9))
        normal.invert_blocks(own, one)
        assert count_operations(normal.invert_blocks, (own, two)) > 20 * 20
        np.testing.assert_allclose(two, one, rtol=1e-12)

    def test_least_time(self):
        machine = Machine(bytes_per_s=10.0, ops_per_s=100.0)
        assert machine.least_seconds(50, 100) == 5
        assert machine.binds(50, 100) == "memory"
        assert machine.least_seconds(5, 100) == 1
        assert machine.binds(5, 100) == "arithmetic"

    def test_machine_is_measured(self):
        """More than any loop of single numbers, less than any machine there is, and the threads are given back."""
        before = numba.get_num_threads()
        machine = measure_machine(1, tries=2)
        assert 1e8 < machine.bytes_per_s < 1e13
        assert 1e9 < machine.ops_per_s < 1e13
        assert numba.get_num_threads() == before

    def test_copies_are_deep(self):
        array = np.ones(3)
        (inner, number), again = kernels.copies(((array, 2), array))
        assert number == 2
        assert inner is not array
        assert again is not array
        assert kernels.count_bytes(((array, 2), array)) == 48


class TestStartup:
    def test_phases_of_a_fresh_process(self, field):
        """Every phase takes CPU time, and all but the first pass make the total."""
        seconds = startup.run_once(field, "detect.nsigma=20")
        for clock in ("cpu", "wall"):
            phases = dict(seconds[clock])
            assert list(phases) == [*startup.MARKS, "total"]
            total, first_pass = phases.pop("total"), phases.pop("pass")
            assert total == pytest.approx(sum(phases.values()))
            assert min(first_pass, *phases.values()) >= 0
        assert seconds["cpu"]["imports"] > 0.1

    def test_command_that_ends_before_its_first_pass(self, tmp_path):
        broken = tmp_path / "broken.fits"
        broken.write_bytes(b"not a FITS file")
        with pytest.raises(RuntimeError, match=r"no first pass \(status 2\): .*not a FITS file"):
            startup.run_once(broken)

    def test_kernels_are_counted_in_a_fresh_process(self, field):
        """A pass renders, solves and refits the PSF: more than a dozen kernels, whether compiled before or not."""
        command = [sys.executable, "-m", "benchmarks.startup", str(field), "--kernels"]
        done = subprocess.run(command, cwd=run.ROOT, capture_output=True, text=True, check=True)
        loads = json.loads(done.stdout)
        assert len(loads["during"]) > 12
        assert all(seconds > 0 for seconds in loads["before"] + loads["during"])

    def test_table(self):
        def seconds(x):
            return {
                "cpu": dict.fromkeys([*startup.MARKS, "total"], x),
                "wall": {**dict.fromkeys(startup.MARKS, 2 * x), "total": 9.0},
            }

        lines = startup.table(
            [seconds(3.0), seconds(1.0), seconds(2.0)], {"before": [0.5], "during": [0.25, 0.5]}
        ).splitlines()
        assert lines[1].split() == ["imports", "1.00", "2.00", "2.00", "4.00"]
        assert lines[5].split()[-4:] == ["1.00", "2.00", "9.00", "9.00"]
        assert lines[6].startswith("the first pass")
        assert lines[-1].endswith("0.50 (1 kernels) before the first pass, 0.75 (2) in it")
