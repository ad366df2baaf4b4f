"""photutils, in two ways: iterative PSF photometry, and PSF photometry of groups in one pass.

The PSF is built by its own EPSFBuilder from the brightest isolated stars, without a first guess.
"""

import json
from pathlib import Path
from typing import Any, ClassVar

from astropy.table import Table

from benchmarks.rivals.base import SCRIPTS, Field, Limits, Rival, Setting, stars
from benchmarks.rivals.environments import Environment
from benchmarks.score import Stars

SETTINGS = {
    "background_box": Setting(64, "pix; sky from the SExtractor mode estimator, which sees past crowding"),
    "threshold": Setting(3.0, "sigma, multiplied by the noise of the kernel as in DAOFIND; at 5, the value of "
                              "its examples, F1 > 10 falls from 0.73 to 0.66 on `dense`"),
    "min_separation": Setting(0.0, "the default of 2.5 FWHM is for sparse fields: F1 > 10 on `dense` is 0.61 "
                                   "with it"),
    "fit_fwhm": Setting(1.2, "side of the fitted square in FWHM: about 5 pix, as its documentation advises"),
    "aperture_fwhm": Setting(1.0, "radius of the aperture for first fluxes"),
    "bounds_fwhm": Setting(0.5, "a position may move so far from where it was found"),
    "group_fwhm": Setting(1.0, "grouped mode: stars closer than this are fitted together; more makes groups "
                               "of hundreds in crowded fields"),
    "passes": Setting(3, "iterative mode: its own default"),
    "oversampling": Setting(2, "of the PSF; 4 gains nothing with this many stars"),
    "psf_iterations": Setting(10, "its own default"),
    "psf_stars": Setting(60, "brightest isolated stars that make the PSF"),
    "psf_size_fwhm": Setting(6.0, "side of the PSF; at 12 the neighbours of its stars come in and spoil it"),
    "psf_star_sigma": Setting(20.0, "threshold for candidates"),
    "psf_isolation_fwhm": Setting(3.0, "a PSF star has no neighbour within this ..."),
    "psf_neighbour_flux": Setting(0.1, "... brighter than this part of it"),
}  # fmt: skip

ENVIRONMENT = Environment("photutils", ("photutils==3.0.0", "numpy", "scipy", "astropy"))


class Photutils(Rival):
    """IterativePSFPhotometry: new stars are found on the residual and fitted, one by one."""

    name: ClassVar[str] = "photutils"
    settings = SETTINGS
    environment: ClassVar[Environment] = ENVIRONMENT
    mode: ClassVar[str] = "iterative"

    def missing(self) -> tuple[str, ...]:
        """Return its environment or module, if not there."""
        return ENVIRONMENT.missing("photutils.psf", self.folder)

    def version(self) -> str:
        """Return the version of the distribution."""
        return ENVIRONMENT.version_of("photutils", self.folder)

    def commands(self, field: Field, work: Path, limits: Limits) -> list[list[str]]:
        """Write its task; it reads the field itself."""
        task: dict[str, Any] = {name: setting.value for name, setting in SETTINGS.items()}
        task |= {"mode": self.mode, "fwhm": field.fwhm, "noise": field.noise}
        (work / "task.json").write_text(json.dumps(task))
        script = SCRIPTS / "photutils_fit.py"
        python = ENVIRONMENT.python(self.folder)
        return [
            [str(python), str(script), str(work / "task.json"), str(field.path), str(work / "found.fits")]
        ]

    def catalogue(self, field: Field, work: Path) -> Stars:
        """Return its stars."""
        return stars_of(work / "found.fits")


class PhotutilsGrouped(Photutils):
    """PSFPhotometry with SourceGrouper: stars that overlap are fitted together, once."""

    name: ClassVar[str] = "photutils-grouped"
    mode: ClassVar[str] = "grouped"


def stars_of(path: Path) -> Stars:
    """Return the stars of a table of photutils, whose pixels begin at 0 as ours do."""
    found = Table.read(path)
    return stars(found["x_fit"], found["y_fit"], found["flux_fit"], found["flux_err"])
