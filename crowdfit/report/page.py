"""The page itself: figures and facts put into the template, written as one file."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from crowdfit import __version__
from crowdfit.config import dump
from crowdfit.io.atomic import atomic_path
from crowdfit.report import apertures, canvas, facts, figures

if TYPE_CHECKING:
    from crowdfit.result import FitResult

log = logging.getLogger(__name__)


def write_report(result: "FitResult", path: str | Path) -> Path:
    """Write the report of a fit as one self-contained HTML page.

    Parameters
    ----------
    result : FitResult
        What `crowdfit.fit_image` returned.
    path : str or Path
        The file to write; it is replaced in one step when the page is complete.

    Returns
    -------
    Path
        The file.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_text(page_text(result), encoding="utf-8")
    log.debug("report: %s, %.1f MB", path, path.stat().st_size / 1e6)
    return path


def template(name: str) -> Template:
    """Return a template of this folder."""
    environment = Environment(
        loader=PackageLoader("crowdfit.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def page_text(result: "FitResult") -> str:
    """Return the HTML of the report."""
    exposure = result.frame.exposure
    return template("template.html").render(
        name=exposure.name,
        masked=canvas.MASKED,
        version=__version__,
        stop=facts.stop_sentence(result),
        headline=facts.headline(result),
        image=facts.image_facts(result),
        notes=exposure.notes,
        figures=figures.draw(result),
        pass_headings=facts.PASS_HEADINGS,
        passes=facts.pass_rows(result.history),
        apertures=apertures.summary(result.catalog, result.corrections),
        flags=facts.flag_rows(result.sources.flags),
        stages=facts.stage_rows(result.stage_seconds, result.stage_memory_mb),
        psf=facts.psf_verdict(result.frame, result.psf_map),
        metadata={key: text for key, text in result.metadata.items() if key != "config"},
        configuration=dump(result.config),
    )
