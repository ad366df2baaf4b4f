"""One image from its path to its files: what `crowdfit fit` does for each image it is given.

Only maps: reading, fitting and writing are library calls, so a script that makes them gets the same numbers.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from crowdfit import console
from crowdfit.errors import ConfigError, CrowdfitError, InputError

if TYPE_CHECKING:
    from crowdfit.config import Config, Output
    from crowdfit.detectors.destripe import Destripe
    from crowdfit.exposure import Exposure
    from crowdfit.io.positions import Positions
    from crowdfit.loop import State
    from crowdfit.result import FitResult

log = logging.getLogger(__name__)

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit status of the command line."""


class Interrupted(Exception):  # noqa: N818 - nothing is wrong
    """The user ended the fit of an image; says what is kept. Not a KeyboardInterrupt, which typer takes away."""


def refuse(message: str) -> int:
    """Say what was refused, one line for each thing, and return the exit status for it."""
    for line in message.splitlines():
        console.say(f"error: {line}")
    return REFUSED


def prepare(images: Sequence[Path], out: Path, formats: Sequence[str], threads: int | None = None) -> None:
    """Refuse what would fail after the work is done, and set the number of threads.

    Raises
    ------
    InputError
        Images whose files would have the same names, or an output folder that cannot be written.
    ConfigError
        More threads than there are.
    """
    from crowdfit.io.hdus import file_stem  # noqa: PLC0415
    from crowdfit.io.products import check_output  # noqa: PLC0415

    stems = [file_stem(image) for image in images]
    twins = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twins:
        raise InputError(
            f"{twins[0]}: several images have this name, so one would overwrite the other; use two folders"
        )
    if threads is not None:
        _use_threads(threads)
    check_output(out, formats)


def _use_threads(n: int) -> None:
    import numba  # noqa: PLC0415

    try:
        numba.set_num_threads(n)
    except ValueError:
        raise ConfigError(
            f"--threads {n}: this machine has {numba.get_num_threads()}; give at most that"
        ) from None


@dataclass(frozen=True, eq=False)
class Inputs:
    """An image that was read, with the configuration for its filter and the list of known stars, if there is one."""

    exposure: "Exposure"
    config: "Config"
    positions: "Positions | None"


@dataclass(frozen=True)
class Job:
    """What is done to each image: configuration, fit, files.

    Parameters
    ----------
    out : Path
        Folder of the files.
    level : str
        How much is said, a key of `console.LEVELS`.
    config : str or None
        Shipped configuration or YAML file.
    settings : list of str
        `a.b=value`, over the configuration.
    psf, positions, err, dq : Path or None
        Files that go with the image: a PSF, a list of stars, errors and data quality.
    resume : bool
        Whether to go on from the run record of an earlier run.
    compiling_said : bool
        Whether the user knows already that kernels are being compiled.
    """

    out: Path
    level: str
    config: str | None = None
    settings: list[str] = field(default_factory=list)
    psf: Path | None = None
    positions: Path | None = None
    err: Path | None = None
    dq: Path | None = None
    resume: bool = False
    compiling_said: bool = False

    def config_for(self, band: str) -> "Config":
        """Return the configuration for images of a filter."""
        from crowdfit.config import load_config  # noqa: PLC0415

        # JSON text is YAML, whatever the path is made of; what --set says comes later and wins
        psf = [] if self.psf is None else ["psf.kind=file", f"psf.path={json.dumps(str(self.psf))}"]
        return load_config(self.config, [*psf, *self.settings], band)

    def run_all(self, images: Sequence[Path]) -> int:
        """Fit the images one after the other; one that is refused does not stop the others."""
        status = DONE
        for image in images:
            try:
                status = max(status, self.run(image))
            except CrowdfitError as error:
                status = refuse(str(error))
        return status

    def run(self, image: Path) -> int:
        """Fit one image and write its files.

        Raises
        ------
        Interrupted
            At Ctrl-C; the message says where the finished passes are.
        """
        from crowdfit.io.products import product_path  # noqa: PLC0415

        record = product_path(self.out, image.name, "run")
        passes: list[int] = []
        try:
            return self._run(image, record, passes)
        except KeyboardInterrupt:
            kept = f"; the finished passes are kept in {record}" if passes and record.exists() else ""
            kept += ", and the same command with --resume goes on from there" if kept else ""
            raise Interrupted(f"{image}: interrupted{kept}") from None

    def _run(self, image: Path, record: Path, passes: list[int]) -> int:
        """Fit one image and write its files; the number of every finished pass is added to `passes`."""
        from crowdfit.io.products import product_path  # noqa: PLC0415

        inputs = self._read(image)
        output = inputs.config.output
        if self.resume and self._is_done(image, inputs, record, passes):
            return DONE
        result = self._fit(image, inputs, record if output.run_record else None, passes)
        files = [*result.write(self.out, formats=output.formats), *([record] if output.run_record else [])]
        if output.report:
            files.append(result.report(product_path(self.out, image.name, "report")))
        if self.level != "quiet":
            console.tell("\n  ".join([_summary(image, result), *map(str, files)]))
        return DONE

    def _is_done(self, image: Path, inputs: Inputs, record: Path, passes: list[int]) -> bool:
        """Say what there is of an earlier run, and return whether nothing is left to do; add its passes to `passes`."""
        from crowdfit.api import recorded  # noqa: PLC0415
        from crowdfit.io.atomic import clear_leftovers  # noqa: PLC0415

        output = inputs.config.output
        if not output.run_record:
            raise ConfigError("output.run_record: --resume needs the run record; leave it at true")
        products = _products(self.out, image, output)
        for path in (record, *products):
            clear_leftovers(path)
        head = recorded(record, inputs.exposure, inputs.config, positions=inputs.positions)
        is_done = False
        if head is None:
            said = f"no pass is recorded in {record} yet; the fit starts from the beginning"
        elif head.stop_reason is None:
            said = f"goes on after the {head.n_passes} passes in {record}"
        elif is_done := all(map(_not_older_than(record), products)):
            said = "finished already; nothing is left to do"
        else:
            said = f"all {head.n_passes} passes are in {record}; the files are written from there"
        passes += range(head.n_passes if head else 0)
        if self.level != "quiet":
            (console.tell if is_done else console.say)(f"{image}: {said}")
        return is_done

    def fit(self, image: Path) -> "FitResult":
        """Fit one image and write nothing."""
        return self._fit(image, self._read(image), None, [])

    def _read(self, image: Path) -> Inputs:
        """Read an image and what goes with it."""
        from crowdfit.io.fits import read_exposure, read_positions  # noqa: PLC0415

        log.debug("%s: packages imported", image.name, extra={"done": "imports"})
        exposure = read_exposure(image, self.config_for("").input, err=self.err, dq=self.dq)
        log.debug("%s: image read", image.name, extra={"done": "reading"})
        config = self.config_for(exposure.band)
        check_positions(config, self.positions)
        stars = None if self.positions is None else read_positions(self.positions, exposure.wcs)
        return Inputs(exposure, config, stars)

    def _fit(self, image: Path, inputs: Inputs, record: Path | None, passes: list[int]) -> "FitResult":
        """Fit an image that was read; the number of every finished pass is added to `passes`."""
        from crowdfit.api import fit_image  # noqa: PLC0415

        if not self.compiling_said:
            say_if_compiling(self.level)
        with console.progress(self.level, image.name) as show:

            def follow(state: "State") -> None:
                passes.append(state.pass_no)
                if show is not None:
                    show(state)

            return fit_image(
                inputs.exposure,
                config=inputs.config,
                positions=inputs.positions,
                progress=follow,
                record=record,
                resume=self.resume,
            )


