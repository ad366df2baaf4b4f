"""Find the settings that suit a field: a study with Optuna over settings that you choose.

    crowdfit simulate copy.fits --like my_image.fits
    python -m benchmarks.tune copy.fits --vary prune.nsigma=2.5:5 detect.nsigma[-1]=3:6 --out my_field.yaml
    crowdfit fit my_image.fits -c my_field.yaml -o results

Every trial fits all fields with other settings and scores the catalogues; a figure is the median over the seeds
of a field, averaged over the fields. The study lies in a file and goes on where it stopped: run the same command
again, with more --trials if you like. One process at a time, since seconds are among the figures.

Printed is the Pareto front, the trials that no other beats in every objective. The winner, which is written as a
configuration, is found in this order: trials slower than --max-slowdown times the start are left out; those within
the tolerance of the best in the first objective stay, of those the ones within the tolerance of the best in
the second, and so on; of what is left the best in the first objective. The tolerances are what seeds differ by.
Needs the package optuna: python -m pip install 'crowdfit[bench]'.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.run import Setup, provenance, run_field
from benchmarks.scenes import DEFAULT_FOLDER, has_truth, jobs, scene_file
from benchmarks.space import read_space
from benchmarks.study import DEFAULTS, OBJECTIVES, Study, Task, Trial, front, shown, winner
from crowdfit.config import load_config
from crowdfit.config_yaml import merge_all, parse_override, strip_origins, write_value
from crowdfit.errors import CrowdfitError, InputError


def front_table(rows: Sequence[Trial], start: Trial, best: Trial) -> str:
    """Return the front as text, the start first, the winner with a star."""
    lines = [f"{'trial':>7s}" + "".join(f"{name:>15s}" for name in start.values) + "  settings"]
    for trial in [start, *(trial for trial in rows if trial.number >= 0)]:
        name = ("start" if trial.number < 0 else str(trial.number)) + ("*" if trial == best else " ")
        cells = "".join(f"{value:15.4f}" for value in trial.values.values())
        lines.append(f"{name:>7s}{cells}  {shown(trial.settings)}".rstrip())
    return "\n".join(lines)


def write_config(path: Path, task: Task, best: Trial, start: Trial) -> None:
    """Write the winner as a configuration: what it starts from, what was set, and what was found.

    Parameters
    ----------
    path : Path
        YAML file; replaced when it is there.
    task, best, start
        The study, its winner and what it is compared with.
    """
    facts = provenance()
    figures = ", ".join(
        f"{name} {value:.4g} (start {start.values[name]:.4g})" for name, value in best.values.items()
    )
    fields = ", ".join(f"{job.field} {job.seed}" for job in task.jobs)
    lines = [
        f"# Found by benchmarks.tune, {facts['time'][:10]}, commit {facts['commit']}, on {fields}",
        f"# {figures}",
    ]
    if task.setup.config:
        source = Path(task.setup.config)
        lines.append(f"base: {write_value(str(source.resolve()) if source.is_file() else task.setup.config)}")
    overrides = [*task.setup.settings, *(f"{key}={write_value(v)}" for key, v in best.settings.items())]
    for stage, values in strip_origins(merge_all(map(parse_override, overrides))).items():
        lines.append(f"{stage}:")
        lines += [f"  {name}: {write_value(value)}" for name, value in values.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _task(args: argparse.Namespace) -> Task:
    """Return what the command line asks for, checked."""
    setup = Setup(args.threads, args.config, tuple(args.settings), args.work.resolve())
    setup.folder.mkdir(parents=True, exist_ok=True)
    config = load_config(setup.config, setup.settings)
    space = read_space(args.vary, config)
    wanted = tuple(jobs(args.fields, args.seeds, setup.folder))
    for job in wanted:
        if not job.path.exists() or not has_truth(job.path):
            raise InputError(f"{job.path}: no file with truth; make one with crowdfit simulate --like IMAGE")
    return Task(wanted, setup, space, tuple(args.objectives))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    described = "; ".join(f"{name}: {objective.text}" for name, objective in OBJECTIVES.items())
    parser = argparse.ArgumentParser(
        prog="benchmarks.tune", description="Find settings that suit a field.", epilog=f"Objectives: {described}."
    )  # fmt: skip
    parser.add_argument("fields", nargs="+", metavar="FIELD", help="scene, group, or FITS file with truth")
    parser.add_argument(
        "--vary", nargs="+", required=True, metavar="SETTING", help="stage.field=low:high[:log] or =a,b,c"
    )
    parser.add_argument("--trials", type=int, default=30, help="of the study in all (0: only show it)")
    parser.add_argument(
        "--timeout", type=float, default=float("inf"), help="begin no trial after so many seconds"
    )
    parser.add_argument("--study", type=Path, default=Path("tune.db"), help="file of the study")
    parser.add_argument("--out", type=Path, default=Path("tuned.yaml"), help="where the winner goes")
    parser.add_argument("--objectives", nargs="+", default=DEFAULTS, choices=OBJECTIVES, metavar="NAME")
    parser.add_argument(
        "--max-slowdown", type=float, default=1.5, help="slower than this times the start loses"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="seeds of the scenes")
    parser.add_argument("--sampler-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-c", "--config", help="configuration to start from")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=DEFAULT_FOLDER, help="folder for scenes and fits")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, print the front, write the winner; 2 if the request is wrong."""
    args = _arguments(argv)
    try:
        task = _task(args)
        study = Study(args.study, task, args.sampler_seed)
    except CrowdfitError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        if args.trials:
            # compilation is no part of the first trial
            run_field(
                scene_file("smoke", 1, task.setup.folder), Setup(args.threads, folder=task.setup.folder)
            )
        start = study.start
        print(f"start: {shown(start.values)}", flush=True)
        try:
            study.run(args.trials, time.monotonic() + args.timeout, lambda line: print(line, flush=True))
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here")
        done = study.trials()
    except CrowdfitError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        study.close()
    best = winner(done, start, args.max_slowdown)
    rows = front([start, *done])
    rows = rows if best in rows else [*rows, best]
    print(f"\n{len(done)} trials; the start, the Pareto front, and the winner (*):")
    print(front_table(rows, start, best))
    write_config(args.out, task, best, start)
    print(f"\n{args.out}: the winner; use it with crowdfit fit IMAGE -c {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
