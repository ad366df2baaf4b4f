"""Studies of settings: what may be varied, which trial wins, and that a study goes on after it was killed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import study as studies
from benchmarks import tune
from benchmarks.run import Setup
from benchmarks.scenes import Job
from benchmarks.space import Choices, Range, Varied, read_space, settings_of
from benchmarks.study import Task, Trial, front, winner
from crowdfit.config import Config, load_config, override
from crowdfit.errors import ConfigError, InputError
from crowdfit.simulate import SCENES, simulate

ROOT = Path(tune.__file__).parents[1]
DEFAULT = load_config()


def one(text, config=DEFAULT):
    (varied,) = read_space([text], config)
    return varied


class TestSpace:
    """Ranges come from the command line, or from the configuration where it bounds them; types are respected."""

    def test_range(self):
        varied = one("prune.nsigma=2.5:5")
        assert varied.domain == Range(2.5, 5.0)
        assert varied.settings(DEFAULT, 3.14159265) == {"prune.nsigma": 3.142}

    def test_whole_numbers(self):
        varied = one("stop.max_passes=4:20")
        assert varied.domain == Range(4, 20, whole=True)
        value = varied.settings(DEFAULT, 7)["stop.max_passes"]
        assert (value, type(value)) == (7, int)
        with pytest.raises(ConfigError, match="whole"):
            one("stop.max_passes=4:8.5")

    def test_logarithmic(self):
        assert one("solve.tolerance=1e-4:0.1:log").domain == Range(1e-4, 0.1, log=True)
        with pytest.raises(ConfigError, match="above 0 for log"):
            one("solve.tolerance=0:0.1:log")

    def test_from_the_configuration(self):
        """Both bounds there: `detect.neighbours` from 1 to 40; an open bound is not included."""
        assert one("detect.neighbours").domain == Range(1, 40, whole=True)
        domain = one("detect.candidate").domain
        assert (0 < domain.low < 0.01, domain.high) == (True, 1)
        for end in (domain.low, domain.high):
            override(DEFAULT, {"detect.candidate": end})
        assert one("detect.local_sky").domain == Choices(("false", "true"))
        assert one("detect.rule", load_config(None, ["detect.kind=crowdsource"])).domain == Choices(
            ("code", "readme")
        )
        assert one("solve.kind").domain == Choices(("pcg", "lsqr"))

    def test_unbounded_needs_a_range(self):
        with pytest.raises(
            ConfigError, match=r"prune\.nsigma: the configuration does not bound it; write .*=LOW:HIGH"
        ):
            one("prune.nsigma")

    def test_choices_keep_their_types(self):
        varied = one("detect.nsigma=[10, 4],[8, 8, 3.5],5")
        values = [varied.settings(DEFAULT, text)["detect.nsigma"] for text in varied.domain.texts]
        assert values == [[10, 4], [8, 8, 3.5], 5]
        varied = one("sky.mesh_px=null,40")
        assert [varied.settings(DEFAULT, text)["sky.mesh_px"] for text in varied.domain.texts] == [None, 40]
        assert all(isinstance(override(DEFAULT, varied.settings(DEFAULT, t)), Config) for t in ("null", "40"))

    def test_entry_of_a_list(self):
        varied = one("detect.nsigma[-1]=3:6")
        *first, last = DEFAULT.detect.nsigma
        assert varied.settings(DEFAULT, 3.5) == {"detect.nsigma": [*first, 3.5]}
        assert varied.settings(DEFAULT, 3.5)["detect.nsigma"][-1] != last

    def test_two_entries_of_one_list(self):
        space = read_space(["detect.nsigma[0]=8:20", "detect.nsigma[-1]=3:6"], DEFAULT)
        settings = settings_of(space, DEFAULT, {"detect.nsigma[0]": 15.0, "detect.nsigma[-1]": 3.5})
        assert settings == {"detect.nsigma": [15.0, *DEFAULT.detect.nsigma[1:-1], 3.5]}

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            (["nsigma=2:5"], "write stage.field"),
            (["pruning.nsigma=2:5"], "no such stage; did you mean prune"),
            (["prune.nsgma=2:5"], "no such field; did you mean nsigma"),
            (["detect.nsigma[7]=2:5"], "no such entry"),
            (["prune.nsigma[0]=2:5"], "no such entry"),
            (["prune.nsigma=5:2"], "low must be below high"),
            (["prune.nsigma=a:b"], "no range of numbers"),
            (["prune.nsigma=3"], "one value is no choice"),
            (["prune.nsigma=-1:5"], "prune.nsigma"),
            (["detect.neighbours=1:99"], "40"),
            (["solve.kind=pcg,abacus"], "abacus"),
            (["prune.nsigma=2:5", "prune.nsigma=3:4"], "said twice"),
            (["solve.kind", "solve.tolerance=1e-4:0.1"], "one study for each kind"),
        ],
    )
    def test_refused(self, texts, message):
        with pytest.raises(ConfigError, match=message):
            read_space(texts, DEFAULT)

    def test_kinds_of_the_start_count(self):
        """Which fields there are depends on the configuration that the study starts from."""
        with pytest.raises(ConfigError, match=r"detect\.blend"):
            one("detect.blend=[1],[2]")
        assert one("detect.blend=[1],[2]", load_config(None, ["detect.kind=crowdsource"]))


def trial(number, f1, scatter, seconds):
    return Trial(number, {"prune.nsigma": float(number)}, {"f1": f1, "scatter": scatter, "seconds": seconds})


START = trial(-1, 0.880, 0.050, 10.0)


class TestWinner:
    def test_front(self):
        trials = [
            trial(0, 0.90, 0.05, 20),
            trial(1, 0.89, 0.05, 21),  # beaten by 0
            trial(2, 0.80, 0.04, 20),
            trial(3, 0.70, 0.06, 5),
            trial(4, 0.90, 0.05, 20),  # as good as 0: both stay
        ]
        assert [t.number for t in front(trials)] == [0, 4, 2, 3]

    def test_best_first_objective(self):
        assert winner([trial(0, 0.90, 0.06, 12), trial(1, 0.89, 0.01, 1)], START, 1.5).number == 0

    def test_ties_are_broken_by_the_next(self):
        """F1 within 0.002 is equal, then scatter within 2 %, then seconds within 5 %."""
        trials = [
            trial(0, 0.9000, 0.0500, 10),
            trial(1, 0.8990, 0.0400, 10),
            trial(2, 0.8985, 0.0405, 9),
        ]
        assert winner(trials, START, 1.5).number == 2
        trials[2] = trial(2, 0.8985, 0.0405, 9.8)
        assert winner(trials, START, 1.5).number == 1

    def test_slow_trials_are_out(self):
        assert winner([trial(0, 0.95, 0.04, 15.1), trial(1, 0.89, 0.05, 14.9)], START, 1.5).number == 1
        assert winner([trial(0, 0.95, 0.04, 15.1)], START, 2.0).number == 0

    def test_start_wins_when_nothing_is_better(self):
        assert winner([trial(0, 0.8, 0.05, 9)], START, 1.5) is START
        assert winner([], START, 1.5) is START

    def test_every_objective_has_a_direction(self):
        """Beating means more F1, and less of everything else."""
        for name, objective in studies.OBJECTIVES.items():
            better, worse = Trial(0, {}, {name: 2.0}), Trial(1, {}, {name: 1.0})
            assert better.beats(worse) == objective.highest
            assert worse.beats(better) != objective.highest
            assert objective.highest == name.startswith("f1")


def record(f1, cpu=10.0, field="dense"):
    bins = [{"snr": "50-200", "scatter": 0.05, "bias_mmag": -3.0}]
    return {"field": field, "status": 0, "cpu_s": cpu, "score": {"f1_snr10": f1, "bins": bins}}


class TestTask:
    def task(self, fields, objectives=("f1", "scatter", "seconds")):
        jobs = tuple(Job(name, seed, Path(f"{name}_{seed}.fits")) for name, seed in fields)
        return Task(jobs, Setup(), read_space(["prune.nsigma=3:5"], DEFAULT), objectives)

    def test_mean_of_fields_of_median_of_seeds(self, monkeypatch):
        f1 = {"dense_1": 0.7, "dense_2": 0.8, "dense_3": 0.95, "sparse_1": 1.0}
        monkeypatch.setattr(studies, "run_field", lambda path, setup: record(f1[path.stem]))
        task = self.task([("dense", 1), ("dense", 2), ("dense", 3), ("sparse", 1)])
        values = task.evaluate({})
        assert values == {"f1": pytest.approx(0.9), "scatter": 0.05, "seconds": 10.0}

    def test_settings_reach_the_fit(self, monkeypatch):
        seen = []
        monkeypatch.setattr(
            studies, "run_field", lambda path, setup: seen.append(setup.settings) or record(0.9)
        )
        self.task([("dense", 1)]).evaluate({"prune.nsigma": 3.5, "detect.nsigma": [10.0, 4.0]})
        assert seen == [("prune.nsigma=3.5", "detect.nsigma=[10.0, 4.0]", "output.report=false")]
        load_config(None, seen[0])

    def test_failed_fit_and_missing_figure(self, monkeypatch):
        monkeypatch.setattr(studies, "run_field", lambda path, setup: {"status": 1, "message": "no stars"})
        with pytest.raises(InputError, match="dense: no stars"):
            self.task([("dense", 1)]).evaluate({})
        monkeypatch.setattr(studies, "run_field", lambda path, setup: record(0.9))
        with pytest.raises(InputError, match="flux scatter above S/N 200"):
            self.task([("dense", 1)], ("f1", "scatter_bright")).evaluate({})

    def test_bias_is_its_size(self, monkeypatch):
        monkeypatch.setattr(studies, "run_field", lambda path, setup: record(0.9))
        assert self.task([("dense", 1)], ("bias",)).evaluate({}) == {"bias": 3.0}


def test_without_optuna_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    field = simulate(dataclasses.replace(SCENES["demo"], ny=32, nx=32, n_stars=5, dead_columns=0))
    path = field.write(tmp_path / "field.fits")
    argv = [str(path), "--vary", "prune.nsigma=3:5", "--study", str(tmp_path / "s.db")]
    assert tune.main([*argv, "--work", str(tmp_path)]) == 2
    assert "pip install 'crowdfit[bench]'" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Quick(Task):
    """A task whose fits take no time: F1 is best at nsigma 4.2, and higher nsigma is faster."""

    def evaluate(self, settings):
        nsigma = settings.get("prune.nsigma", 4.0)
        if 2.4 < nsigma < 2.45:
            raise InputError("no stars")
        return {"f1": 0.9 - 0.01 * (nsigma - 4.2) ** 2, "scatter": 0.05, "seconds": 12 - nsigma}


@pytest.fixture
def quick():
    return Quick(
        (Job("dense", 1, Path("dense.fits")),),
        Setup(),
        read_space(["prune.nsigma=2:6"], DEFAULT),
        studies.DEFAULTS,
    )


@pytest.fixture
def open_study(tmp_path, quick):
    """Return what opens the study of this test, always the same file."""
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'crowdfit[bench]'")
    opened = []

    def make(task=quick):
        opened.append(studies.Study(tmp_path / "study.db", task))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


class TestStudy:
    def test_finds_the_best(self, open_study):
        """Of 40 trials of a parabola the best is near its top, and all are inside the range."""
        study = open_study()
        lines = []
        study.run(40, say=lines.append)
        done = study.trials()
        assert len(done) == 40 - sum("no stars" in line for line in lines)
        assert all(2 <= t.settings["prune.nsigma"] <= 6 for t in done)
        best = winner(done, study.start, 1.5)
        assert best.settings["prune.nsigma"] == pytest.approx(4.2, abs=0.5)
        assert best.values["f1"] >= study.start.values["f1"] - 0.002

    def test_goes_on(self, open_study):
        """A second session knows the trials of the first, adds what is missing, and repeats none."""
        study = open_study()
        study.run(5)
        first = study.trials()
        study.close()
        again = open_study()
        assert again.trials() == first
        again.run(8)
        later = again.trials()
        assert later[: len(first)] == first
        assert len(later) > len(first)
        assert len({t.settings["prune.nsigma"] for t in later}) == len(later)
        again.run(8)
        assert again.trials() == later

    def test_failed_trials_count_but_are_not_shown(self, open_study, quick, monkeypatch):
        def fail(task, settings):
            raise InputError("dense: no stars")

        monkeypatch.setattr(Quick, "evaluate", fail)
        lines = []
        study = open_study()
        study.run(3, say=lines.append)
        assert study.trials() == []
        assert len(lines) == 3
        assert all("no stars" in line for line in lines)
        study.run(3, say=lines.append)
        assert len(lines) == 3

    def test_deadline(self, open_study):
        study = open_study()
        study.run(5, deadline=0.0)
        assert study.trials() == []

    @pytest.mark.parametrize(
        "change",
        [
            {"space": read_space(["prune.nsigma=2:5"], DEFAULT)},
            {"objectives": ("f1", "seconds")},
            {"setup": Setup(1)},
            {"jobs": (Job("dense", 2, Path("dense.fits")),)},
        ],
    )
    def test_another_question_needs_another_study(self, open_study, quick, change):
        open_study()
        with pytest.raises(ConfigError, match="made with other .* give another --study"):
            open_study(dataclasses.replace(quick, **change))

    def test_killed_while_a_trial_runs(self, tmp_path, open_study):
        """SIGKILL in the middle of the third trial: two trials are kept, and the third is made again."""
        code = f"""
