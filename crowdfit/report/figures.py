"""All figures of the report, section by section."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crowdfit.report import apertures, canvas, curves, images, psf, sky
from crowdfit.report.canvas import Picture
from crowdfit.report.pixels import Planes
from crowdfit.stages.detect import significance

if TYPE_CHECKING:
    from crowdfit.result import FitResult


@dataclass(frozen=True)
class Figures:
    """The figures of the report by section."""

    field: list[Picture]
    psf: list[Picture]
    passes: list[Picture]
    catalogue: list[Picture]
    zooms: list[Picture]
    apertures: list[Picture]


def draw(result: "FitResult") -> Figures:
    """Draw every figure of the report."""
    frame = result.frame
    planes, left = Planes.of(frame), significance(frame)
    with canvas.look():
        return Figures(
            field=images.field_pictures(frame, planes, left)
            + images.segment_pictures(planes, frame.exposure.unit, result.segments)
            + sky.sky_pictures(frame.exposure, planes),
            psf=psf.psf_pictures(frame, result.psf_map),
            passes=curves.pass_pictures(result.history),
            catalogue=curves.catalogue_pictures(result.catalog, planes),
            zooms=images.zoom_pictures(frame, result.sources, planes, left),
            apertures=apertures.aperture_pictures(result.catalog, result.corrections),
        )
