"""Source Extractor with a PSF from PSFEx: detect, build the PSF, detect again and fit it."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from astropy.io import fits
from astropy.table import Table

from benchmarks.rivals.base import Field, Limits, Rival, Setting, output_of, program, stars
from benchmarks.score import Stars

PROGRAMS = ("source-extractor", "sex")
"""Names of the program in Debian and elsewhere."""
APT = ("source-extractor", "psfex")

SETTINGS = {
    "threshold": Setting(1.5, "sigma, of the first detection; its own default"),
    "filter": Setting("gauss", "of the first detection: smooth profiles give clean stars for PSFEx"),
    "crowded_threshold": Setting(2.0, "sigma, of the second; its notes ask for a high one with mexhat filters"),
    "crowded_filter": Setting("mexhat", "of the second: its notes recommend it for crowded fields; F1 > 10 on "
                                        "`dense` is 0.62, and 0.36 with a Gaussian of the same width"),
    "filter_fwhm": Setting(1.15, "least width of a filter in FWHM: narrower ones find peaks in noise and rings"),
    "minarea": Setting(3, "pixels above the threshold; the default of 5 is for galaxies"),
    "deblend_nthresh": Setting(64, "levels; twice the default, for crowding"),
    "deblend_mincont": Setting(0.0005, "a tenth of the default, for crowding"),
    "back_size": Setting(64, "pix; its own default"),
    "aperture_fwhm": Setting(2.5, "diameter of the aperture that normalises the PSF, as PSFEx advises"),
    "psf_size": Setting(45, "side of the PSF (pix): its halo fits in"),
    "psf_minsn": Setting(50, "least S/N of a PSF star; the default of 20 lets blends in"),
    "psf_degree": Setting(0, "the PSF is constant, and its user knows"),
    "undersampled_fwhm": Setting(3.0, "below this FWHM (pix), where PSFEx samples finer than the pixel, fluxes "
                                      "are FLUX_POINTSOURCE: FLUX_PSF loses three quarters of the stars; above "
                                      "it, FLUX_PSF has fewer false sources"),
}  # fmt: skip

COLUMNS = {
    "FLUX_PSF": ("XPSF_IMAGE", "YPSF_IMAGE", "FLUX_PSF", "FLUXERR_PSF"),
    "FLUX_POINTSOURCE": ("XMODEL_IMAGE", "YMODEL_IMAGE", "FLUX_POINTSOURCE", "FLUXERR_POINTSOURCE"),
}
"""Columns of x, y, flux and its error by kind of fit."""
FOR_PSFEX = (
    "NUMBER", "X_IMAGE", "Y_IMAGE", "FLUX_RADIUS", "SNR_WIN", "FLUX_APER(1)", "FLUXERR_APER(1)", "ELONGATION",
    "FLUX_MAX", "FLAGS",
)  # fmt: skip
FILTERS = {
    "gauss": ((1.5, 3), (2.0, 5), (2.5, 5), (3.0, 7), (4.0, 7), (5.0, 9)),
    "mexhat": ((1.5, 5), (2.0, 7), (2.5, 7), (3.0, 9), (4.0, 9), (5.0, 11)),
}
"""FWHM and size (pix) of the filters that come with it."""
FILTER_FOLDERS = (Path("/usr/share/source-extractor"), Path("/usr/share/sextractor"),
                  Path("/usr/local/share/sextractor"), Path("/opt/homebrew/share/sextractor"))  # fmt: skip


class SourceExtractor(Rival):
    """Source Extractor and PSFEx."""

    name: ClassVar[str] = "sextractor"
    settings = SETTINGS

    def missing(self) -> tuple[str, ...]:
        """Return the programs and the folder of filters that are not there."""
        lacking = [] if program(*PROGRAMS) else [f"program {PROGRAMS[0]}"]
        lacking += [] if program("psfex") else ["program psfex"]
        lacking += [] if _filter_folder() else [f"folder {FILTER_FOLDERS[0]}"]
        return tuple(lacking)

    def version(self) -> str:
        """Return the versions of both."""
        said = [output_of([program(*PROGRAMS) or PROGRAMS[0], "-v"]), output_of(["psfex", "-v"])]
        own, psfex = (text.partition("version")[2].split()[0] for text in said)
        return f"{own} + PSFEx {psfex}"

    def commands(self, field: Field, work: Path, limits: Limits) -> list[list[str]]:
        """Write the image, a map of usable pixels and the lists of columns."""
        image = np.where(field.bad, 0, field.data).astype(np.float32)
        fits.writeto(work / "image.fits", image)
        fits.writeto(work / "weight.fits", (~field.bad).astype(np.float32))
        side = self["psf_size"]
        (work / "first.param").write_text("\n".join([*FOR_PSFEX, f"VIGNET({side},{side})"]) + "\n")
        # the fit that is not used is not made: it would double the time
        (work / "second.param").write_text("\n".join(COLUMNS[self.kind(field)]) + "\n")
        (work / "empty.conf").write_text("")
        sex = program(*PROGRAMS) or PROGRAMS[0]
        first = [sex, str(work / "image.fits"), *_options(self._detection(field, work, "first"))]
        second = [sex, str(work / "image.fits"), *_options(self._detection(field, work, "second"))]
        psfex = ["psfex", str(work / "first.cat"), *_options(self._psf(work, limits))]
        return [first, psfex, second]

    def _detection(self, field: Field, work: Path, step: str) -> dict[str, Any]:
        crowded = step == "second"
        threshold = self["crowded_threshold" if crowded else "threshold"]
        filters = self["crowded_filter" if crowded else "filter"]
        options = {
            "c": work / "empty.conf",
            "PARAMETERS_NAME": work / f"{step}.param",
            "CATALOG_NAME": work / f"{step}.cat",
            "CATALOG_TYPE": "FITS_1.0" if crowded else "FITS_LDAC",
            "FILTER": "Y",
            "FILTER_NAME": filter_file(filters, self["filter_fwhm"] * field.fwhm),
            "DETECT_THRESH": threshold,
            "ANALYSIS_THRESH": threshold,
            "DETECT_MINAREA": self["minarea"],
            "DEBLEND_NTHRESH": self["deblend_nthresh"],
            "DEBLEND_MINCONT": self["deblend_mincont"],
            "BACK_SIZE": self["back_size"],
            "WEIGHT_TYPE": "MAP_WEIGHT",
            "WEIGHT_IMAGE": work / "weight.fits",
            "GAIN": field.gain,
            "SATUR_LEVEL": 0.98 * min(field.saturation, 1e30),
            "PIXEL_SCALE": 1,
            "SEEING_FWHM": field.fwhm,
            "PHOT_APERTURES": self["aperture_fwhm"] * field.fwhm,
            "MEMORY_OBJSTACK": 50_000,
            "MEMORY_PIXSTACK": 3_000_000,
            "VERBOSE_TYPE": "QUIET",
        }
        return options | ({"PSF_NAME": work / "first.psf"} if crowded else {})

    def _psf(self, work: Path, limits: Limits) -> dict[str, Any]:
        return {
            "c": work / "empty.conf",
            "PSF_SIZE": f"{self['psf_size']},{self['psf_size']}",
            "PSFVAR_DEGREES": self["psf_degree"],
            "SAMPLE_MINSN": self["psf_minsn"],
            "SAMPLE_FWHMRANGE": "1.0,20.0",
            "CHECKPLOT_DEV": "NULL",
            "CHECKPLOT_TYPE": "NONE",
            "CHECKIMAGE_TYPE": "NONE",
            "WRITE_XML": "N",
            "NTHREADS": limits.threads,
        }

    def catalogue(self, field: Field, work: Path) -> Stars:
        """Return its stars, with the flux that suits the sampling."""
        return stars_of(work / "second.cat", self.kind(field))

    def kind(self, field: Field) -> str:
        """Return the fit of `COLUMNS` that suits the sampling."""
        return "FLUX_POINTSOURCE" if field.fwhm < self["undersampled_fwhm"] else "FLUX_PSF"


def stars_of(path: Path, kind: str) -> Stars:
    """Return the stars of a catalogue, whose pixels begin at 1, with the fit of a kind of `COLUMNS`."""
    found = Table.read(path)
    x, y, flux, err = (found[name] for name in COLUMNS[kind])
    return stars(x - 1, y - 1, flux, err)


def _options(values: dict[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in (f"-{name}", str(value))]


def filter_file(kind: str, least: float) -> Path:
    """Return the filter of a kind that is just wider than `least` (pix), or the widest."""
    fitting = [entry for entry in FILTERS[kind] if entry[0] >= least]
    width, size = fitting[0] if fitting else FILTERS[kind][-1]
    return (_filter_folder() or FILTER_FOLDERS[0]) / f"{kind}_{width}_{size}x{size}.conv"


def _filter_folder() -> Path | None:
    return next((folder for folder in FILTER_FOLDERS if (folder / "mexhat_5.0_11x11.conv").exists()), None)
