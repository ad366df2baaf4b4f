"""A study of settings: what is varied and optimised, the trials so far, and which of them are the best."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.groups import Record, fact, scored
from benchmarks.run import Setup, median, run_field
from benchmarks.scenes import Job
from benchmarks.space import Range, Suggested, Varied, settings_of
from crowdfit.config import Config, config_hash, load_config
from crowdfit.config_yaml import write_value
from crowdfit.errors import ConfigError, CrowdfitError, InputError

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Objective:
    """A figure to be optimised, and how far from the best it may be and still count as equal."""

    value: Callable[[Record], float]
    highest: bool
    tolerance: float
    relative: bool
    text: str

    def slack(self, best: float) -> float:
        """Return the tolerance in the unit of the figure."""
        return self.tolerance * abs(best) if self.relative else self.tolerance


OBJECTIVES = {
    "f1": Objective(scored("f1_snr10"), True, 0.002, False, "F1 above S/N 10"),
    "f1_snr5": Objective(scored("f1_snr5"), True, 0.002, False, "F1 above S/N 5"),
    "false": Objective(scored("false_frac_snr10"), False, 0.002, False, "false fraction above S/N 10"),
    "scatter": Objective(scored("scatter", "50-200"), False, 0.02, True, "flux scatter at S/N 50-200"),
    "scatter_bright": Objective(
        scored("scatter", "200-inf"), False, 0.02, True, "flux scatter above S/N 200"
    ),
    "bias": Objective(
        lambda record: abs(scored("bias_mmag", "50-200")(record)), False, 1.0, False,
        "size of the flux bias at S/N 50-200 (mmag)",
    ),
    "seconds": Objective(fact("cpu_s"), False, 0.05, True, "CPU seconds: other work disturbs them least"),
    "wall": Objective(fact("wall_s"), False, 0.05, True, "wall seconds; only on an idle machine"),
    "memory": Objective(fact("peak_mb"), False, 0.02, True, "peak memory (MB)"),
}  # fmt: skip
DEFAULTS = ("f1", "scatter", "seconds")


@dataclass(frozen=True)
class Task:
    """What a study is about: fields, settings to vary, where it starts, and what is optimised."""

    jobs: tuple[Job, ...]
    setup: Setup
    space: tuple[Varied, ...]
    objectives: tuple[str, ...]

    @property
    def config(self) -> Config:
        """The configuration that the study starts from."""
        return load_config(self.setup.config, self.setup.settings)

    def request(self) -> dict[str, Any]:
        """Return what must be the same for a study to go on."""
        return {
            "fields": sorted(f"{job.path.name} {job.seed}" for job in self.jobs),
            "vary": {varied.key: str(varied.domain) for varied in self.space},
            "config_hash": config_hash(self.config),
            "objectives": list(self.objectives),
            "threads": self.setup.threads,
        }

    def evaluate(self, settings: Settings) -> dict[str, float]:
        """Fit all fields with some settings; return the objectives.

        Raises
        ------
        InputError
            A fit failed, or has no such figure.
        """
        texts = tuple(f"{key}={write_value(value)}" for key, value in settings.items())
        setup = Setup(
            self.setup.threads, self.setup.config,
            (*self.setup.settings, *texts, "output.report=false"), self.setup.folder,
        )  # fmt: skip
        records = [run_field(job.path, setup) | {"field": job.field} for job in self.jobs]
        for record in records:
            if record["status"] != 0:
                raise InputError(f"{record['field']}: {record['message']}")
        return {name: self._objective(name, records) for name in self.objectives}

    def _objective(self, name: str, records: Sequence[Record]) -> float:
        """Return the mean over the fields of the median over the seeds."""
        fields = dict.fromkeys(record["field"] for record in records)
        value = OBJECTIVES[name].value
        medians = [median(value(r) for r in records if r["field"] == field) for field in fields]
        for field, found in zip(fields, medians, strict=True):
            if isnan(found):
                raise InputError(f"{field}: it has no {OBJECTIVES[name].text}; choose other --objectives")
        return float(mean(medians))


@dataclass(frozen=True)
class Trial:
    """Settings that were tried and the objectives they reach; number -1 is the start."""

    number: int
    settings: dict[str, object]
    values: dict[str, float]

    def beats(self, other: "Trial") -> bool:
        """Return whether it is at least as good in every objective, and better in one."""
        better = [
            (self.values[name] - other.values[name]) * (1 if OBJECTIVES[name].highest else -1)
            for name in self.values
        ]
        return min(better) >= 0 and max(better) > 0


def front(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials that no other beats, the best in the first objective first."""
    trials = list(trials)
    kept = [trial for trial in trials if not any(other.beats(trial) for other in trials)]
    return sorted(kept, key=lambda trial: -_goodness(trial, next(iter(trial.values))))


def _goodness(trial: Trial, name: str) -> float:
    """Return the objective with its sign turned so that more is better."""
    return trial.values[name] if OBJECTIVES[name].highest else -trial.values[name]


