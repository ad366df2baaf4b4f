"""Install the rivals, say which are there, and run them."""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rivals import daophot, sextractor
from benchmarks.rivals.base import DEFAULT_FOLDER, Code, Job, Limits, Rival
from benchmarks.rivals.crowdsource import Crowdsource
from benchmarks.rivals.cut import cut_file, job_scene
from benchmarks.rivals.environments import Environment, apt_command
from benchmarks.rivals.ours import Crowdfit, Floor
from benchmarks.rivals.photutils import Photutils, PhotutilsGrouped
from benchmarks.rivals.plain_sep import PlainSep
from benchmarks.run import ROOT, Setup, environment, table
from benchmarks.scenes import DEFAULT_FOLDER as SCENE_FOLDER
from benchmarks.scenes import scene_file
from benchmarks.score import read_truth
from crowdfit.errors import CrowdfitError, InputError

RIVALS: tuple[type[Rival], ...] = (
    PlainSep,
    sextractor.SourceExtractor,
    daophot.Allstar,
    Photutils,
    PhotutilsGrouped,
    Crowdsource,
)
"""The rivals, fastest first."""
OWN: tuple[type[Code], ...] = (Crowdfit, Floor)
"""What they are compared with; run when named, or with all."""
CODES: dict[str, type[Code]] = {code.name: code for code in (*OWN, *RIVALS)}
APT = {"sextractor": sextractor.APT, "allstar": daophot.APT}
RESULTS = ROOT / "benchmarks" / "results" / "rivals.jsonl"
FACTS = ("time", "commit", "host", "threads")
"""What a rival's record shares with those of `benchmarks.run`."""


def environments(names: Iterable[str]) -> list[Environment]:
    """Return the environments of the named codes, each once."""
    found = (getattr(CODES[name], "environment", None) for name in names)
    return list(dict.fromkeys(env for env in found if env is not None))


def install(names: Sequence[str], folder: Path, apt: bool) -> int:
    """Make the environments of the named rivals; print or run the line that installs the others.

    Returns
    -------
    int
        0, or 1 if something could not be installed.
    """
    status = 0
    folder.mkdir(parents=True, exist_ok=True)
    for env in environments(names):
        print(f"{env.name}: {' '.join((*env.packages, *env.alone))} into {folder / env.name}", flush=True)
        try:
            env.make(folder)
        except subprocess.CalledProcessError as error:
            print(
                f"{env.name}: failed: {shlex.join(error.cmd)} ended with {error.returncode}", file=sys.stderr
            )
            status = 1
    packages = tuple(package for name in names for package in APT.get(name, ()))
    if not packages:
        return status
    command = apt_command(packages)
    if not apt:
        print(f"not from PyPI; on Debian or Ubuntu (or repeat this with --apt):\n    {shlex.join(command)}")
        return status
    return subprocess.run(command, check=False).returncode or status


def listing(names: Sequence[str], folder: Path, settings: bool) -> str:
    """Return a line for every code: name, whether it is available, version, and what is missing."""
    lines = []
    for name in names:
        code = CODES[name](folder)
        missing = code.missing()
        state = f"missing    {', '.join(missing)}" if missing else f"available  {code.version()}"
        lines.append(f"{name:18s} {state}")
        if settings:
            lines += [f"    {key} = {value!r}: {why}" for key, (value, why) in code.settings.items()]
    return "\n".join(lines)


def run_one(code: Code, job: Job, scratch: Path, limits: Limits) -> dict[str, Any]:
    """Return the record of one code on one field, with the keys of `benchmarks.run`, `code`, `version`, `size`.

    `given` holds the settings of a rival. A code that is missing has the status "missing" and a message that
    says what it lacks.
    """
    facts = environment(Setup(threads=limits.threads))
    if code.name != Crowdfit.name:
        facts = {key: facts[key] for key in FACTS}
        facts["given"] = {key: value for key, (value, _) in code.settings.items()}
    facts |= {"field": job.field, "seed": job.seed, "size": job.size, "code": code.name}
    missing = code.missing()
    if missing:
        message = f"missing: {', '.join(missing)}"
        return facts | {"version": None, "status": "missing", "message": message}
    return facts | {"version": code.version()} | code.run(job, scratch, limits)


