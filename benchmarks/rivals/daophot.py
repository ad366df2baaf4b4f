"""DAOPHOT and ALLSTAR of IRAF (Stetson 1987), with two finding passes.

Find, photometry, PSF stars; PSF; ALLSTAR; subtract all but the PSF stars and build the PSF again on that image;
ALLSTAR; find what it left; ALLSTAR on both lists together.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from astropy.io import fits
from astropy.table import Table

from benchmarks.rivals.base import F64, Field, Limits, Rival, Setting, output_of, program, stars
from benchmarks.score import Stars

PROGRAMS = ("irafcl", "ecl", "cl")
"""Names of IRAF's command language in Debian and elsewhere."""
APT = ("iraf", "iraf-noao")
BAD = -1000.0
"""Value of worthless pixels in the image; `datamin` is above it."""
ZERO_MAG = 25.0
"""Magnitude of a flux of 1; the default of `photpars`."""

SETTINGS = {
    "threshold": Setting(3.0, "sigma; F1 > 10 on `dense` is 0.78, with the default of 4 it is 0.72, and at 2.5 "
                              "false sources take over"),
    "datamin_sigma": Setting(7.0, "pixels so far below the sky are bad, as its guide advises"),
    "datamax_part": Setting(0.98, "pixels above this part of saturation are bad"),
    "aperture_fwhm": Setting(1.0, "radius of the aperture for first magnitudes, as its guide advises"),
    "annulus_fwhm": Setting(4.0, "inner radius of the sky annulus, as its guide advises"),
    "dannulus": Setting(10.0, "width of the sky annulus (pix); its own default"),
    "salgorithm": Setting("mode", "of the sky; its own default"),
    "function": Setting("auto", "of the PSF: the best of its six profiles"),
    "varorder": Setting(0, "one look-up table of residuals: the PSF is constant, and its user knows"),
    "nclean": Setting(5, "passes that reject neighbours of PSF stars; without, F1 > 10 on `dense` is 0.76"),
    "psf_stars": Setting(40, "as many as its guide advises for a crowded field, and some"),
    "psfrad_fwhm": Setting(4.5, "radius of the PSF; at 7, F1 > 10 is 0.70 on `dense`: neighbours come in"),
    "fitrad_fwhm": Setting(1.0, "radius of the fit, as its guide advises"),
    "maxgroup": Setting(100, "stars fitted together; the largest it takes"),
    "maxnstar": Setting(50_000, "the largest it takes"),
}  # fmt: skip

QUIET = "verify=no, update=no, verbose=no"
STEPS = (
    ("daofind", '"im", "coo1", interactive=no'),
    ("phot", '"im", "coo1", "mag1", "", interactive=no, radplots=no'),
    ("pstselect", '"im", "mag1", "pst1", {psf_stars}, interactive=no'),
    ("psf", '"fixed", "mag1", "pst1", "psf1", "pst2", "psg1", interactive=no, showplots=no'),
    ("allstar", '"im", "mag1", "psf1", "als1", "arj1", "sub1", cache=yes'),
    ("substar", '"fixed", "als1", "pst2", "psf1", "only"'),
    ("psf", '"only", "mag1", "pst2", "psf2", "pst3", "psg2", interactive=no, showplots=no'),
    ("allstar", '"im", "mag1", "psf2", "als2", "arj2", "sub2", cache=yes'),
    ("daofind", '"sub2", "coo2", interactive=no'),
    ("phot", '"sub2", "coo2", "mag2", "", interactive=no, radplots=no'),
    ("pfmerge", '"als2,mag2", "all"'),
    ("prenumber", '"all"'),
    ("allstar", '"im", "all", "psf2", "als3", "arj3", "sub3", cache=yes'),
)
"""Tasks and their arguments. `fixed` has its bad pixels filled, since a PSF star near one would spoil the PSF."""


