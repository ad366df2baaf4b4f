"""crowdsource 0.5.9 (Schlafly et al. 2018), the code whose method crowdfit rebuilds.

Its axes are the other way round: its x is the row. It takes the square root of the inverse variance as weight,
and quality bits as int64. The PSF begins as a Moffat of the measured FWHM and is refitted in every pass.
"""

import json
from pathlib import Path
from typing import Any, ClassVar

from astropy.table import Table

from benchmarks.rivals.base import SCRIPTS, Field, Limits, Rival, Setting, stars
from benchmarks.rivals.environments import Environment
from benchmarks.score import Stars

SETTINGS = {
    "beta": Setting(3.0, "Moffat exponent of the first PSF; its own default"),
    "psf_size": Setting(511, "side of the first PSF (pix), as its DECam pipeline takes it"),
    "refit_psf": Setting(True, "the PSF is not known at the start"),
    "psfderiv": Setting(True, "positions are fitted with the fluxes; its own default"),
    "threshold": Setting(5.0, "sigma; its own default"),
    "miniter": Setting(4, "its own default"),
    "maxiter": Setting(10, "its own default"),
    "maxstars": Setting(320_000, "as its DECam pipeline; the default of 40000 would stop dense fields early"),
    "fewstars_per_mpix": Setting(
        100, "stop below so many new stars per 2^20 pixels: its 100 for small fields"
    ),
    "tile": Setting(1024, "largest tile (pix); its DECam pipeline has tiles of 1024 x 1024"),
}

ENVIRONMENT = Environment(
    "crowdsource", ("numpy<2", "scipy", "astropy", "scikit-image"), alone=("crowdsourcephoto==0.5.9",)
)


class Crowdsource(Rival):
    """crowdsource, as its DECam pipeline calls it, on one image."""

    name: ClassVar[str] = "crowdsource"
    settings = SETTINGS
    environment: ClassVar[Environment] = ENVIRONMENT

    def missing(self) -> tuple[str, ...]:
        """Return its environment or module, if not there."""
        return ENVIRONMENT.missing("crowdsource.crowdsource_base", self.folder)

    def version(self) -> str:
        """Return the version of the distribution."""
        return ENVIRONMENT.version_of("crowdsourcephoto", self.folder)

    def commands(self, field: Field, work: Path, limits: Limits) -> list[list[str]]:
        """Write its task; it reads the field itself."""
        rows, columns = field.data.shape
        task: dict[str, Any] = {name: setting.value for name, setting in SETTINGS.items()}
        task["fwhm"] = field.fwhm
        task["fewstars"] = max(1, round(self["fewstars_per_mpix"] * rows * columns / 2**20))
        task["tiles"] = [-(-rows // self["tile"]), -(-columns // self["tile"])]
        (work / "task.json").write_text(json.dumps(task))
        script = SCRIPTS / "crowdsource_fit.py"
        python = ENVIRONMENT.python(self.folder)
        return [
            [str(python), str(script), str(work / "task.json"), str(field.path), str(work / "found.fits")]
        ]

    def catalogue(self, field: Field, work: Path) -> Stars:
        """Return its stars, x and y exchanged."""
        return stars_of(work / "found.fits")


def stars_of(path: Path) -> Stars:
    """Return the stars of a table of crowdsource, whose x is the row and whose dflux is the error."""
    found = Table.read(path)
    return stars(found["y"], found["x"], found["flux"], found["dflux"])
