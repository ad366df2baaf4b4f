"""The columns that calibration adds to a catalogue, as data."""

from typing import Final

from crowdfit.catalog import Column

__all__ = ["CALIBRATED_COLUMNS", "FLUX_UNIT"]

FLUX_UNIT: Final = "flux unit"
"""Stands for the unit of `calibration.flux_unit`."""

_ERROR: Final = "stat.error;phot.mag"
_SYSTEMATIC: Final = "stat.error.sys;phot.mag"

CALIBRATED_COLUMNS: Final = (
    Column(
        "flux_cal", FLUX_UNIT, "f8", "phot.flux.density", "",
        "total flux density in calibration.flux_unit, corrected like mag_cal",
    ),
    Column("flux_cal_err", FLUX_UNIT, "f8", "stat.error;phot.flux.density", "", "random error of flux_cal, all parts"),
    Column(
        "mag_cal", "mag", "f8", "phot.mag", "",
        "calibrated total magnitude in the system MAG_SYSTEM of the metadata; NaN where the flux is not positive",
    ),
    Column("mag_cal_err", "mag", "f8", _ERROR, "", "random error of mag_cal: photons, detector, correlated noise"),
    Column("mag_err_blend", "mag", "f8", _ERROR, "", "what neighbours add, and stars that are not in the list"),
    Column("mag_err_sky", "mag", "f8", _ERROR, "", "from the uncertainty of the sky"),
    Column("mag_err_psf", "mag", "f8", _SYSTEMATIC, "", "from the PSF model (flux_err_psf), or PSF matching"),
    Column("mag_err_aperture", "mag", "f8", _SYSTEMATIC, "", "from the correction to total light"),
    Column("mag_err_colour", "mag", "f8", _SYSTEMATIC, "", "from the colour term"),
    Column("mag_err_extinction", "mag", "f8", _SYSTEMATIC, "", "from the extinction"),
    Column("mag_err_zero_point", "mag", "f8", _SYSTEMATIC, "", "from the zero point; NaN when it is not known"),
    Column("mag_err_sys", "mag", "f8", _SYSTEMATIC, "", "calibration: the five above, in quadrature"),
    Column("mag_err_total", "mag", "f8", _ERROR, "", "random, blend, sky and calibration, in quadrature"),
)  # fmt: skip
"""Every column that calibration adds, in order (P058, P064)."""