class Allstar(Rival):
    """DAOPHOT and ALLSTAR of IRAF."""

    name: ClassVar[str] = "allstar"
    settings = SETTINGS

    def missing(self) -> tuple[str, ...]:
        """Return the program, or the package of tasks, that is not there."""
        cl = program(*PROGRAMS)
        if cl is None:
            return (f"program {PROGRAMS[0]}",)
        root = Path("/usr/lib/iraf")
        tasks = [root / "noao" / name / "x_daophot.e" for name in ("bin", "bin.linux64", "bin.linux")]
        return () if any(task.exists() for task in tasks) or not root.exists() else ("package iraf-noao",)

    def version(self) -> str:
        """Return the version of IRAF."""
        said = output_of([program(*PROGRAMS) or PROGRAMS[0], "-v"])
        return f"IRAF {said.split()[-1].removeprefix('V')}"

    def commands(self, field: Field, work: Path, limits: Limits) -> list[list[str]]:
        """Write the images and the script."""
        fits.writeto(work / "im.fits", np.where(field.bad, BAD, field.data).astype(np.float32))
        fits.writeto(work / "fixed.fits", field.filled)
        (work / "fit.cl").write_text(self.script(field))
        cl = program(*PROGRAMS) or PROGRAMS[0]
        # it wants a home of its own to write to, and its tasks as lines on standard input
        home = ["env", f"HOME={work}", "USER=user", "TERM=dumb"]
        return [[*home, "sh", "-c", f'cd "$0" && {cl} < fit.cl', str(work)]]

    def script(self, field: Field) -> str:
        """Return the lines that IRAF is given."""
        fwhm = field.fwhm
        parameters: dict[str, Any] = {
            "datapars.fwhmpsf": fwhm,
            "datapars.sigma": field.noise,
            "datapars.datamin": max(field.sky - self["datamin_sigma"] * field.noise, 0.5 * BAD),
            "datapars.datamax": self["datamax_part"] * min(field.saturation, 1e30),
            "datapars.readnoise": field.read_noise,
            "datapars.epadu": field.gain,
            "findpars.threshold": self["threshold"],
            "centerpars.calgorithm": "none",
            "fitskypars.salgorithm": self["salgorithm"],
            "fitskypars.annulus": self["annulus_fwhm"] * fwhm,
            "fitskypars.dannulus": self["dannulus"],
            "photpars.apertures": f"{self['aperture_fwhm'] * fwhm:.2f}",
            "photpars.zmag": ZERO_MAG,
            "daopars.function": self["function"],
            "daopars.varorder": self["varorder"],
            "daopars.nclean": self["nclean"],
            "daopars.matchrad": fwhm,
            "daopars.psfrad": self["psfrad_fwhm"] * fwhm,
            "daopars.fitrad": self["fitrad_fwhm"] * fwhm,
            "daopars.maxgroup": self["maxgroup"],
            "daopars.maxnstar": self["maxnstar"],
        }
        lines = ['set imtype = "fits"', "noao", "digiphot", "daophot"]
        lines += [f"{name} = {_literal(value)}" for name, value in parameters.items()]
        for task, text in STEPS:
            arguments = text.format(psf_stars=self["psf_stars"])
            quiet = {"prenumber": "", "pfmerge": ", verbose=no"}.get(task, f", {QUIET}")
            lines.append(f"{task} ({arguments}{quiet})")
        return "\n".join([*lines, "logout"]) + "\n"

    def catalogue(self, field: Field, work: Path) -> Stars:
        """Return the stars of the last ALLSTAR."""
        return stars_of(work / "als3")


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def stars_of(path: Path) -> Stars:
    """Return the stars of an ALLSTAR file: pixels begin at 1, brightness is in magnitudes."""
    found = Table.read(path, format="ascii.daophot")
    x, y, mag, err = (_plain(found[name]) for name in ("XCENTER", "YCENTER", "MAG", "MERR"))
    flux = 10 ** (-0.4 * (mag - ZERO_MAG))
    return stars(x - 1, y - 1, flux, flux * err * np.log(10) / 2.5)


def _plain(column: Any) -> F64:
    """Return a column, what IRAF calls INDEF as NaN."""
    return np.ma.filled(np.ma.asarray(column, float), np.nan)
