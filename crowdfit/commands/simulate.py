"""`crowdfit simulate`: star fields with known truth, drawn from a description or after a real image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from crowdfit import console
from crowdfit.commands.options import ConfigName, Quiet, Verbose
from crowdfit.commands.text import aligned
from crowdfit.errors import ConfigError
from crowdfit.job import DONE, Job, say_if_compiling_to_draw


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
    return "\n".join([f"scenes: {', '.join(SCENES)}", "", f"{name}:", *aligned(rows)])
