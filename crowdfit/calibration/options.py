"""How fluxes become magnitudes; `calibration` in the configuration."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit.stages.base import STRICT

__all__ = ["Calibration"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Error = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Calibration:
    """Zero point, correction to total, colour term and extinction, with their errors.

    Without any setting the zero point comes from the header, and where that has none, magnitudes stay instrumental.
    """

    system: Literal["AB", "Vega", "ST"] = Field(
        default="AB",
        description="system of the magnitudes, and of a zero point given here, by table or reference",
    )
    flux_unit: Literal["Jy", "mJy", "uJy", "nJy"] = Field(default="uJy", description="unit of flux_cal")
    zero_point: Finite | None = Field(
        default=None,
        description="magnitude of a flux of one image unit; unset: from zero_points, else the header",
    )
    zero_point_err: Error | None = Field(
        default=None,
        description="its uncertainty in mag; unset: from the table or the fit, else that of the instrument",
    )
    zero_points: Path | None = Field(
        default=None,
        description="table with columns filter, zero_point and perhaps detector, zero_point_err; or a CRDS photom "
        "file, whose PHOTMJSR replaces that of the header",
    )
    vega_offset: Finite | None = Field(
        default=None,
        description="m_AB - m_Vega of the filter in mag; unset: from vega_offsets, else the built-in JWST table",
    )
    vega_offsets: Path | None = Field(
        default=None,
        description="CRDS abvegaoffset file (needs asdf), or a table with columns filter, abvega_offset",
    )
    wavelength: Positive | None = Field(
        default=None, description="pivot wavelength in um; unset: PHOTPLAM, else the built-in JWST table"
    )
    aperture_correction: Finite = Field(
        default=0.0, description="mag by which total light is brighter than the measured flux (positive)"
    )
    aperture_correction_err: Error = Field(default=0.0, description="its uncertainty in mag")
    apcorr: Path | None = Field(
        default=None, description="CRDS apcorr file, from which the correction to total light is taken"
    )
    eefraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="encircled energy of the apertures, a row of apcorr; unset: from aperture_radius",
    )
    aperture_radius: Positive | None = Field(
        default=None, description="radius of the apertures (or of the PSF that sums to 1) in detector pixels"
    )
    sky_annulus: tuple[Positive, Positive] | None = Field(
        default=None,
        description="inner and outer radius of the sky annulus in detector pixels; apcorr holds only with its own, "
        "else the light is divided by the encircled energy; unset: no annulus, the sky is far away",
    )
    ebv: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Path | None = Field(
        default=None,
        description="colour excess E(B-V) in mag, or a FITS image of it with a WCS; unset: no correction",
    )
    ebv_err: Error = Field(default=0.0, description="relative uncertainty of E(B-V) and its coefficient")
    extinction: Error | None = Field(
        default=None,
        description="A(filter) / E(B-V); unset: from the curve of Gordon et al. 2023 (needs dust_extinction)",
    )
    rv: Annotated[float, Field(ge=2.3, le=5.6)] = Field(
        default=3.1, description="A(V) / E(B-V) for that curve"
    )
    colour: str | None = Field(
        default=None,
        description="colour of the stars: a column, or two with a minus sign, such as mag_b-mag_v",
    )
    colour_term: Finite = Field(default=0.0, description="mag per mag of colour that is added")
    colour_term_err: Error = Field(default=0.0, description="its uncertainty")
    colour_pivot: Finite = Field(default=0.0, description="colour at which the colour term adds nothing")
    noise_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        default=1.0,
        description="factor on random errors for correlated noise, from empty apertures say (drizzled images)",
    )
    sky_err: Error | None = Field(
        default=None,
        description="uncertainty of the sky under a star, image unit per pixel; unset: flux_err_sky of the catalogue, "
        "or where it has none, from how far flux_lbs scatters beyond its errors",
    )
    psf_err: Error = Field(
        default=0.0, description="relative error of fluxes from the PSF model or PSF matching"
    )
    flux: str = Field(
        default="flux",
        min_length=1,
        description="column that is calibrated; its error is the column NAME_err, or aper_flux_err_2fwhm for "
        "aper_flux_2fwhm",
    )
