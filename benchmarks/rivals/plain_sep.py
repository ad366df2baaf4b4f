"""sep alone: its background, its detection, and apertures; what one writes in ten lines."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sep

from benchmarks.rivals.base import SCRIPTS, Field, Limits, Rival, Setting, stars, this_python
from benchmarks.score import Stars

SETTINGS = {
    "back_size": Setting(64, "pix; its own default"),
    "threshold": Setting(2.0, "sigma per pixel; at the 1.5 of its documentation F1 > 10 on `dense` is 0.57, at 2 "
                              "0.60, and less above"),
    "filter": Setting(None, "none: smoothing merges neighbours; with its default filter F1 > 10 is 0.55"),
    "minarea": Setting(3, "pixels above the threshold; the default of 5 is for galaxies"),
    "deblend_nthresh": Setting(64, "levels; twice the default, for crowding"),
    "deblend_cont": Setting(0.0005, "a tenth of the default, for crowding"),
    "aperture_fwhm": Setting(0.6, "radius of the aperture: small, for crowding"),
    "total_fwhm": Setting(3.0, "radius of the aperture that has all light, for the aperture correction"),
    "correction_stars": Setting(30, "brightest stars without flags whose median ratio is that correction"),
}  # fmt: skip


class PlainSep(Rival):
    """sep, with the Python and the requirements of crowdfit itself."""

    name: ClassVar[str] = "sep"
    settings = SETTINGS

    def missing(self) -> tuple[str, ...]:
        """Return nothing: crowdfit requires sep."""
        return ()

    def version(self) -> str:
        """Return the version of the module."""
        return str(sep.__version__)

    def commands(self, field: Field, work: Path, limits: Limits) -> list[list[str]]:
        """Write its task; it reads the field itself."""
        task: dict[str, Any] = {name: setting.value for name, setting in SETTINGS.items()}
        task["fwhm"] = field.fwhm
        (work / "task.json").write_text(json.dumps(task))
        script = SCRIPTS / "sep_fit.py"
        return [
            [this_python(), str(script), str(work / "task.json"), str(field.path), str(work / "found.npy")]
        ]

    def catalogue(self, field: Field, work: Path) -> Stars:
        """Return its stars."""
        return stars_of(work / "found.npy")


def stars_of(path: Path) -> Stars:
    """Return the stars of an array (4, n) of x, y, flux and its error, pixels beginning at 0."""
    return stars(*np.load(path))
