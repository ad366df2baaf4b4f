"""The command line: arguments become a library call, and its result becomes files. Nothing is computed here.

Exit status: 0 done; 2 bad input, configuration or usage, said in one clear line each; 1 anything else;
130 interrupted. Heavy packages are imported inside the commands, so that `crowdfit --help` answers at once.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from crowdfit import cli_colours, cli_photometry, console
from crowdfit.cli_calibrate import calibrate
from crowdfit.cli_options import ConfigName, Format, LogJson, Quiet, Settings, Threads, Verbose
from crowdfit.errors import ConfigError, CrowdfitError, InputError
from crowdfit.job import (
    DONE,
    FAILED,
    INTERRUPTED,
    Interrupted,
    Job,
    prepare,
    refuse,
    say_if_compiling,
    say_if_compiling_to_draw,
)

DEMO_FOLDER = Path("crowdfit_demo")

# the class of all usage errors; its module is private to typer and has moved between releases
UsageError: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="crowdfit",
    help="Photometry of dense star fields: sky, every star and the PSF fitted together.",
    epilog="Start with `crowdfit demo`, or `crowdfit fit image.fits -o results`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Several(StrEnum):
    """What `average` does with several detections of one exposure inside the match radius."""

    sum = "sum"
    flag = "flag"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments without the program name; those of the process when not given.
    """
    given = None if arguments is None else list(arguments)
    try:
        status = app(args=given, prog_name="crowdfit", standalone_mode=False) or DONE
    except UsageError as error:
        message = error.format_message().removesuffix(".")
        return refuse(f"{message} (see {error.ctx.command_path} --help)" if message else "")
    except CrowdfitError as error:
        return refuse(str(error))
    except Interrupted as end:
        console.say(str(end))
        return INTERRUPTED
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        # the reader of our pipe has gone; without this, Python would fail once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (OSError, MemoryError) as error:
        console.say(f"error: {str(error) or 'out of memory'}")
        return FAILED
    if status == INTERRUPTED:  # typer turns Ctrl-C into this and says nothing
        console.say("interrupted")
    return status