import os, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
from test_benchmarks_tune import DEFAULT, Job, Quick, Setup, read_space, studies
class Killed(Quick):
    def evaluate(self, settings):
        if len(study.trials()) == 2:
            print(settings["prune.nsigma"], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(settings)
task = Killed(
    (Job("dense", 1, Path("dense.fits")),), Setup(), read_space(["prune.nsigma=2:6"], DEFAULT), studies.DEFAULTS
)
study = studies.Study(Path({str(tmp_path / "study.db")!r}), task)
study.run(10, say=lambda line: None)
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        study = open_study()
        assert len(study.trials()) == 2
        study.run(4)
        settings = [t.settings["prune.nsigma"] for t in study.trials()]
        assert len(settings) == 4
        assert settings[2] == float(done.stdout)


class TestCommand:
    @pytest.mark.slow
    def test_real_field(self, tmp_path, capsys):
        """From a file with truth to a configuration that loads and is the winner's."""
        pytest.importorskip("optuna", reason="optuna is not installed: pip install 'crowdfit[bench]'")
        scene = dataclasses.replace(SCENES["demo"], ny=128, nx=128, n_stars=400, dead_columns=0)
        field = simulate(scene).write(tmp_path / "field.fits")
        out = tmp_path / "tuned.yaml"
        common = [str(field), "--study", str(tmp_path / "s.db"), "--out", str(out), "--work", str(tmp_path)]
        wanted = [
            "--vary", "prune.nsigma=3:6", "--set", "stop.max_passes=1", "--set", "output.run_record=false",
            "--objectives", "f1", "seconds", "--max-slowdown", "100",
        ]  # fmt: skip
        assert tune.main([*common, *wanted, "--trials", "2"]) == 0
        text = capsys.readouterr().out
        assert "start: f1 0." in text
        assert text.count("*") >= 2
        config = load_config(out)
        assert config.stop.max_passes == 1
        assert "# Found by benchmarks.tune" in out.read_text()
        written = out.read_text()
        assert tune.main([*common, *wanted, "--trials", "0"]) == 0
        assert out.read_text() == written

    def test_winner_is_written_on_its_base(self, tmp_path):
        task = Task(
            (Job("mine", 0, Path("mine.fits")),),
            Setup(config="nircam_sw", settings=("stop.max_passes=9",)),
            (Varied("prune.nsigma", Range(3, 5)),),
            ("f1",),
        )
        start = Trial(-1, {}, {"f1": 0.8})
        best = Trial(3, {"prune.nsigma": 3.5, "detect.nsigma": [9.0, 4.0]}, {"f1": 0.9})
        tune.write_config(tmp_path / "a.yaml", task, best, start)
        base, made = load_config("nircam_sw"), load_config(tmp_path / "a.yaml")
        changes = {"stop.max_passes": 9, "prune.nsigma": 3.5, "detect.nsigma": [9, 4]}
        assert made == override(base, changes)
        assert "f1 0.9 (start 0.8)" in (tmp_path / "a.yaml").read_text()

    def test_winner_on_a_file_of_ones_own(self, tmp_path):
        mine = tmp_path / "mine.yaml"
        mine.write_text("stop: {max_passes: 7}\n")
        task = Task((), Setup(config=str(mine)), (), ("f1",))
        best = Trial(-1, {}, {"f1": 0.8})
        (tmp_path / "other").mkdir()
        tune.write_config(tmp_path / "other" / "a.yaml", task, best, best)
        assert load_config(tmp_path / "other" / "a.yaml").stop.max_passes == 7

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["no_such_scene", "--vary", "prune.nsigma=3:5"], "no_such_scene"),
            (["smoke", "--vary", "prune.nsgma=3:5"], "nsigma"),
            (["smoke", "--vary", "prune.nsigma=3:5", "-c", "nowhere"], "nowhere"),
            (["{tmp}/none.fits", "--vary", "prune.nsigma=3:5"], "no file with truth"),
        ],
    )
    def test_wrong_request(self, argv, message, tmp_path, capsys):
        argv = [word.format(tmp=tmp_path) for word in argv]
        assert tune.main([*argv, "--work", str(tmp_path), "--study", str(tmp_path / "s.db")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "s.db").exists()

    def test_table(self):
        start, best = trial(-1, 0.88, 0.05, 10.0), trial(4, 0.9, 0.04, 11.0)
        lines = tune.front_table([best, trial(2, 0.7, 0.03, 3.0), start], start, best).splitlines()
        assert [line.split()[0] for line in lines] == ["trial", "start", "4*", "2"]
        assert lines[2].split()[1:4] == ["0.9000", "0.0400", "11.0000"]
        assert "prune.nsigma 4" in lines[2]


def test_request_is_plain_json(quick):
    """It is stored in the study, and compared with what comes back."""
    assert json.loads(json.dumps(quick.request())) == quick.request()
