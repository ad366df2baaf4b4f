"""Positions of a catalogue checked against a reference list such as Gaia's, and refined.

Reference stars are brought to the epoch of the image: proper motion by `astropy`, parallax by the place of the Earth,
which stands for that of the telescope (L2 is 1 % farther out). The shift of the catalogue is found where most pairs
agree, however crowded the field; then shift, scales and rotation are fitted in the tangent plane to clipped pairs.
"""

import logging
import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord, get_body_barycentric
from astropy.table import QTable, Table
from astropy.time import Time
from numpy.typing import NDArray

from crowdfit.catalog import unit_of
from crowdfit.detections import fact, flag_bits, plain_column
from crowdfit.errors import InputError
from crowdfit.flags import bit
from crowdfit.match import mutual, voted_shift
from crowdfit.robust import MAD

__all__ = ["Alignment", "align", "epoch_of", "positions_at"]

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]

BAD: Final = ("saturated", "core_masked", "negative", "measure_failed", "edge")
"""Flags of stars that take no part."""
LEAST_SNR: Final = 10.0
MORE: Final = 5
"""So many times the number of reference stars are taken from the catalogue, the brightest."""
LEAST: Final = 3
"""With fewer pairs nothing is fitted."""
LINEAR: Final = 10
"""So many pairs are needed for scales and rotation; fewer give the shift alone."""
ROUNDS: Final = 10
CLIP: Final = 3.5
"""Pairs are clipped beyond so many standard deviations, from the median absolute deviation."""
ARCSEC: Final = 180 * 3600 / np.pi
GAIA_EPOCH: Final = 2016.0


@dataclass(frozen=True, eq=False)
class Alignment:
    """What turns the positions of a catalogue into those of the reference.

    Parameters
    ----------
    centre : tuple of float
        RA, Dec of the tangent point (deg).
    terms : ndarray (3, 2) float64
        Constant (arcsec), and the factors of xi and eta, for the corrections of xi and eta.
    n : int
        Pairs in the fit.
    before, after : float
        Root mean square distance of these pairs with the old and the new positions (arcsec).
    """

    centre: tuple[float, float]
    terms: F64
    n: int
    before: float
    after: float

    @property
    def shift(self) -> tuple[float, float]:
        """Shift at the centre, towards east and north (arcsec)."""
        return float(self.terms[0, 0]), float(self.terms[0, 1])

    @property
    def rotation(self) -> float:
        """Rotation from north towards east, mean of both axes (deg)."""
        return float(np.rad2deg((self.terms[2, 0] - self.terms[1, 1]) / 2))

    @property
    def scale(self) -> float:
        """Mean scale, new over old."""
        return float(1 + (self.terms[1, 0] + self.terms[2, 1]) / 2)

    def apply(self, ra: F64, dec: F64) -> tuple[F64, F64]:
        """Return the refined positions (n,) of RA, Dec (deg)."""
        plane = _to_plane(ra, dec, self.centre)
        return _from_plane(plane + _design(plane) @ self.terms, self.centre)

    @property
    def text(self) -> str:
        """One line about it."""
        east, north = self.shift
        return (
            f"{self.n:,} pairs, shift {east * 1e3:+.2f} mas east {north * 1e3:+.2f} mas north, rotation "
            f"{self.rotation * 3600:+.2f} arcsec, scale {self.scale:.7f}; rms {self.before * 1e3:.2f} mas before, "
            f"{self.after * 1e3:.2f} mas after"
        )