def winner(trials: Sequence[Trial], start: Trial, max_slowdown: float) -> Trial:
    """Return the trial that the rule of `benchmarks.tune` chooses; the start is one of those to choose from."""
    left = [start, *trials]
    for name in ("seconds", "wall"):
        if name in start.values:
            left = [trial for trial in left if trial.values[name] <= max_slowdown * start.values[name]]
    for name in start.values:
        best = max(_goodness(trial, name) for trial in left)
        left = [trial for trial in left if _goodness(trial, name) >= best - OBJECTIVES[name].slack(best)]
    return max(left, key=lambda trial: _goodness(trial, next(iter(start.values))))


class Study:
    """A study in a file: Optuna's, and the start that everything is compared with.

    Parameters
    ----------
    path : Path
        SQLite file; made if missing.
    task : Task
        What it is about.
    seed : int
        Of the sampler.

    Raises
    ------
    ConfigError
        Optuna is missing, or the file holds a study about something else.
    """

    def __init__(self, path: Path, task: Task, seed: int = 0) -> None:
        self.task = task
        self._optuna = _import_optuna()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._storage = self._optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")
        directions = ["maximize" if OBJECTIVES[name].highest else "minimize" for name in task.objectives]
        try:
            self._study = self._optuna.create_study(
                storage=self._storage, study_name="crowdfit", directions=directions, load_if_exists=True
            )
            self._claim(path)
        except BaseException:
            self.close()
            raise
        # the same seed in every session would draw the same first trials again
        sampler = self._optuna.samplers.TPESampler(seed=seed + len(self._study.trials))
        self._study.sampler = sampler

    def _claim(self, path: Path) -> None:
        """Note what the study is about, or check that it is about the same."""
        request = self.task.request()
        known = self._study.user_attrs.get("request")
        if known is None:
            self._study.set_user_attr("request", request)
        elif known != request:
            other = [key for key in request if known.get(key) != request[key]]
            raise ConfigError(
                f"{path}: this study was made with other {', '.join(other)} "
                f"({'; '.join(json.dumps(known.get(key)) for key in other)}); give another --study"
            )

    def close(self) -> None:
        """Let go of the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    @property
    def start(self) -> Trial:
        """The start, fitted when it has not been."""
        values = self._study.user_attrs.get("start")
        if values is None:
            values = self.task.evaluate({})
            self._study.set_user_attr("start", values)
        return Trial(-1, {}, values)

    def trials(self) -> list[Trial]:
        """Return the finished trials in order."""
        complete = self._optuna.trial.TrialState.COMPLETE
        done = self._study.get_trials(deepcopy=False, states=(complete,))
        names = self.task.objectives
        return [
            Trial(trial.number, trial.user_attrs["settings"], dict(zip(names, trial.values, strict=True)))
            for trial in done
        ]

    def revive(self) -> None:
        """Try again what was running when an earlier process was stopped."""
        states = self._optuna.trial.TrialState
        for trial in self._study.get_trials(states=(states.RUNNING,)):
            self._study.tell(trial.number, state=states.FAIL)
            if len(trial.params) == len(self.task.space):
                self._study.enqueue_trial(trial.params)

    def run(
        self, n_trials: int, deadline: float = float("inf"), say: Callable[[str], object] = print
    ) -> None:
        """Make trials until the study has `n_trials` finished or failed ones, or the clock passes `deadline`.

        Parameters
        ----------
        n_trials : int
            Those of earlier sessions count.
        deadline : float
            Of `time.monotonic` (s).
        say : callable
            Gets one line for each trial.
        """
        states = self._optuna.trial.TrialState
        self.revive()
        begun = self._study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))
        for _ in range(n_trials - len(begun)):
            if time.monotonic() > deadline:
                break
            trial = self._study.ask()
            suggested = {varied.key: _suggest(trial, varied) for varied in self.task.space}
            settings = settings_of(self.task.space, self.task.config, suggested)
            trial.set_user_attr("settings", settings)
            try:
                values = self.task.evaluate(settings)
            except CrowdfitError as error:
                # as pruned and not failed: the study must count it, and learn that this is no good place
                self._study.tell(trial, state=states.PRUNED)
                say(f"trial {trial.number}: {shown(settings)}: {error}")
                continue
            self._study.tell(trial, list(values.values()))
            say(f"trial {trial.number}: {shown(values)}  with {shown(settings)}")


def _import_optuna() -> Any:
    """Return the package, quiet.

    Raises
    ------
    ConfigError
        It is not installed.
    """
    try:
        import optuna  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError("benchmarks.tune needs optuna: python -m pip install 'crowdfit[bench]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _suggest(trial: Any, varied: Varied) -> Suggested:
    """Return what the sampler suggests for a setting."""
    domain = varied.domain
    if not isinstance(domain, Range):
        return str(trial.suggest_categorical(varied.key, domain.texts))
    if domain.whole:
        return int(trial.suggest_int(varied.key, int(domain.low), int(domain.high), log=domain.log))
    return float(trial.suggest_float(varied.key, domain.low, domain.high, log=domain.log))


def shown(values: Mapping[str, object]) -> str:
    """Return names and values on one line."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {write_value(value)}"
        for key, value in values.items()
    )
