"""How an exposure sees the common list of stars of a joint fit.

Positions of the list are those of the reference grid. Its fluxes are kept in columns: one for each band, or one for
each exposure. An exposure sees the stars on its footprint, at their places on its own pixels and with their fluxes in
its own unit.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdfit.mapping import Mapping
from crowdfit.sources import Sources

__all__ = ["JointSources", "Local", "View"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class JointSources(Sources):
    """A list of stars with several fluxes.

    The fields that it shares with `Sources` hold for all exposures together: `x`, `y` on the reference grid, and
    `flux`, `flux_err` of the light of all bands (`crowdfit.joint.light`).

    Parameters
    ----------
    fluxes : ndarray (n, n_columns) float64
        Fluxes by column; 0 where no exposure of the column sees the star.
    flux_errs : ndarray (n, n_columns) float64
        Their errors without neighbours; infinite where no exposure of the column sees the star.
    """

    fluxes: F64 = field(default_factory=lambda: np.zeros((0, 1)))
    flux_errs: F64 = field(default_factory=lambda: np.zeros((0, 1)))

    @classmethod
    def of(cls, sources: Sources, fluxes: F64, flux_errs: F64) -> "JointSources":
        """Return a list with fluxes by column."""
        return cls(
            sources.x, sources.y, sources.flux, sources.flux_err, sources.flux_err_marginal, sources.id,
            sources.pass_no, sources.flags, fluxes, flux_errs,
        )  # fmt: skip


class Local(NamedTuple):
    """The stars that an exposure sees, and their numbers in the common list, (m,) int64, rising."""

    sources: Sources
    rows: I64


@dataclass(frozen=True, eq=False)
class View:
    """How an exposure sees the common list.

    Parameters
    ----------
    number, band : int
        Number of the exposure, and that of its band.
    shape : (ny, nx)
        Its size.
    mapping : Mapping
        From the reference grid to its pixels.
    band_scale : float
        Flux in its own unit of a star of flux 1 in the unit of its band.
    by_exposure : bool
        Whether each exposure has a flux of its own, in its own unit.
    depth : float
        Error of the flux of a faint star from all exposures of the band, over that from this one alone.
    """

    number: int
    band: int
    shape: tuple[int, int]
    mapping: Mapping
    band_scale: float = 1.0
    by_exposure: bool = False
    depth: float = 1.0

    @property
    def column(self) -> int:
        """Number of the column of fluxes that it sees."""
        return self.number if self.by_exposure else self.band

    @property
    def scale(self) -> float:
        """Flux in its own unit of a star of flux 1 in its column."""
        return 1.0 if self.by_exposure else self.band_scale

    def local(self, sources: Sources, margin: float) -> Local:
        """Return the stars up to `margin` (pix) beyond the border, as a list of this exposure alone."""
        assert isinstance(sources, JointSources)
        x, y = self.mapping(sources.x, sources.y)
        ny, nx = self.shape
        inside = (x > -margin) & (x < nx - 1 + margin) & (y > -margin) & (y < ny - 1 + margin)
        index = np.flatnonzero(inside)
        error = self.scale * sources.flux_errs[index, self.column]
        return Local(
            Sources(
                x[index],
                y[index],
                self.scale * sources.fluxes[index, self.column],
                error * self.depth if self.by_exposure else error,
                sources.flux_err_marginal[index],
                sources.id[index],
                sources.pass_no[index],
                sources.flags[index],
            ),
            index,
        )

    def with_(self, **changes: object) -> "View":
        """Return the view with some fields replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]
