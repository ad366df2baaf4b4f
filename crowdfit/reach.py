"""Match radii, and the geometry that goes with them: a sphere for angles, a plane for pixels."""

from typing import NamedTuple, TypeAlias

import numpy as np
from astropy import units as u
from numpy.typing import ArrayLike, NDArray

from crowdfit.errors import InputError

__all__ = ["Radius", "Reach", "read_reach"]

F64 = NDArray[np.float64]

Radius: TypeAlias = u.Quantity | str | float
"""A distance with a unit, or a plain number."""


class Reach(NamedTuple):
    """A match radius, and the geometry that goes with it: unit vectors on the sky, or a plane of pixels."""

    radius: u.Quantity

    @property
    def on_sky(self) -> bool:
        """Whether the radius is an angle."""
        return not self.radius.unit.is_equivalent(u.pix)

    @property
    def length(self) -> float:
        """The radius as a straight line between points."""
        if self.on_sky:
            return float(2 * np.sin(self.radius.to_value(u.rad) / 2))
        return float(self.radius.to_value(u.pix))

    def points(self, a: ArrayLike, b: ArrayLike) -> F64:
        """Return positions as points (n, 2 or 3); a, b are RA, Dec (deg) on the sky, else x, y (pix)."""
        a, b = np.atleast_1d(np.asarray(a, np.float64)), np.atleast_1d(np.asarray(b, np.float64))
        if not self.on_sky:
            return np.stack([a, b], axis=-1)
        lon, lat = np.deg2rad(a), np.deg2rad(b)
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)

    def positions(self, points: F64) -> tuple[F64, F64]:
        """Return points (n, 2 or 3) as positions; points off the unit sphere count by their direction."""
        if not self.on_sky:
            return points[:, 0], points[:, 1]
        x, y, z = points.T
        lon = np.rad2deg(np.arctan2(y, x)) % 360
        # the smallest negative angles come out as 360 itself
        return np.where(lon < 360, lon, 0.0), np.rad2deg(np.arctan2(z, np.hypot(x, y)))

    def distances(self, lengths: F64) -> F64:
        """Return straight lengths as distances (arcsec or pix)."""
        if not self.on_sky:
            return lengths
        angles: F64 = np.rad2deg(2 * np.arcsin(np.clip(lengths / 2, 0, 1))) * 3600
        return angles


def read_reach(radius: Radius, default: u.UnitBase) -> Reach:
    """Return a radius with its geometry; plain numbers are in the `default` unit."""
    try:
        length = u.Quantity(radius)
    except (TypeError, ValueError) as exc:
        raise InputError(f"radius: {radius!r} is no length; give '0.4 arcsec', '2 pix' or a number") from exc
    if length.unit == u.dimensionless_unscaled:
        length = length.value * default
    if not (length.unit.is_equivalent(u.pix) or length.unit.is_equivalent(u.deg)):
        raise InputError(f"radius: {radius} is neither an angle nor pixels; give '0.4 arcsec' or '2 pix'")
    if not (length.isscalar and np.isfinite(length.value) and length.value > 0):
        raise InputError(f"radius: {radius} is not positive; give '0.4 arcsec', '2 pix' or a number")
    return Reach(length)
