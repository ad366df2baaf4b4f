"""The noise of sky and detector, without the photons of the stars, from whatever comes with the image.

An error plane usually holds the photon noise of everything seen in a pixel. Weighting or detecting with it
hides stars and pulls bright ones low (P059, N006), so the part that grows with starlight is taken out here:

    err^2 = s (sky + stars) + r^2,       s = 1 / gain

`s` is the median growth of err^2 with brightness over bright pixels, both counted from their local medians.
Then it matters where err came from. If it was computed from the noisy *data*, err^2 - s data = r^2 exactly in
every pixel, and s sky is added back. If it was computed from a noiseless model, err^2 carries no noise,
so its local lower envelope is s sky + r^2 with the little light that stars leave between them.
Both are good to 1-2 % of the error in fields as dense as one star per 4 resolution elements.

Where a file says what err^2 is made of (VAR_POISSON, VAR_RNOISE, VAR_FLAT), only the photons are treated so.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from crowdfit.errors import InputError
from crowdfit.io.headers import Facts
from crowdfit.io.local import local_percentile
from crowdfit.io.options import InputOptions
from crowdfit.robust import MAD

__all__ = [
    "Noise",
    "Parts",
    "image_noise",
    "noise_from_errors",
    "noise_from_image",
    "noise_from_parts",
    "noise_from_weights",
    "sky_floor",
]

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

SMOOTH: Final = 1.5
"""Gaussian sigma (pix): suppresses pixel noise before a low percentile is taken, without mixing in stars."""
FLOOR: Final = 1.0
"""Percentile of the smoothed image taken as sky: 2 % low where empty, 3 % high in the densest fields."""
ENVELOPE: Final = 1.0
"""Percentile of a noiseless err^2 taken as its value on empty sky."""
FAINT: Final = 25.0
"""Pixels whose smoothed value is below this local percentile are the emptiest ones."""
BRIGHT: Final = (20.0, 10.0, 5.0)
"""Significances above which pixels show the growth of err; the first that leaves enough pixels."""
LEAST_BRIGHT: Final = 50
LOOSE: Final = 0.5
"""Largest relative scatter of the growth for which brightness explains it."""
AGREES: Final = 0.2
"""A header gain within this fraction of the measured one is right; photon transfer is measured no better."""
ODD: Final = 6.0
"""Pixels whose err exceeds what sky and stars explain by so many sigma are noisy in themselves."""
UNSURE: Final = 0.05
"""Share of the starlight that may remain in err^2 - s data through an error of s."""
SECOND_DIFFERENCE: Final = np.sqrt(6.0)
"""Scatter of a[i-1] - 2 a[i] + a[i+1] for white noise of unit sigma."""


@dataclass(frozen=True, eq=False)
class Noise:
    """Variance of sky and detector, and the gain that goes with it.

    Parameters
    ----------
    variance : ndarray (ny, nx) float32
        Without photons of stars (image unit^2); infinite where not usable.
    gain : float
        Electrons per image unit for the photons of the stars; infinite leaves them out.
    notes : list of str
        What was done.
    """

    variance: F32
    gain: float = np.inf
    notes: list[str] = field(default_factory=list)


def noise_from_errors(data: F32, err: F32, good: Mask, facts: Facts, options: InputOptions) -> Noise:
    """Take the photons of the stars out of an error plane.

    Parameters
    ----------
    data, err : ndarray (ny, nx) float32
        Image and 1-sigma errors (image unit).
    good : ndarray (ny, nx) bool
        Usable pixels; `err` is finite and positive there.
    facts, options
        Gain, and whether `err` is total or sky noise where the user knows.
    """
    variance = np.where(good, err, np.inf) ** 2
    header_gain = facts.gain or np.inf
    if options.err_holds == "sky":
        return Noise(variance, header_gain, ["noise: ERR as it is, sky and detector only as configured"])
    growth = _growth(data, variance, good)
    if growth is None and options.err_holds == "total" and np.isfinite(header_gain):
        growth = 1 / header_gain
    if growth is None:
        text = "noise: ERR as it is, for it does not grow with brightness"
        return Noise(variance, header_gain, [text + _photons(header_gain, facts)])
    agrees = abs(header_gain * growth - 1) < AGREES
    gain = header_gain if agrees else 1 / growth
    notes = [
        f"noise: ERR less the photons of the stars ({1 / growth:.4g} electrons per {facts.unit or 'unit'})"
    ]
    if np.isfinite(header_gain) and not agrees:
        notes.append(
            f"gain {gain:.4g} as ERR shows, not {header_gain:.4g}; set input.err_holds to change that"
        )
    return Noise(_without_stars(data, variance, good, growth), gain, notes)


@dataclass(frozen=True, eq=False)
class Parts:
    """What err^2 is made of, (ny, nx) float32 (image unit^2): photons, read noise, flat field (0 where not known)."""

    photons: F32
    detector: F32
    flat: F32


def noise_from_parts(
    data: F32, parts: Parts, good: Mask, facts: Facts, options: InputOptions
) -> Noise | None:
    """Take the photons of the stars out of the variance of photons, and add the detector's as it is (P059).

    The flat-field variance is a share of the signal squared; the share of the sky is kept.

    Parameters
    ----------
    data : ndarray (ny, nx) float32
        Image.
    parts : Parts
        Finite where `good`.
    good : ndarray (ny, nx) bool
        Usable pixels.
    facts, options
        A gain that the user gave wins over that of the photons.

    Returns
    -------
    Noise or None
        None where the photons show no growth with the signal, so that they cannot be told from the rest.
    """
    total = np.where(good, parts.photons + parts.detector + parts.flat, np.inf)
    photons = np.where(good, parts.photons, 0)
    growth = _growth(data, photons, good, total)
    if growth is None:
        sky, level = float(np.median(data[good])), float(np.median(photons[good]))
        growth = level / sky if sky > np.sqrt(np.median(total[good])) and level > 0 else None
    if growth is None:
        return None
    floor = local_percentile(_smoothed(data, good), good, FLOOR)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(good & (data > floor), np.clip(floor / data, 0, 1), 1) ** 2
    rest = _without_stars(data, photons, good, growth)
    gain = options.gain or 1 / growth
    per = f"{gain:.4g} electrons per {facts.unit or 'unit'}"
    text = f"noise: VAR_POISSON less the photons of the stars ({per}), and VAR_RNOISE"
    return Noise(_where(good, parts.detector + rest + share * parts.flat), gain, [text])


def noise_from_weights(
    data: F32, weight: F32, err: F32 | None, good: Mask, facts: Facts, options: InputOptions
) -> Noise:
    """Take the noise from an inverse-variance plane, scaled to the error plane when there is one (N005).

    Parameters
    ----------
    data, weight : ndarray (ny, nx) float32
        Image, and weights that are positive where `good`.
    err : ndarray (ny, nx) float32 or None
        Total errors; then only the pattern of the weights is used.
    good : ndarray (ny, nx) bool
        Usable pixels.
    facts, options
        Gain, and on which pixels weights are scaled.
    """
    variance = np.divide(1, weight, out=np.full_like(weight, np.inf), where=good)
    gain = facts.gain or np.inf
    measured = image_noise(data, good)
    if err is not None:
        where = good & (_emptiest(_smoothed(data, good), good) if options.wht_scale_on == "sky" else True)
        scale = float(np.median(err[where] / np.sqrt(variance[where])))
        growth = _growth(data, np.where(good, err, np.inf) ** 2, good)
        gain = gain if growth is None else 1 / growth
        text = f"noise: weights scaled by {scale:.4g} to ERR on {options.wht_scale_on} pixels"
    else:
        implied = float(np.sqrt(np.median(variance[good])))
        is_off = not 1 / 3 < implied / measured < 3
        scale = measured / implied if is_off else 1.0
        text = "noise: weights as inverse variance"
        if is_off:
            text = (
                f"noise: weights imply errors of {implied:.3g}, scaled to the {measured:.3g} the image shows"
            )
    return Noise(_where(good, variance * np.float64(scale) ** 2), gain, [text + _photons(gain, facts)])


def noise_from_image(data: F32, good: Mask, facts: Facts) -> Noise:
    """Build the noise from sky, gain and read noise, or measure it on the emptiest pixels.

    Parameters
    ----------
    data : ndarray (ny, nx) float32
        Image.
    good : ndarray (ny, nx) bool
        Usable pixels.
    facts : Facts
        Gain (electrons per image unit) and read noise (electrons).
    """
    measured = image_noise(data, good)
    sky = sky_floor(data, good)
    # a sky within the noise of zero has been subtracted, and its photons can no longer be counted
    if facts.gain and facts.rdnoise is not None and np.median(sky) > measured:
        read = facts.rdnoise / facts.gain
        # not `read**2`, which raises where it overflows
        variance = np.maximum(sky, 0).astype(np.float64) / facts.gain + read * read
        text = f"noise: sky level, gain {facts.gain:.4g}, read noise {facts.rdnoise:.4g} electrons (no ERR)"
        return Noise(_where(good, variance), facts.gain, [text])
    gain = facts.gain or np.inf
    text = f"noise: {measured:.4g} per pixel, measured on the emptiest pixels of the image (no ERR)"
    return Noise(_where(good, np.full(data.shape, measured**2)), gain, [text + _photons(gain, facts)])


def image_noise(data: F32, good: Mask) -> float:
    """Return the noise per pixel from second differences along x on the emptiest pixels (image unit).

    Smooth sky and nebulae do not matter, and stars little.

    Raises
    ------
    InputError
        If the image has no noise at all.
    """
    steps = data[:, 2:] - 2 * data[:, 1:-1] + data[:, :-2]
    usable = good[:, 2:] & good[:, 1:-1] & good[:, :-2]
    chosen = steps[usable & _emptiest(_smoothed(data, good), good)[:, 1:-1]]
    for sample in (
        chosen,
        chosen[chosen != 0],
        steps[usable & (steps != 0)],
        data[good] - np.median(data[good]),
    ):
        if sample.size and (scatter := float(np.median(np.abs(sample)))) > 0:
            return MAD * scatter / float(SECOND_DIFFERENCE)
    raise InputError("no noise can be measured in the image; give an error plane")


def sky_floor(data: F32, good: Mask) -> F32:
    """Return the level between the stars (ny, nx; image unit): a low percentile of the smoothed image."""
    return local_percentile(_smoothed(data, good), good, FLOOR)


def _emptiest(smooth: F32, good: Mask) -> Mask:
    """Return the emptiest quarter of the usable pixels (ny, nx), chosen locally on the smoothed image."""
    return good & (smooth <= local_percentile(smooth, good, FAINT))


def _smoothed(data: F32, good: Mask) -> F32:
    """Return the image slightly smoothed, with unusable pixels filled by the local median."""
    filled = data if good.all() else np.where(good, data, local_percentile(data, good, 50))
    return np.asarray(ndimage.gaussian_filter(filled, SMOOTH, truncate=3))


def _growth(data: F32, variance: F32, good: Mask, total: F32 | None = None) -> float | None:
    """Return by how much a variance grows per image unit, or None when brightness does not explain it.

    What is bright is judged by the total variance, where that is another one.
    """
    base = local_percentile(variance, good, 50)
    excess = data - local_percentile(data, good, 50)
    noise = np.sqrt(variance if total is None else total)
    significance = np.divide(excess, noise, out=np.zeros_like(excess), where=good)
    for limit in BRIGHT:
        bright = good & (significance > limit)
        if np.count_nonzero(bright) >= LEAST_BRIGHT:
            break
    else:
        return None
    ratio = (variance[bright] - base[bright]) / excess[bright]
    growth = float(np.median(ratio))
    scatter = MAD * float(np.median(np.abs(ratio - growth)))
    return growth if growth > 0 and scatter < LOOSE * growth else None


def _without_stars(data: F32, variance: F32, good: Mask, growth: float) -> F32:
    """Return err^2 (ny, nx) less the photons of the stars, never below a quarter of its surroundings."""
    slope = np.float32(growth)
    rest = np.where(good, variance - slope * data, np.float32(0))
    smooth = _smoothed(data, good)
    if _follows_data(data, rest, _emptiest(smooth, good), good, growth):
        floor = local_percentile(smooth, good, FLOOR)
        sky = rest + slope * floor
        typical = local_percentile(sky, good, 50)
        starlight = slope * (data - floor)
        sky = np.where(UNSURE * starlight > typical, typical, sky)
    else:
        typical = local_percentile(variance, good, ENVELOPE)
        level = local_percentile(rest, good, 50)
        excess = rest - level
        is_odd = excess > ODD * slope * np.sqrt(np.where(good, variance, 1)) + UNSURE * slope * np.abs(data)
        sky = np.minimum(np.where(is_odd, typical + excess, typical), variance)
    return _where(good, np.maximum(sky, typical / 4))


def _follows_data(data: F32, rest: F32, empty: Mask, good: Mask, growth: float) -> bool:
    """Return whether err was computed from the noisy data, so that their noise cancels in `rest`.

    Else the pixel-to-pixel noise of the data appears in err^2 - s data with slope -s. Asked where `empty`.
    """
    usable = good[:, 2:] & good[:, 1:-1] & good[:, :-2] & empty[:, 1:-1]
    noise, echo = ((a[:, 2:] - 2 * a[:, 1:-1] + a[:, :-2])[usable].astype(np.float64) for a in (data, rest))
    keep = np.abs(noise) < 5 * MAD * np.median(np.abs(noise))
    power = float(np.sum(noise[keep] ** 2))
    return power == 0 or float(np.sum(echo[keep] * noise[keep])) / power > -growth / 3


def _where(good: Mask, variance: NDArray[np.floating]) -> F32:
    """Return a variance in single precision, infinite where not usable."""
    with np.errstate(over="ignore"):
        return np.where(good, variance.astype(np.float32), np.float32(np.inf))


def _photons(gain: float, facts: Facts) -> str:
    """Return how the photons of the stars are counted, as the end of a note."""
    if np.isinf(gain):
        return "; gain unknown, so the photon noise of the stars is left out (set input.gain)"
    return f"; stars add photon noise with {gain:.4g} electrons per {facts.unit or 'image unit'}"
