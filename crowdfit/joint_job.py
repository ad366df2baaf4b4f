"""Several images from their paths to the files of one joint fit: what `crowdfit fit --joint` does."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crowdfit import console
from crowdfit.job import DONE, Interrupted, Job, check_positions, say_if_compiling

if TYPE_CHECKING:
    from crowdfit.joint.result import JointResult

__all__ = ["run_joint"]


def run_joint(job: Job, images: Sequence[Path]) -> int:
    """Fit images as one, write the files of the fit, and return the exit status.

    Raises
    ------
    Interrupted
        At Ctrl-C.
    InputError, ConfigError
        As `crowdfit.fit_exposures`.
    """
    from crowdfit.api import fit_exposures  # noqa: PLC0415 - slow to import
    from crowdfit.io.fits import read_exposure, read_positions  # noqa: PLC0415
    from crowdfit.io.products import product_path  # noqa: PLC0415

    exposures = [read_exposure(image, job.config_for("").input) for image in images]
    configs = [job.config_for(exposure.band) for exposure in exposures]
    check_positions(configs[0], job.positions)
    stars = None if job.positions is None else read_positions(job.positions, exposures[0].wcs)
    say_if_compiling(job.level)
    try:
        with console.progress(job.level, f"{len(images)} images") as show:
            result = fit_exposures(exposures, config=configs, positions=stars, progress=show)
    except KeyboardInterrupt:
        raise Interrupted(f"{images[0]} and others: interrupted") from None
    output = configs[0].output
    files = result.write(job.out, formats=output.formats)
    if output.report:
        files.append(result.report(product_path(job.out, exposures[0].name, "report")))
    if job.level != "quiet":
        console.tell("\n  ".join([_summary(result), *map(str, files)]))
    return DONE


def _summary(result: "JointResult") -> str:
    """Return one line with the numbers a person wants first."""
    widths = ", ".join(f"{one.psf.fwhm:.2f}" for one in result.exposures)
    bands = f" in {', '.join(result.bands)}" if any(result.bands) else ""
    memory = f", {result.peak_memory_mb:,.0f} MB" if result.peak_memory_mb > 0 else ""  # NaN: not known
    return (
        f"{len(result.exposures)} exposures{bands}: {len(result.catalog):,} stars, FWHM {widths} pix, "
        f"{len(result.history)} passes ({result.stop_reason}), {result.seconds:.1f} s{memory}"
    )
