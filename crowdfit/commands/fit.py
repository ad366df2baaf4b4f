"""`crowdfit fit` and `crowdfit demo`: images become catalogues, models, run records and reports."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from crowdfit import console
from crowdfit.commands.options import (
    ConfigName,
    DqFile,
    ErrFile,
    Format,
    Formats,
    LogJson,
    Quiet,
    Settings,
    Threads,
    Verbose,
    format_settings,
)
from crowdfit.errors import InputError
from crowdfit.job import DONE, Job, prepare, say_if_compiling
from crowdfit.joint_job import run_joint

DEMO_FOLDER = Path("crowdfit_demo")


def fit(  # noqa: PLR0913, PLR0917 - one argument for each option
    images: Annotated[
        list[Path],
        typer.Argument(help="FITS images, each fitted on its own unless --joint is given.", metavar="IMAGE"),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for the results; made if missing.", metavar="FOLDER")
    ],
    config: ConfigName = None,
    settings: Settings = None,
    psf: Annotated[
        Path | None,
        typer.Option(
            "--psf",
            help="Start from the PSF in this file (FITS image, STDPSF or STPSF file, PSFEx model, or fit image of "
            "crowdfit). It is refined unless --set psf_update.kind=none.",
            metavar="FILE",
        ),
    ] = None,
    positions: Annotated[
        Path | None,
        typer.Option(
            "--positions",
            help="Table of known stars: x, y (from 0) or ra, dec, and perhaps flux. With -c forced the only ones.",
            metavar="FILE",
        ),
    ] = None,
    err: ErrFile = None,
    wht: Annotated[
        Path | None,
        typer.Option(
            "--wht",
            help="Weights in a file of their own; beside errors their pattern is taken, on the scale of the errors.",
            metavar="FILE",
        ),
    ] = None,
    dq: DqFile = None,
    formats: Formats = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no HTML report.")] = False,
    joint: Annotated[
        bool,
        typer.Option(
            "--joint",
            help="Fit all images together: one list of stars, found on the sum of all and placed by all. One "
            "catalogue, FIRST_joint_catalog.fits, on the pixels of the first image.",
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the run record that an interrupted run has left in the folder; finished images are left "
            "alone.",
        ),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    log_json: LogJson = None,
    threads: Threads = None,
) -> int:
    """Fit images: catalogue, model image, run record and report."""
    changes = [*(settings or []), *_output_settings(formats or [], no_report)]
    level = console.level_name(quiet, verbose)
    if joint and resume:
        raise InputError("--resume: a joint fit leaves no run record to go on from; fit from the beginning")
    if (err or dq or wht) and len(images) > 1:
        raise InputError("--err, --wht and --dq belong to one image; fit the images one by one")
    changes += [f"input.wht_file={json.dumps(str(wht))}"] if wht else []
    with console.logging_to(level, log_json):
        job = Job(out, level, config, changes, psf, positions, err, dq, resume)
        prepare(images, out, job.config_for("").output.formats, threads)
        return run_joint(job, images) if joint else job.run_all(images)


def _output_settings(formats: Sequence[Format], no_report: bool) -> list[str]:
    """Return what the options about files mean as settings."""
    return format_settings(formats) + (["output.report=false"] if no_report else [])


def demo(
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Simulate a small crowded field, fit it, and say what to look at; leaves the folder crowdfit_demo."""
    import crowdfit.simulate as scenes  # noqa: PLC0415

    level = console.level_name(quiet, verbose)
    image = DEMO_FOLDER / "demo.fits"
    with console.logging_to(level):
        job = Job(DEMO_FOLDER, level, compiling_said=say_if_compiling(level))
        prepare([image], DEMO_FOLDER, job.config_for("").output.formats)
        field = scenes.simulate(scenes.named_scene("demo"))
        field.write(image)
        status = job.run(image)
    if level != "quiet" and status == DONE:
        typer.echo(_what_to_look_at(len(field.truth)))
    return status


def _what_to_look_at(n_stars: int) -> str:
    folder = DEMO_FOLDER
    return f"""
The field has {n_stars:,} stars, most of them too faint to be seen one by one. Look at
  {folder}/demo_report.html     in a browser: image, model and residual, which should look like noise
  {folder}/demo_catalog.fits    one row a star; `crowdfit columns` and `crowdfit flags` say what is in it
  {folder}/demo_fit.fits        MODEL, SKY, RESIDUAL and PSF
  {folder}/demo.fits            the image itself; extension TRUTH holds the stars that were put in
Next: crowdfit fit YOUR_IMAGE.fits -o results"""