def destripe_all(images: Sequence[Path], job: Job, destripe: "Destripe", *, masks: bool) -> int:
    """Write copies of images without stripes; one that is refused does not stop the others."""
    from crowdfit.io.destriped import destripe_file  # noqa: PLC0415

    prepare(images, job.out, ())
    status = DONE
    for image in images:
        try:
            done = destripe_file(image, job.out, destripe, job.config_for("").input, masks=masks)
        except CrowdfitError as error:
            status = refuse(str(error))
            continue
        if job.level != "quiet":
            console.tell("\n  ".join([done.text, *map(str, done.files)]))
    return status


def _products(out: Path, image: Path, output: "Output") -> list[Path]:
    """Return the files that a finished run leaves beside its record."""
    from crowdfit.io.products import product_path  # noqa: PLC0415

    catalogs = [product_path(out, image.name, "catalog", suffix) for suffix in output.formats]
    report = [product_path(out, image.name, "report")] if output.report else []
    return [*catalogs, product_path(out, image.name, "fit"), *report]


def _not_older_than(record: Path) -> Callable[[Path], bool]:
    """Return whether a file is there and was not left by an earlier run than that of the record."""
    begun = record.stat().st_mtime_ns
    return lambda path: path.exists() and path.stat().st_mtime_ns >= begun


def check_positions(config: "Config", positions: Path | None) -> None:
    """Refuse to look for nothing at no position.

    Raises
    ------
    ConfigError
        Nothing is searched and no list is given.
    """
    if positions is None and getattr(config.detect, "kind", "") == "none":
        raise ConfigError("detect.kind: 'none' searches for nothing; give a list of stars with --positions")


def say_if_compiling(level: str) -> bool:
    """Explain the wait before the first fit on a machine; return whether there was anything to say."""
    from crowdfit._kernels.jit import cache_is_cold  # noqa: PLC0415

    if level == "quiet" or not cache_is_cold():
        return False
    console.say("first run: compiling the kernels takes up to a minute; they are kept for the next runs")
    return True


def say_if_compiling_to_draw(level: str) -> None:
    """Explain the wait before the first field is drawn on a machine."""
    from crowdfit._kernels.jit import drawing_is_cold  # noqa: PLC0415

    if level != "quiet" and drawing_is_cold():
        console.say("first run: compiling the kernels takes some seconds; they are kept for the next runs")


def _summary(image: Path, result: "FitResult") -> str:
    """Return one line with the numbers a person wants first."""
    facts = result.catalog.meta
    zero = (
        f", {facts['mag_system']} zero point {float(facts['zero_point']):.3f}"
        if "zero_point" in facts
        else ""
    )
    memory = f", {result.peak_memory_mb:,.0f} MB" if result.peak_memory_mb > 0 else ""  # NaN: not known
    return (
        f"{image}: {len(result.catalog):,} stars, FWHM {result.psf.fwhm:.2f} pix{zero}, "
        f"{len(result.history)} passes ({result.stop_reason}), {result.seconds:.1f} s{memory}"
    )
