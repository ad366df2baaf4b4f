"""Units of flux: every number here is computed by hand."""

import numpy as np
import pytest

from crowdfit.calibration.bands import JWST_BANDS
from crowdfit.calibration.units import (
    FluxScale,
    ab_magnitude,
    ab_to_st,
    ab_to_vega,
    jansky_of_ab,
    vega_to_ab,
)
from crowdfit.errors import InputError

SVO_ZERO_POINTS = {  # Jy, another source than the offsets
    "F070W": 2768.40, "F090W": 2244.95, "F115W": 1746.12, "F200W": 757.65, "F277W": 430.14, "F356W": 271.39,
    "F410M": 208.75, "F444W": 184.10, "F560W": 115.29, "F770W": 65.08, "F1000W": 38.51, "F1500W": 17.12,
    "F2550W": 6.07,
}  # fmt: skip


@pytest.mark.parametrize(("jansky", "mag"), [(1, 8.90), (1e-6, 23.90), (1e-9, 31.40), (3630.7805, 0.0)])
def test_ab(jansky, mag):
    """M034: m_AB = -2.5 log10 f_nu - 48.60 (cgs) = -2.5 log10 f_nu[Jy] + 8.90."""
    assert float(ab_magnitude(jansky)) == pytest.approx(mag, abs=1e-6)
    assert float(-2.5 * np.log10(jansky * 1e-23) - 48.60) == pytest.approx(mag, abs=1e-6)
    assert float(jansky_of_ab(mag)) == pytest.approx(jansky, rel=1e-6)


def test_no_magnitude_of_nothing():
    assert np.isnan(ab_magnitude([0.0, -1.0, np.nan])).all()


@pytest.mark.parametrize(("band", "offset"), [("F444W", 3.204), ("F770W", 4.329)])
def test_sign_of_vega(band, offset):
    """M035: trap: m_Vega = m_AB - offset; with the sign of the notebook these are 6.4 and 8.7 mag wrong."""
    assert JWST_BANDS[band].ab_minus_vega == offset
    assert float(ab_to_vega(25.0, offset)) == pytest.approx(25.0 - offset)
    assert float(vega_to_ab(ab_to_vega(25.0, offset), offset)) == pytest.approx(25.0)
    # the infrared is past the peak of an A0 star: the same star has the smaller number in Vega magnitudes
    assert float(ab_to_vega(25.0, offset)) < 25.0


@pytest.mark.parametrize("band", SVO_ZERO_POINTS)
def test_offsets_against_another_source(band):
    """A star with the flux density of the Vega zero point has magnitude 0 to the uncertainty of the Vega spectrum."""
    mag = float(ab_to_vega(ab_magnitude(SVO_ZERO_POINTS[band]), JWST_BANDS[band].ab_minus_vega))
    assert mag == pytest.approx(0, abs=0.05)


def test_pivots_rise_and_offsets_with_them():
    """Trap: a list of widths in wide circulation is in another order than its filters; tables are keyed by name."""
    names = [name for name in JWST_BANDS if name not in ("F150W2", "F322W2")]
    pivots = [JWST_BANDS[name].pivot for name in names]
    assert pivots == sorted(pivots)
    for name, band in JWST_BANDS.items():
        assert band.pivot == pytest.approx(int(name[1:].rstrip("NMW2").ljust(3, "0")) / 100, rel=0.12)


def test_st():
    """m_ST - m_AB is 0 where both zero points have the same flux: 5475 Angstrom; +-5 log10 of the ratio elsewhere."""
    assert float(ab_to_st(20.0, 0.5475)) == pytest.approx(20.0, abs=0.002)
    assert float(ab_to_st(20.0, 5.475)) == pytest.approx(25.0, abs=0.002)


def test_surface_brightness_to_everything():
    """P011: 100 MJy/sr summed over pixels of 9.31e-14 sr is 9.31 uJy: 23.90 - 2.5 log10(9.31) = 21.4776 mag."""
    scale = FluxScale.of_mjy_per_sr(9.31e-14, 0.3925, exptime=42.947, gain=1.8, ab_minus_vega=3.204)
    expected = {
        "Jy": 9.31e-6, "uJy": 9.31, "nJy": 9310.0, "mJy": 9.31e-3, "AB": 21.47763, "Vega": 18.27363,
        "DN/s": 100 / 0.3925, "DN": 100 / 0.3925 * 42.947, "e-": 100 / 0.3925 * 42.947 * 1.8,
        "e-/s": 100 / 0.3925 * 1.8,
    }  # fmt: skip
    for unit, value in expected.items():
        assert float(scale.convert(100.0, unit)) == pytest.approx(value, rel=1e-6), unit


def test_what_is_missing_is_named():
    """P010: trap: no JWST header has the gain."""
    scale = FluxScale.of_mjy_per_sr(9.31e-14)
    with pytest.raises(InputError, match="PHOTMJSR"):
        scale.convert(1.0, "DN/s")
    with pytest.raises(InputError, match="R_GAIN"):
        FluxScale.of_mjy_per_sr(9.31e-14, 0.39).convert(1.0, "e-")
    with pytest.raises(InputError, match="zero point"):
        FluxScale().convert(1.0, "nJy")
    for unit in ("parsec", "rubbish"):
        with pytest.raises(InputError, match=f"{unit}.*no unit of flux"):
            scale.convert(1.0, unit)