def _print_version(wanted: bool) -> None:
    if wanted:
        from crowdfit import __version__  # noqa: PLC0415

        typer.echo(f"crowdfit {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Photometry of dense star fields: sky, every star and the PSF fitted together."""


@app.command()
def fit(  # noqa: PLR0913, PLR0917 - one argument for each option
    images: Annotated[
        list[Path], typer.Argument(help="FITS images, each fitted on its own.", metavar="IMAGE")
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
    err: Annotated[
        Path | None,
        typer.Option(
            "--err",
            help="Errors in a file of their own; for weights also --set input.err_kind=ivar.",
            metavar="FILE",
        ),
    ] = None,
    wht: Annotated[
        Path | None,
        typer.Option(
            "--wht",
            help="Weights in a file of their own; beside errors their pattern is taken, on the scale of the errors.",
            metavar="FILE",
        ),
    ] = None,
    dq: Annotated[
        Path | None,
        typer.Option("--dq", help="Data quality in a file of its own; not 0 is bad.", metavar="FILE"),
    ] = None,
    formats: Annotated[
        list[Format] | None,
        typer.Option(
            "--format",
            help=f"Format of the catalogue: {', '.join(Format)}; may be repeated.",
            metavar="FORMAT",
        ),
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no HTML report.")] = False,
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
    if (err or dq or wht) and len(images) > 1:
        raise InputError("--err, --wht and --dq belong to one image; fit the images one by one")
    changes += [f"input.wht_file={json.dumps(str(wht))}"] if wht else []
    with console.logging_to(level, log_json):
        job = Job(out, level, config, changes, psf, positions, err, dq, resume)
        prepare(images, out, job.config_for("").output.formats, threads)
        return job.run_all(images)


@app.command()
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


@app.command()
def simulate(  # noqa: PLR0913, PLR0917 - one argument for each option
    path: Annotated[Path | None, typer.Argument(help="FITS file to write.", metavar="FILE")] = None,
    scene: Annotated[
        str | None,
        typer.Option("--scene", help="Scene to start from; see --list. Default: demo.", metavar="NAME"),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            help="Make a copy of this image instead: same PSF, noise, sky, mask, luminosity function and density, "
            "as a fit finds them.",
            metavar="IMAGE",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="With --like: folder of a fit of it, made earlier.", metavar="FOLDER"),
    ] = None,
    config: ConfigName = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change one field, for example --set n_stars=500, or with --like a setting of the fit; may be "
            "repeated.",
            metavar="FIELD=VALUE",
        ),
    ] = None,
    err: Annotated[
        Path | None, typer.Option("--err", help="With --like: errors in a file of their own.", metavar="FILE")
    ] = None,
    dq: Annotated[
        Path | None,
        typer.Option("--dq", help="With --like: data quality in a file of its own.", metavar="FILE"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of all random numbers.", metavar="N")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="List scenes and fields with their values.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> int:
    """Simulate a crowded field, or a copy of a real one: image, errors, data quality and truth in one FITS file."""
    level = console.level_name(quiet, verbose)
    if like is not None:
        _refuse_with("--like", {"--scene": scene, "--list": show or None})
        if run is not None:
            _refuse_with("--run", {"--config": config, "--set": settings})
        with console.logging_to(level):
            said = _simulate_like(
                _file_wanted(path),
                like,
                run,
                Job(Path(), level, config, settings or [], err=err, dq=dq),
                seed,
            )
    else:
        _refuse_without_like({"--run": run, "--config": config, "--err": err, "--dq": dq})
        chosen = _chosen_scene(scene or "demo", settings or [], seed)
        if show:
            typer.echo(_list_scene(scene or "demo", chosen))
            return DONE
        with console.logging_to(level):
            said = _simulate_scene(_file_wanted(path), chosen, level)
    if not quiet:
        typer.echo(said)
    return DONE


def _refuse_with(option: str, others: Mapping[str, object]) -> None:
    """Refuse options that would do nothing beside another one."""
    for other, value in others.items():
        if value is not None:
            raise ConfigError(f"simulate: {other} has no meaning with {option}; leave one of them out")


def _refuse_without_like(options: Mapping[str, object]) -> None:
    """Refuse options that speak of a fit when nothing is fitted."""
    for option, value in options.items():
        if value is not None:
            raise ConfigError(f"simulate: {option} needs --like IMAGE")


def _file_wanted(path: Path | None) -> Path:
    if path is None:
        raise ConfigError("simulate: which file shall be written? Give its name, or --list")
    return path


def _chosen_scene(name: str, settings: Sequence[str], seed: int | None) -> Any:
    """Return a scene with the changes of the command line."""
    from crowdfit.config_yaml import merge_all, parse_override, strip_origins  # noqa: PLC0415
    from crowdfit.simulate import named_scene  # noqa: PLC0415

    changes: dict[str, Any] = strip_origins(merge_all(map(parse_override, settings)))
    return named_scene(name, **changes | ({} if seed is None else {"seed": seed}))


def _simulate_scene(path: Path, scene: Any, level: str) -> str:
    import crowdfit.simulate as scenes  # noqa: PLC0415

    say_if_compiling_to_draw(level)
    field = scenes.simulate(scene)
    return f"{field.write(path)}: {len(field.truth):,} stars, {scene.nx} x {scene.ny} pixels"


def _simulate_like(path: Path, image: Path, run: Path | None, job: Job, seed: int | None) -> str:
    """Write a copy of an image, fitted now or earlier; return what to say about it."""
    from crowdfit.io.atomic import check_writable  # noqa: PLC0415
    from crowdfit.likeness import Likeness, read_likeness, simulate_like  # noqa: PLC0415

    check_writable(path.parent)
    if run is not None:
        say_if_compiling_to_draw(job.level)
    known = None if run is None else read_likeness(image, run, err=job.err, dq=job.dq)
    copy = simulate_like(known or Likeness.of(job.fit(image)), 1 if seed is None else seed)
    return f"{copy.write(path)}: {len(copy.truth):,} stars; {copy.luminosity.text}"


def _list_scene(name: str, scene: Any) -> str:
    """Return the names of all scenes, and each field of one with its value and meaning."""
    from crowdfit.config_schema import allowed, options  # noqa: PLC0415
    from crowdfit.simulate import SCENES  # noqa: PLC0415

    scene_class: type = type(scene)
    rows = [
        (field, str(getattr(scene, field)), f"{info.description} [{allowed(scene_class, field)}]")
        for field, info in options(scene_class).items()
    ]
    return "\n".join([f"scenes: {', '.join(SCENES)}", "", f"{name}:", *_aligned(rows)])


@app.command("config")
def show_config(
    name: Annotated[
        str | None,
        typer.Argument(help="Name from --list, or a YAML file; the defaults when left out.", metavar="NAME"),
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            "--show", help="Print every value with its meaning and origin (done anyway without --list)."
        ),
    ] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="List the configurations that come with crowdfit.")
    ] = False,
    settings: Settings = None,
    band: Annotated[
        str, typer.Option("--band", help="Filter, for the `filters:` blocks of the file.", metavar="FILTER")
    ] = "",
) -> int:
    """Print a configuration as a YAML file, or list those that come with crowdfit."""
    from crowdfit import config  # noqa: PLC0415

    if listing:
        typer.echo("\n".join(_aligned((key, _first_comment(path)) for key, path in config.shipped().items())))
    if show or not listing:
        typer.echo(config.describe(config.resolve(name, settings or (), band)), nl=False)
    return DONE


def _first_comment(path: Path) -> str:
    """Return the first line of a configuration file, which says what it is for."""
    first, *_ = path.read_text(encoding="utf-8").splitlines() or [""]
    return first.removeprefix("#").strip()


app.command()(cli_photometry.photometry)


@app.command()
def average(
    catalogs: Annotated[
        list[Path], typer.Argument(help="Catalogues of exposures of one field.", metavar="CATALOGUE")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="File to write; its suffix is the format.", metavar="FILE")
    ],
    radius: Annotated[
        str | None,
        typer.Option(
            "--radius",
            help="Match radius, arcsec or for example '2 pix'. Default: 0.375 arcsec, or 1.5 pix without a WCS.",
            metavar="R",
        ),
    ] = None,
    several: Annotated[
        Several,
        typer.Option("--several", help="Several detections of one exposure: add them up, or leave them out."),
    ] = Several.sum,
    flux: Annotated[
        str, typer.Option("--flux", help="Column to average; flux_cal across detectors.", metavar="COLUMN")
    ] = "flux",
    quiet: Quiet = False,
) -> int:
    """Average the catalogues of several exposures: one row a star, with scatter and number of detections."""
    from crowdfit.match import average_files  # noqa: PLC0415

    level = console.level_name(quiet, 0)
    with console.logging_to(level):
        table = average_files(catalogs, out, radius, several.value, flux)
    if not quiet:
        n_several = sum(table["n_several"] > 0)
        typer.echo(f"{out}: {len(table):,} stars, {n_several:,} with several detections of one exposure")
    return DONE