def positions_at(reference: Table, epoch: Time | None) -> tuple[F64, F64]:
    """Return RA, Dec (deg) of reference stars at an epoch, where they are seen from the Earth.

    Parameters
    ----------
    reference : Table
        With `ra`, `dec` (deg), and perhaps `pmra`, `pmdec` (mas/yr; pmra with cos dec), `parallax` (mas) and
        `ref_epoch` (yr, 2016.0 when it is missing), as in Gaia's archive. What is missing or NaN counts as 0.
    epoch : Time or None
        Epoch of the image; needed when there are motions.

    Raises
    ------
    InputError
        No positions, or motions without an epoch.
    """
    if missing := [name for name in ("ra", "dec") if name not in reference.colnames]:
        raise InputError(f"reference: has no column {', '.join(missing)}; give ra, dec in degrees")
    ra, dec = (plain_column(reference, name, "deg") for name in ("ra", "dec"))
    pm = [_or_zero(reference, name, "mas / yr") for name in ("pmra", "pmdec")]
    parallax = _or_zero(reference, "parallax", "mas")
    if not (np.any(pm) or np.any(parallax)):
        return ra, dec
    if epoch is None:
        raise InputError("epoch: the reference stars move; give the epoch of the image, such as 2023.45")
    start = np.full(len(ra), GAIA_EPOCH)
    if "ref_epoch" in reference.colnames:
        start = plain_column(reference, "ref_epoch", "yr")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # no distances: they matter to nothing but the change of the proper motion
        moved = SkyCoord(
            ra * u.deg, dec * u.deg, pm_ra_cosdec=pm[0] * u.mas / u.yr, pm_dec=pm[1] * u.mas / u.yr,
            obstime=Time(start, format="jyear", scale="tcb"),
        ).apply_space_motion(new_obstime=epoch)  # fmt: skip
        earth = get_body_barycentric("earth", epoch).xyz.to_value(u.au)
    ra, dec = np.asarray(moved.ra.deg, np.float64), np.asarray(moved.dec.deg, np.float64)
    a, d = np.deg2rad(ra), np.deg2rad(dec)
    x, y, z = earth
    east = parallax * (x * np.sin(a) - y * np.cos(a))
    north = parallax * (x * np.cos(a) * np.sin(d) + y * np.sin(a) * np.sin(d) - z * np.cos(d))
    return ra + east / 3.6e6 / np.cos(d), dec + north / 3.6e6


def epoch_of(catalog: Table) -> Time | None:
    """Return when the image of a catalogue was taken: EXPMID, EXPSTART (MJD) or DATE-OBS of its metadata, or None."""
    for key, form in (("EXPMID", "mjd"), ("EXPSTART", "mjd"), ("DATE-OBS", "isot")):
        text = fact(catalog, key)
        try:
            if text:
                return Time(float(text) if form == "mjd" else text, format=form)
        except ValueError:
            log.warning("%s is %r, which is no time", key, text)
    return None


def align(
    catalog: Table, reference: Table, epoch: Time | None = None, radius: float = 0.1, search: float = 1.0
) -> tuple[QTable, Alignment]:
    """Refine `ra`, `dec` of a catalogue against reference stars.

    Parameters
    ----------
    catalog : Table
        With `ra`, `dec` (deg), `flux`, `flux_err`, and `flags` where there.
    reference : Table
        As for `positions_at`.
    epoch : Time, optional
        Epoch of the image; default: that of `epoch_of`.
    radius : float
        Match radius once the shift is known (arcsec).
    search : float
        Largest shift (arcsec).

    Returns
    -------
    table, alignment
        The catalogue with new `ra`, `dec`, and what was fitted.

    Raises
    ------
    InputError
        Missing columns, a radius that is not positive, or fewer than three pairs.
    """
    if missing := [name for name in ("ra", "dec", "flux", "flux_err") if name not in catalog.colnames]:
        raise InputError(
            f"catalogue: has no column {', '.join(missing)}; give one of crowdfit, of an image with a WCS"
        )
    for name, value in (("radius", radius), ("search", search)):
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name}: {value} is refused; it must be positive (arcsec)")
    there = np.column_stack(positions_at(reference, epoch_of(catalog) if epoch is None else epoch))
    there = there[np.isfinite(there).all(axis=1)]
    ra, dec = plain_column(catalog, "ra", "deg"), plain_column(catalog, "dec", "deg")
    rows = _usable(catalog, ra, dec, MORE * len(there))
    if not (rows.size and len(there)):
        raise InputError("no stars to compare: the catalogue or the reference has none that are usable")
    # right ascensions may be negative west of 0h
    centre = float(np.median(ra[rows])), float(np.median(dec[rows]))
    plane, goal = _to_plane(ra[rows], dec[rows], centre), _to_plane(there[:, 0], there[:, 1], centre)
    terms = np.zeros((3, 2))
    terms[0] = voted_shift(plane, goal, radius, search)
    used = np.zeros((0, 2), np.int64)
    for _ in range(ROUNDS):
        pairs = np.column_stack(mutual(plane + _design(plane) @ terms, goal, radius)[:2])
        if len(pairs) < LEAST:
            raise InputError(
                f"{len(pairs)} pairs of catalogue and reference within {radius} arcsec are too few; check the epoch "
                f"and the field, or allow a larger shift than {search} arcsec"
            )
        terms, good = _fit(plane[pairs[:, 0]], goal[pairs[:, 1]])
        if np.array_equal(used, pairs[good]):
            break
        used = pairs[good]
    off = goal[used[:, 1]] - plane[used[:, 0]]
    left = off - _design(plane[used[:, 0]]) @ terms
    before, after = (float(np.sqrt(np.mean(np.sum(values**2, axis=1)))) for values in (off, left))
    found = Alignment(centre, terms, len(used), before, after)
    log.info("%s", found.text)
    table = QTable(catalog, copy=True)
    for name, values in zip(("ra", "dec"), found.apply(ra, dec), strict=True):
        info = table[name].info.description, table[name].info.meta
        table[name] = values * u.deg
        table[name].info.description, table[name].info.meta = info
    table.meta["astrometry"] = found.text
    return table, found