def jobs(fields: Sequence[str], seeds: Sequence[int], size: int | None, folder: Path) -> list[Job]:
    """Return everything to run: scenes by name and seed, or files with truth.

    A cut scene is another field and has its size in its name.

    Raises
    ------
    InputError
        A size was given for a file.
    """
    found = []
    for field in fields:
        if field.endswith(".fits"):
            if size is not None:
                raise InputError(f"--size {size}: {field} is a file; only scenes by name can be cut")
            path = Path(field).resolve()
            found.append(Job(path.stem, 0, path, read_truth(path).shape))
            continue
        for seed in seeds:
            scene, path = job_scene(field, seed, size), cut_file(field, seed, size, folder)
            name = field if size is None else f"{field}-{size}"
            found.append(Job(name, seed, path, (scene.ny, scene.nx), scene))
    return found


def compare(records: Iterable[dict[str, Any]]) -> str:
    """Return the figures as text: a line a run, with field and code in the first column."""
    shown = []
    for record in records:
        name = f"{record['field']} {record['code']}"
        shown.append({key: record[key] for key in record if key != "code"} | {"field": name})
    return table(shown)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.rivals", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    makes = commands.add_parser("install", help="make the environments of the Python rivals")
    shows = commands.add_parser("list", help="name, version, and what is missing")
    runs = commands.add_parser("run", help="run rivals on fields and score them")
    for command in (makes, shows):
        command.add_argument("names", nargs="*", metavar="CODE", help="default: all")
    for command in (makes, shows, runs):
        command.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="of the environments")
    makes.add_argument("--apt", action="store_true", help="run apt-get for those that are not on PyPI")
    shows.add_argument("--settings", action="store_true", help="also every setting and its reason")
    runs.add_argument("fields", nargs="+", metavar="FIELD", help="scene by name, or FITS file with truth")
    runs.add_argument("--seeds", nargs="+", type=int, default=[1], help="seeds of the scenes")
    runs.add_argument("--codes", nargs="+", dest="names", default=[], metavar="CODE", help="default: all")
    runs.add_argument("--size", type=int, help="cut scenes to SIZE x SIZE pixels of the same density")
    runs.add_argument("--threads", type=int, default=2)
    runs.add_argument("--limit", type=int, default=3600, help="seconds for one command; 0: no limit")
    runs.add_argument("--out", type=Path, default=RESULTS, help="JSON lines are appended to this file")
    runs.add_argument("--work", type=Path, default=SCENE_FOLDER, help="folder for scenes and fits")
    runs.add_argument(
        "--no-warm-up", action="store_true", help="do not compile crowdfit on a small field first"
    )
    args = parser.parse_args(argv)
    args.names = args.names or list(CODES)
    unknown = [name for name in args.names if name not in CODES]
    if unknown:
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(CODES)}")
    return args


def run(args: argparse.Namespace) -> int:
    """Run every code on every field, append the records and print the table; 1 if one failed."""
    limits, scratch = Limits(args.threads, args.limit), args.work.resolve()
    wanted = jobs(args.fields, args.seeds, args.size, scratch)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if Crowdfit.name in args.names and not args.no_warm_up:
        # compilation is no part of the figures
        CODES[Crowdfit.name]().run(_warm_up(scratch), scratch, limits)
    records = []
    for job in wanted:
        for name in args.names:
            record = run_one(CODES[name](args.folder), job, scratch, limits)
            records.append(record)
            with args.out.open("a") as lines:
                lines.write(json.dumps(record) + "\n")
            print(compare([record]).splitlines()[-1], flush=True)
    print("\n" + compare(records))
    return 0 if all(record["status"] in (0, "missing") for record in records) else 1


def _warm_up(scratch: Path) -> Job:
    """Return a small field."""
    path = scene_file("smoke", 1, scratch)
    return Job("smoke", 1, path, read_truth(path).shape)


def main(argv: Sequence[str] | None = None) -> int:
    """Install, list or run; 2 if the request is wrong."""
    args = _arguments(argv)
    try:
        if args.command == "install":
            return install(args.names, args.folder, args.apt)
        if args.command == "list":
            print(listing(args.names, args.folder, args.settings))
            return 0
        return run(args)
    except CrowdfitError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
