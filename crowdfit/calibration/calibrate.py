"""A catalogue gets calibrated magnitudes, and every part of their error a column of its own.

    mag_cal = zero_point - 2.5 log10(flux) - aperture_correction + colour_term (colour - pivot) - A(filter)

Random errors and those of the calibration are kept apart (P058, P064): the former average out over stars, the latter
shift all of them together.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from astropy import units as u
from numpy.typing import NDArray

from crowdfit.calibration.columns import CALIBRATED_COLUMNS, FLUX_UNIT
from crowdfit.calibration.extinction import coefficient, read_ebv
from crowdfit.calibration.options import Calibration
from crowdfit.calibration.references import aperture_correction, read_table
from crowdfit.calibration.units import jansky_of_ab, st_minus_ab, vega_to_ab
from crowdfit.calibration.zeropoints import (
    ZeroPoint,
    facts_of,
    pivot_of,
    vega_offset_of,
    zero_point_of,
)
from crowdfit.errors import InputError
from crowdfit.io.hdus import sha256_of
from crowdfit.robust import scatter

if TYPE_CHECKING:
    from astropy.table import QTable, Table

__all__ = ["Calibrator", "calibrate", "colour_of", "column_of", "prepare"]

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]

MAG: Final = 2.5 / np.log(10)
FAINT: Final = 20.0
"""Stars below this S/N tell the uncertainty of the sky; above it the error of the PSF outweighs it."""
LEAST: Final = 30
"""With fewer such stars the uncertainty of the sky is not measured."""
N_EFF: Final = np.pi / 1.18**2
"""Effective area of a PSF over the square of the column fwhm."""
CONSTANT_COSTS: Final = N_EFF / 4**2
"""Share of flux_lbs_err^2 that the free constant costs: effective area over that of the stamp, 4 FWHM wide."""


FIT_PARTS: Final = (
    "flux_err_isolated", "flux_err_marginal", "flux_err_sky", "flux_err_psf", "flux_err_confusion"
)  # fmt: skip
"""Columns of a fit that say what `flux_err` is made of."""


class Parts(NamedTuple):
    """Errors of fluxes (n,; image unit): noise of pixels, other stars in the list or not, sky, and PSF."""

    noise: F64
    blend: F64
    sky: F64
    psf: F64


@dataclass(frozen=True, eq=False)
class Calibrator:
    """What is known before any flux is: zero point, corrections and coefficient of the extinction.

    Parameters
    ----------
    options : Calibration
    facts : mapping of str to str
        Metadata of the catalogue, keys in capitals.
    zero_point : ZeroPoint
    aperture : float
        Correction to total light (mag, positive).
    extinction : float
        A(filter) / E(B-V); 0 without a correction.
    notes : tuple of str
        What was used.
    """

    options: Calibration
    facts: Mapping[str, str]
    zero_point: ZeroPoint
    aperture: float
    extinction: float
    notes: tuple[str, ...]

    def apply(self, catalog: "Table") -> "QTable":
        """Return the catalogue with the columns of `CALIBRATED_COLUMNS`; older ones of that name are replaced.

        Raises
        ------
        InputError
            A column that the options name is missing.
        """
        flux, flux_err = column_of(catalog, self.options.flux), error_of(catalog, self.options.flux)
        colour, colour_err = self._colour_term(catalog)
        extinction, extinction_err = self._extinction(catalog)
        correction = -self.aperture + colour - extinction
        with np.errstate(divide="ignore", invalid="ignore"):
            mag = np.where(flux > 0, self.zero_point.value - 2.5 * np.log10(flux), np.nan) + correction
            relative = np.where(flux > 0, MAG / flux, np.nan)
        parts_of_fit = self._parts(catalog, flux, flux_err)
        random = relative * parts_of_fit.noise * self.options.noise_factor
        values: dict[str, F64] = {"mag_cal": mag, "mag_cal_err": random}
        if (jansky := self._jansky()) is not None:
            scale = jansky * float(u.Jy.to(self.options.flux_unit)) * 10 ** (-0.4 * correction)
            values |= {"flux_cal": flux * scale, "flux_cal_err": flux_err * self.options.noise_factor * scale}
        ones = np.where(flux > 0, 1.0, np.nan)
        values |= {
            "mag_err_blend": relative * parts_of_fit.blend,
            "mag_err_sky": relative * parts_of_fit.sky,
            "mag_err_psf": ones * np.hypot(MAG * self.options.psf_err, relative * parts_of_fit.psf),
            "mag_err_aperture": ones * self.options.aperture_correction_err,
            "mag_err_colour": ones * colour_err,
            "mag_err_extinction": ones * extinction_err,
            "mag_err_zero_point": ones * self.zero_point.error,
        }
        systematic = ("psf", "aperture", "colour", "extinction", "zero_point")
        values["mag_err_sys"] = ones * _quadrature(*(values[f"mag_err_{name}"] for name in systematic))
        parts = ("mag_cal_err", "mag_err_blend", "mag_err_sky", "mag_err_sys")
        values["mag_err_total"] = np.where(
            np.isfinite(random), _quadrature(*(values[name] for name in parts)), np.nan
        )
        return self._table(catalog, values)

    def _colour_term(self, catalog: "Table") -> tuple[F64, F64]:
        """Return what the colour term adds (mag) to each star, and its error; 0 without one."""
        options, none = self.options, np.zeros(len(catalog))
        if options.colour is None:
            return none, none
        colour = colour_of(catalog, options.colour)
        away = colour - options.colour_pivot
        known = np.isfinite(away)
        spread = scatter(away[known]) if known.any() else 0.0
        typical = float(np.median(away[known])) if known.any() else 0.0
        # a star without a colour gets the term of the median one, and the spread of colours as its error
        lost = abs(options.colour_term) * spread
        term = options.colour_term * np.where(known, away, typical)
        return term, np.hypot(
            np.abs(away, where=known, out=none + abs(typical)) * options.colour_term_err, ~known * lost
        )

    def _extinction(self, catalog: "Table") -> tuple[F64, F64]:
        """Return the extinction (mag) of each star and its error; 0 without a correction."""
        ebv = self.options.ebv
        if ebv is None:
            excess = np.zeros(len(catalog))
        elif isinstance(ebv, Path):
            excess = read_ebv(ebv, column_of(catalog, "ra"), column_of(catalog, "dec"))
        else:
            excess = np.full(len(catalog), float(ebv))
        extinction = self.extinction * excess
        return extinction, extinction * self.options.ebv_err

    def _parts(self, catalog: "Table", flux: F64, flux_err: F64) -> "Parts":
        """Return what the error of the fluxes is made of.

        A catalogue of `crowdfit fit` says so itself, and its `flux_err` is the sum. One without these columns has the
        error of pixels alone, to which the others come.
        """
        named, none = set(catalog.colnames), np.full(len(flux), np.nan)
        is_fit = self.options.flux == "flux"
        if is_fit and set(FIT_PARTS) <= named:
            isolated, marginal, sky, psf, confusion = (column_of(catalog, name) for name in FIT_PARTS)
            blend = np.sqrt(np.maximum(marginal**2 - isolated**2, 0) + confusion**2)
            return Parts(isolated, blend, self._given_sky(catalog, sky), psf)
        blend = none
        if is_fit and "flux_err_marginal" in named:
            blend = np.sqrt(np.maximum(column_of(catalog, "flux_err_marginal") ** 2 - flux_err**2, 0))
        sky = none
        if is_fit and self.options.sky_err is None and {"flux_lbs", "flux_lbs_err"} <= named:
            sky = np.full(len(flux), _sky_scatter(catalog, flux, flux_err))
        return Parts(flux_err, blend, self._given_sky(catalog, sky), np.zeros(len(flux)))

    def _given_sky(self, catalog: "Table", sky: F64) -> F64:
        """Return the error of the flux (image unit) from that of the sky which the options give, else `sky`."""
        if self.options.sky_err is None:
            return sky
        if "fwhm" not in catalog.colnames:
            return np.full(len(sky), np.nan)
        return N_EFF * column_of(catalog, "fwhm") ** 2 * self.options.sky_err

    def _jansky(self) -> float | None:
        """Return the flux density (Jy) of one image unit; None where the system cannot be tied to AB."""
        try:
            if self.zero_point.system == "Vega":
                offset, _ = vega_offset_of(self.facts, self.options)
                return float(jansky_of_ab(vega_to_ab(self.zero_point.value, offset)))
            if self.zero_point.system == "ST":
                return float(
                    jansky_of_ab(self.zero_point.value - st_minus_ab(pivot_of(self.facts, self.options)))
                )
        except InputError:
            log.info(
                "flux_cal is left out: %s magnitudes of this filter cannot be tied to AB",
                self.zero_point.system,
            )
            return None
        return float(jansky_of_ab(self.zero_point.value))

    def _table(self, catalog: "Table", values: Mapping[str, F64]) -> "QTable":
        """Return the catalogue with the new columns at its end and the facts in its metadata."""
        from astropy.table import QTable  # noqa: PLC0415 - slow to import, and needed at the end only

        table = QTable(catalog, copy=True)
        table.remove_columns([entry.name for entry in CALIBRATED_COLUMNS if entry.name in table.colnames])
        for entry in CALIBRATED_COLUMNS:
            if entry.name not in values:
                continue
            unit = self.options.flux_unit if entry.unit == FLUX_UNIT else entry.unit
            table[entry.name] = u.Quantity(values[entry.name], unit)
            table[entry.name].info.description = entry.text
            table[entry.name].info.meta = {"ucd": entry.ucd}
        table.meta |= self._metadata()
        return table

    def _files(self) -> list[Path]:
        """Return the tables and maps that were used."""
        used = self.options
        table = used.zero_points if used.zero_point is None else None
        named = (table, used.vega_offsets, used.apcorr, used.ebv)
        return [path for path in named if isinstance(path, Path)]

    def _metadata(self) -> dict[str, str]:
        facts = {
            "mag_system": self.zero_point.system,
            "zero_point": f"{self.zero_point.value:.6f}",
            "zero_point_err": f"{self.zero_point.error:.6f}" if np.isfinite(self.zero_point.error) else "",
            "zero_point_from": self.zero_point.source,
            "calibrated_column": self.options.flux,
            "aperture_correction": f"{self.aperture:.6f}" if self.aperture else "",
            "extinction_coefficient": f"{self.extinction:.6g}" if self.extinction else "",
            "ebv": "" if self.options.ebv is None else str(self.options.ebv),
            "colour": self.options.colour or "",
            "colour_term": f"{self.options.colour_term:.6g}" if self.options.colour else "",
            "calibration_notes": "\n".join(self.notes),
            "calibration_files": "\n".join(f"{sha256_of(path)}  {path.name}" for path in self._files()),
        }
        return {key: value for key, value in facts.items() if value}


def prepare(
    meta: Mapping[str, object], options: Calibration, label: str = "calibration"
) -> Calibrator | None:
    """Return what calibrates catalogues with this metadata; None where there is no zero point and nobody wants one.

    Everything that can be refused is refused here, before any work is done.

    Parameters
    ----------
    meta : mapping
        Metadata of the catalogue, or of the exposure it will be made from (`crowdfit.provenance.metadata_of`).
    options : Calibration
    label : str
        For messages.

    Raises
    ------
    InputError
        Settings that need a zero point without one, and tables and facts that are missing.
    """
    facts = facts_of(meta)
    zero_point = zero_point_of(facts, options)
    if zero_point is None:
        if options != Calibration():
            raise InputError(
                f"{label}: no zero point in the header (image unit {facts.get('UNIT') or 'not named'}; "
                "looked for PIXAR_SR "
                "or a WCS with MJy/sr, PHOTMJSR, PHOTFLAM and PHOTPLAM, MAGZERO, MAGZPT); set "
                "calibration.zero_point or "
                "calibration.zero_points"
            )
        log.info("%s: no zero point in the header: magnitudes are instrumental", label)
        return None
    notes = [f"zero point {zero_point.value:.4f} {zero_point.system}: {zero_point.source}"]
    aperture = options.aperture_correction
    if options.apcorr is not None:
        found = aperture_correction(
            read_table(options.apcorr, "APCORR"), facts, options.apcorr,
            eefraction=options.eefraction, radius=options.aperture_radius, annulus=options.sky_annulus,
        )  # fmt: skip
        aperture += 2.5 * float(np.log10(found.factor))
        notes.append(f"correction to total light: {found.note}")
    extinction = 0.0
    if options.ebv is not None:
        extinction = (
            options.extinction
            if options.extinction is not None
            else coefficient(pivot_of(facts, options), options.rv)
        )
        notes.append(f"extinction: {extinction:.4g} E(B-V)")
    for note in notes:
        log.info("%s: %s", label, note)
    return Calibrator(options, facts, zero_point, aperture, extinction, tuple(notes))


def calibrate(catalog: "Table", options: Calibration | None = None, label: str = "catalogue") -> "QTable":
    """Return a catalogue with calibrated magnitudes and their error budget.

    Parameters
    ----------
    catalog : Table
        As `fit_image` makes it, with its metadata.
    options : Calibration, optional
        Default: the zero point that the header of the image told.
    label : str
        For messages.

    Raises
    ------
    InputError
        There is no zero point, or something that the options name is missing.
    """
    options = Calibration() if options is None else options
    found = prepare(catalog.meta, options, label)
    if found is None:
        raise InputError(
            f"{label}: the image that it was made from told no zero point; set calibration.zero_point or "
            "calibration.zero_points, or give a reference catalogue"
        )
    return found.apply(catalog)


def column_of(catalog: "Table", name: str) -> F64:
    """Return a numeric column (n,) as float64 without unit, NaN where it is masked.

    Raises
    ------
    InputError
        It is missing or holds no numbers.
    """
    if name not in catalog.colnames:
        raise InputError(f"catalogue: has no column {name}; it has {', '.join(catalog.colnames)}")
    values: Any = catalog[name]
    values = getattr(values, "value", values)
    try:
        return np.asarray(np.ma.filled(np.ma.asarray(values, np.float64), np.nan), np.float64)
    except (TypeError, ValueError) as exc:
        raise InputError(f"catalogue: column {name} holds no numbers; name another one") from exc


def error_of(catalog: "Table", flux: str) -> F64:
    """Return the errors (n,) of a column of fluxes: NAME_err, or `aper_flux_err_2fwhm` for `aper_flux_2fwhm`.

    Raises
    ------
    InputError
        As `column_of`.
    """
    of_aperture = flux.replace("_flux_", "_flux_err_", 1)
    return column_of(catalog, of_aperture if of_aperture in {*catalog.colnames} - {flux} else f"{flux}_err")


def colour_of(catalog: "Table", text: str) -> F64:
    """Return a colour (n,): a column, or the difference of two written with a minus sign."""
    name = text.strip()
    if name in catalog.colnames:
        return column_of(catalog, name)
    first, minus, second = name.partition("-")
    if not minus:
        return column_of(catalog, name)
    return column_of(catalog, first.strip()) - column_of(catalog, second.strip())


def _sky_scatter(catalog: "Table", flux: F64, flux_err: F64) -> float:
    """Return the error of fluxes (image unit) that the sky causes: the scatter of flux_lbs beyond its errors (P063).

    A sky that is off by d moves flux by d n_eff and flux_lbs not at all, so their difference scatters by the error
    wanted and by what a free constant costs.
    """
    free, free_err = column_of(catalog, "flux_lbs"), column_of(catalog, "flux_lbs_err")
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(free) & (free_err > 0) & (flux > 0) & (flux < FAINT * flux_err)
    if np.count_nonzero(usable) < LEAST:
        return np.nan
    off = (free - flux)[usable]
    seen = scatter(off)
    expected = CONSTANT_COSTS * float(np.median(free_err[usable] ** 2))
    return float(np.sqrt(max(seen**2 - expected, 0)))


def _quadrature(*parts: F64) -> F64:
    """Return the root of the sum of squares; parts that are NaN are not known and left out."""
    return np.asarray(np.sqrt(sum(np.nan_to_num(part) ** 2 for part in parts)), np.float64)