def _or_zero(table: Table, name: str, unit: str) -> F64:
    """Return a column in `unit`, 0 where it is missing."""
    if name not in table.colnames:
        return np.zeros(len(table))
    return np.nan_to_num(plain_column(table, name, unit))


def _usable(catalog: Table, ra: F64, dec: F64, most: int) -> NDArray[np.int64]:
    """Return the rows of the brightest clean stars, at most so many."""
    flux, err = (plain_column(catalog, name, unit_of(catalog["flux"])) for name in ("flux", "flux_err"))
    bad = np.bitwise_or.reduce([bit(name) for name in BAD])
    good = np.isfinite(ra) & np.isfinite(dec) & (flux > LEAST_SNR * err) & ((flag_bits(catalog) & bad) == 0)
    rows = np.flatnonzero(good)
    return rows[np.argsort(-flux[rows], kind="stable")[:most]]


def _design(plane: F64) -> F64:
    return np.column_stack([np.ones(len(plane)), plane])


def _fit(plane: F64, goal: F64) -> tuple[F64, NDArray[np.bool_]]:
    """Return the terms (3, 2) fitted to pairs, and which pairs (m,) were not clipped."""
    good = np.ones(len(plane), bool)
    terms = np.zeros((3, 2))
    for _ in range(ROUNDS):
        design = _design(plane)[:, : 3 if np.count_nonzero(good) >= LINEAR else 1]
        terms = np.zeros((3, 2))
        terms[: design.shape[1]] = np.linalg.lstsq(design[good], (goal - plane)[good], rcond=None)[0]
        left = goal - plane - _design(plane) @ terms
        width = MAD * np.median(np.abs(left[good]), axis=0)
        kept = np.all(np.abs(left) <= np.maximum(CLIP * width, 1e-9), axis=1)
        if np.array_equal(kept, good) or np.count_nonzero(kept) < LEAST:
            break
        good = kept
    return terms, good


def _to_plane(ra: F64, dec: F64, centre: tuple[float, float]) -> F64:
    """Return tangent-plane positions (n, 2) (arcsec) towards east and north."""
    a, d = np.deg2rad(ra - centre[0]), np.deg2rad(dec)
    d0 = np.deg2rad(centre[1])
    depth = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    east, north = np.cos(d) * np.sin(a), np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(depth[:, None] > 0, np.column_stack([east, north]) / depth[:, None] * ARCSEC, 1e9)


def _from_plane(plane: F64, centre: tuple[float, float]) -> tuple[F64, F64]:
    """Return RA, Dec (n,) (deg) of tangent-plane positions (arcsec); RA is within 180 deg of the centre."""
    east, north = (plane / ARCSEC).T
    d0 = np.deg2rad(centre[1])
    depth = np.cos(d0) - north * np.sin(d0)
    ra = centre[0] + np.rad2deg(np.arctan2(east, depth))
    dec = np.arctan2(np.sin(d0) + north * np.cos(d0), np.hypot(east, depth))
    return np.asarray(ra, np.float64), np.rad2deg(dec)