app.command()(calibrate)
app.command()(cli_colours.cmd)
app.command()(cli_colours.align)
app.command()(cli_colours.regions)


@app.command()
def destripe(
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="FITS images, each corrected on its own.", metavar="IMAGE", show_default=False),
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for the results; made if missing.", metavar="FOLDER")
    ] = Path("destriped"),
    config: ConfigName = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change one setting, for example --set lines.amplifiers=4 or --set mask.nsigma=3; may be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="Also write the sources that were masked, and the masked image.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="List the settings with their values.")] = False,
    quiet: Quiet = False,
) -> int:
    """Take the stripes of the readout (1/f noise) out of images; in crowded fields use stripes.kind=lines of `fit`."""
    from crowdfit.config_layers import describe, resolve  # noqa: PLC0415
    from crowdfit.detectors.destripe import Destripe  # noqa: PLC0415
    from crowdfit.job import destripe_all  # noqa: PLC0415

    resolved = resolve(Destripe, {}, None, settings or [])
    if show:
        typer.echo(describe(resolved), nl=False)
        return DONE
    if not images:
        raise InputError("destripe: which images? Name them, or --list")
    level = console.level_name(quiet, 0)
    with console.logging_to(level):
        return destripe_all(images, Job(out, level, config), resolved.config, masks=masks)


@app.command()
def columns(
    averaged: Annotated[
        bool, typer.Option("--average", help="The columns that `crowdfit average` writes.")
    ] = False,
    segments: Annotated[
        bool, typer.Option("--segments", help="The columns of extended sources, with segments.kind=sep.")
    ] = False,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="The columns that a calibration adds.")
    ] = False,
    colours: Annotated[
        bool, typer.Option("--colours", help="The columns that `crowdfit cmd` writes.")
    ] = False,
) -> int:
    """Print every column of the catalogue with unit, type and meaning."""
    from crowdfit.calibration.columns import CALIBRATED_COLUMNS  # noqa: PLC0415
    from crowdfit.catalog import (  # noqa: PLC0415
        AVERAGE_COLUMNS,
        COLUMNS,
        SEGMENT_COLUMNS,
        columns_table,
    )
    from crowdfit.colours import COLOUR_COLUMNS  # noqa: PLC0415

    others = {
        "--average": (averaged, AVERAGE_COLUMNS),
        "--segments": (segments, SEGMENT_COLUMNS),
        "--calibrated": (calibrated, CALIBRATED_COLUMNS),
        "--colours": (colours, COLOUR_COLUMNS),
    }
    asked = [name for name, (wanted, _) in others.items() if wanted]
    if len(asked) > 1:
        raise ConfigError(f"columns: {' and '.join(asked)} are different tables; ask for one of them")
    typer.echo(columns_table(others[asked[0]][1] if asked else COLUMNS))
    return DONE


@app.command()
def flags(
    dq: Annotated[
        int | None,
        typer.Option(
            "--dq", min=0, max=2**32 - 1, help="Name the bits of a JWST data-quality value.", metavar="VALUE"
        ),
    ] = None,
) -> int:
    """Print every source flag with its value and meaning, or the names of JWST data-quality bits."""
    if dq is not None:
        from crowdfit.io.dq import decode_dq  # noqa: PLC0415

        typer.echo("\n".join(decode_dq(dq)) or "no bits")
        return DONE
    from crowdfit.flags import APERTURE_FLAGS, SOURCE_FLAGS  # noqa: PLC0415

    rows = [(str(flag.value), flag.name, flag.text) for flag in SOURCE_FLAGS]
    typer.echo("\n".join(_aligned([("value", "name", "meaning"), *rows])))
    rows = [(str(flag.value), flag.name, flag.text) for flag in APERTURE_FLAGS]
    typer.echo("\n".join(["", "in aper_flags:", *_aligned([("value", "name", "meaning"), *rows])]))
    return DONE


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns start at the same place; the last column runs on."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return [
        "  ".join([*(cell.ljust(n) for cell, n in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]


def _output_settings(formats: Sequence[Format], no_report: bool) -> list[str]:
    """Return what the options about files mean as settings."""
    settings = [f"output.formats=[{', '.join(formats)}]"] if formats else []
    return settings + (["output.report=false"] if no_report else [])
