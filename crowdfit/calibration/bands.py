"""Pivot wavelengths and AB - Vega offsets of the JWST imaging filters, by filter name and never by position.

Public values of 2022 (grizli's band table). Sets of offsets differ by 0.006 to 0.04 mag with the spectrum taken for
Vega, so a CRDS reference file that the user has is to be preferred.
"""

from typing import Final, NamedTuple

__all__ = ["JWST_BANDS", "VEGA_ERROR", "Band"]

VEGA_ERROR: Final = 0.03
"""Uncertainty of the offsets (mag): the choice of the Vega spectrum."""


class Band(NamedTuple):
    """Pivot wavelength (um) and m_AB - m_Vega (mag) of a filter."""

    pivot: float
    ab_minus_vega: float


JWST_BANDS: Final = {
    name: Band(pivot, offset)
    for name, pivot, offset in (
        ("F070W", 0.704, 0.288), ("F090W", 0.902, 0.516), ("F115W", 1.154, 0.776), ("F140M", 1.405, 1.108),
        ("F150W", 1.501, 1.204), ("F162M", 1.627, 1.357), ("F164N", 1.645, 1.398), ("F150W2", 1.658, 1.139),
        ("F182M", 1.845, 1.561), ("F187N", 1.874, 1.630), ("F200W", 1.989, 1.674), ("F210M", 2.096, 1.785),
        ("F212N", 2.121, 1.807), ("F250M", 2.503, 2.122), ("F277W", 2.758, 2.286), ("F300M", 2.987, 2.457),
        ("F322W2", 3.232, 2.497), ("F323N", 3.237, 2.613), ("F335M", 3.362, 2.686), ("F356W", 3.568, 2.784),
        ("F360M", 3.624, 2.836), ("F405N", 4.052, 3.088), ("F410M", 4.082, 3.077), ("F430M", 4.280, 3.176),
        ("F444W", 4.404, 3.204), ("F460M", 4.626, 3.339), ("F466N", 4.654, 3.382), ("F470N", 4.708, 3.371),
        ("F480M", 4.816, 3.412), ("F560W", 5.633, 3.714), ("F770W", 7.636, 4.329), ("F1000W", 9.947, 4.905),
        ("F1130W", 11.309, 5.195), ("F1280W", 12.809, 5.441), ("F1500W", 15.048, 5.783), ("F1800W", 17.970, 6.172),
        ("F2100W", 20.801, 6.474), ("F2550W", 25.230, 6.900),
    )
}  # fmt: skip
