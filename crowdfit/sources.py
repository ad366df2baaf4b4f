"""The list of sources: a struct of arrays that is never changed in place."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crowdfit import flags

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sources:
    """Point sources, one entry per star in every array.

    Parameters
    ----------
    x, y : ndarray (n,) float64
        Column and row, 0-based pixel centres (pix).
    flux, flux_err : ndarray (n,) float64
        Amplitude of the unit-sum PSF and its error (image unit).
    flux_err_marginal : ndarray (n,) float64
        Error of the flux when neighbours and positions may vary too (image unit).
    id : ndarray (n,) int64
        Number that stays with a source through the run.
    pass_no : ndarray (n,) int32
        Pass in which the source was found; -1 for a source given by the user.
    flags : ndarray (n,) uint32
        Bits of `crowdfit.flags.SOURCE_FLAGS`.
    """

    x: F64
    y: F64
    flux: F64
    flux_err: F64
    flux_err_marginal: F64
    id: NDArray[np.int64]
    pass_no: NDArray[np.int32]
    flags: NDArray[np.uint32]

    @classmethod
    def empty(cls) -> "Sources":
        """Return a list without sources."""
        return cls.at([], [])

    @classmethod
    def at(cls, x: ArrayLike, y: ArrayLike, flux: ArrayLike | None = None, *, pass_no: int = -1) -> "Sources":
        """Return sources at the given positions, numbered from 0; flux 0 unless given."""
        x = np.array(x, np.float64, ndmin=1)
        n = len(x)
        return cls(
            x=x,
            y=np.array(y, np.float64, ndmin=1),
            flux=np.zeros(n) if flux is None else np.array(flux, np.float64, ndmin=1),
            flux_err=np.zeros(n),
            flux_err_marginal=np.zeros(n),
            id=np.arange(n, dtype=np.int64),
            pass_no=np.full(n, pass_no, np.int32),
            flags=np.zeros(n, np.uint32),
        )

    def __len__(self) -> int:
        return len(self.x)

    def append(self, found: "Sources") -> Self:
        """Return this list followed by `found`, whose ids continue from the highest used here."""
        first = int(self.id.max()) + 1 if len(self) else 0
        found = replace(found, id=np.arange(first, first + len(found), dtype=np.int64))
        return replace(
            self,
            **{f.name: np.concatenate([getattr(self, f.name), getattr(found, f.name)]) for f in fields(self)},
        )

    def take(self, index: NDArray[Any]) -> Self:
        """Return the sources selected by an index or boolean array, in that order."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def changed(self, **arrays: NDArray[Any]) -> Self:
        """Return a copy with some arrays replaced."""
        return replace(self, **arrays)

    def flagged(self, name: str, where: NDArray[np.bool_]) -> Self:
        """Return a copy whose bit `name` is set exactly where `where` is true."""
        mask = flags.bit(name)
        return replace(self, flags=np.where(where, self.flags | mask, self.flags & ~mask).astype(np.uint32))
