"""What a fit leaves: the catalogue, and everything that explains the image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from crowdfit.config import Config
from crowdfit.exposure import Exposure, Image
from crowdfit.frame import Frame
from crowdfit.io.products import write_products
from crowdfit.loop import PassStats
from crowdfit.photometry.corrections import Corrections
from crowdfit.photometry.psf_map import PsfMap
from crowdfit.photometry.segments import Segments
from crowdfit.psf.epsf import EPSF
from crowdfit.sources import Sources

if TYPE_CHECKING:
    from astropy.table import QTable


@dataclass(frozen=True, eq=False)
class FitResult:
    """A finished fit.

    Parameters
    ----------
    catalog : QTable
        One row a star; columns in `crowdfit.catalog.COLUMNS`, and where there is a zero point those of
        `crowdfit.calibration.columns.CALIBRATED_COLUMNS`.
    sources : Sources
        The same stars as plain arrays.
    frame : Frame
        Exposure with its PSF, sky and model.
    history : tuple of PassStats
        The numbers of every pass.
    config : Config
        The configuration that was used.
    stop_reason : str
        Why the loop ended; a key of `crowdfit.stages.stop.STOP_REASONS`.
    seconds : float
        Wall time of the fit; of one that was resumed with that of its recorded passes.
    stage_seconds : dict of str to float
        Wall time by stage, all passes together.
    stage_memory_mb : dict of str to float
        Largest resident size of the process (MB) by stage, as in `PassStats`; all passes together.
    peak_memory_mb : float
        Largest resident size of the process.
    metadata : dict of str to str
        Versions, settings and input checksum, as written to every file.
    psf_map : PsfMap or None
        Width and shape of the stars over the field; None when it was not measured.
    corrections : Corrections or None
        Aperture corrections; None when no apertures were measured.
    segments : Segments or None
        Extended sources, which were masked from the fit; None where they were not looked for.
    """

    catalog: "QTable"
    sources: Sources
    frame: Frame
    history: tuple[PassStats, ...]
    config: Config
    stop_reason: str
    seconds: float
    stage_seconds: dict[str, float]
    peak_memory_mb: float
    metadata: dict[str, str]
    psf_map: PsfMap | None = None
    corrections: Corrections | None = None
    segments: Segments | None = None
    stage_memory_mb: dict[str, float] = field(default_factory=dict)

    @property
    def exposure(self) -> Exposure:
        """The image that was fitted."""
        return self.frame.exposure

    @property
    def psf(self) -> EPSF:
        """The PSF of the last pass."""
        return self.frame.psf

    @property
    def sky(self) -> Image:
        """Smooth background, (ny, nx), image unit."""
        return self.frame.sky

    @property
    def structure(self) -> Image | None:
        """Noise per pixel that stands for structure of the sky, (ny, nx), image unit; None when not measured."""
        return self.frame.structure

    @property
    def model(self) -> Image:
        """Sum of all stars without sky, (ny, nx), image unit."""
        return self.frame.model

    @property
    def residual(self) -> Image:
        """Data - sky - model, (ny, nx), image unit; 0 where not usable."""
        return self.frame.resid

    def write(self, directory: str | Path, formats: Sequence[str] = ("fits",)) -> list[Path]:
        """Write the catalogue (`formats`: fits, ecsv, csv, vot, parquet) and the fit image; return the files."""
        return write_products(self, directory, formats)

    def report(self, path: str | Path) -> Path:
        """Write the HTML report and return its path."""
        from crowdfit.report.page import write_report  # noqa: PLC0415 - matplotlib is slow to import

        return write_report(self, path)
