"""What a joint fit leaves: one catalogue, and what explains each exposure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crowdfit.config import Config
from crowdfit.io.hdus import file_stem
from crowdfit.io.products import write_all
from crowdfit.joint.align import Tie
from crowdfit.loop import PassStats
from crowdfit.result import FitResult
from crowdfit.view import JointSources

if TYPE_CHECKING:
    from astropy.table import QTable

__all__ = ["JointResult"]


@dataclass(frozen=True, eq=False)
class JointResult:
    """A finished joint fit.

    Parameters
    ----------
    catalog : QTable
        One row a star; columns in `crowdfit.joint.columns`, positions and main fluxes in the pixels and the unit of
        the first exposure.
    sources : JointSources
        The same stars as plain arrays.
    exposures : tuple of FitResult
        Each exposure with its PSF, sky and model, and its own catalogue of the stars on its footprint; in the order
        in which they were given.
    ties : tuple of tuple of Tie
        How well each exposure was tied to the others, after each pass.
    bands : tuple of str
        Filters, that of the first exposure first.
    history : tuple of PassStats
        The numbers of every pass.
    config : Config
        The configuration of the first exposure.
    stop_reason : str
        Why the loop ended; a key of `crowdfit.stages.stop.STOP_REASONS`.
    seconds : float
        Wall time of the fit.
    peak_memory_mb : float
        Largest resident size of the process.
    metadata : dict of str to str
        Versions, settings and input checksums, as written to the catalogue.
    """

    catalog: "QTable"
    sources: JointSources
    exposures: tuple[FitResult, ...]
    ties: tuple[tuple[Tie, ...], ...]
    bands: tuple[str, ...]
    history: tuple[PassStats, ...]
    config: Config
    stop_reason: str
    seconds: float
    peak_memory_mb: float
    metadata: dict[str, str]

    @property
    def name(self) -> str:
        """Name of the files of the whole fit."""
        return joint_name(self.exposures[0].exposure.name)

    def write(self, directory: str | Path, formats: Sequence[str] = ("fits",)) -> list[Path]:
        """Write the catalogue (`formats`: fits, ecsv, csv, vot, parquet) and the fit image of each exposure.

        Parameters
        ----------
        directory : path
            Output folder; made if missing.
        formats : sequence of str
            Formats of the catalogue.

        Returns
        -------
        list of Path
            What was written, catalogues first.

        Raises
        ------
        InputError
            If the folder cannot be written, or a format is unknown.
        """
        return write_all(self.catalog, self.name, self.exposures, directory, formats)

    def report(self, path: str | Path) -> Path:
        """Write the HTML report of the first exposure, as the joint fit explains it, and return its path."""
        return self.exposures[0].report(path)


def joint_name(first: str) -> str:
    """Return the name of a joint fit whose first exposure has the given name."""
    return f"{file_stem(first)}_joint"
