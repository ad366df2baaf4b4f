"""What the report says in words and tables, with digits and units fit for reading."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.wcs.utils import proj_plane_pixel_scales

from crowdfit import __version__, flags
from crowdfit.exposure import Exposure
from crowdfit.frame import Frame
from crowdfit.photometry.psf_map import PsfMap, missing_variation
from crowdfit.report.psf import shape_text
from crowdfit.stages.stop import STOP_REASONS
from crowdfit.world import pixel_to_sky

if TYPE_CHECKING:
    from crowdfit.loop import PassStats
    from crowdfit.result import FitResult

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Fact:
    """One labelled value, as text."""

    label: str
    value: str


def count(value: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def duration(seconds: float) -> str:
    """Return a time in the unit people would use."""
    if not np.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def memory(megabytes: float) -> str:
    """Return an amount of memory in MB or GB."""
    if not np.isfinite(megabytes) or megabytes <= 0:
        return NOTHING
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.2f} GB"


def digits(value: float, pattern: str = ".3g") -> str:
    """Return a number, or a dash when there is none."""
    return format(value, pattern) if np.isfinite(value) else NOTHING


def percent(part: float, whole: float) -> str:
    """Return `part` / `whole` in percent; tiny shares keep two digits."""
    if whole <= 0:
        return NOTHING
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.2g} %"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return the number with its noun."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def stop_sentence(result: "FitResult") -> str:
    """Return why the fit ended, as a sentence."""
    passes = plural(len(result.history), "pass", "passes")
    reason = STOP_REASONS.get(result.stop_reason, result.stop_reason)
    return f"The fit ended after {passes}: {reason}."


def headline(result: "FitResult") -> list[Fact]:
    """Return the few numbers a reader wants first."""
    chi = result.history[-1].chi if result.history else np.nan
    return [
        Fact("sources", count(len(result.sources))),
        Fact("FWHM", f"{digits(result.frame.psf.fwhm, '.2f')} pix"),
        Fact("residual / error, rms", digits(chi, ".2f")),
        Fact("time", duration(result.seconds)),
        Fact("peak memory", memory(result.peak_memory_mb)),
    ]


def image_facts(result: "FitResult") -> list[Fact]:
    """Return what is known about the image and about the fit as a whole."""
    exposure, psf = result.frame.exposure, result.frame.psf
    n_masked = exposure.data.size - int(np.count_nonzero(exposure.good))
    facts = [
        Fact("image", exposure.name),
        Fact("size", _size(exposure)),
        Fact("band", exposure.band or NOTHING),
        Fact("unit", exposure.unit or NOTHING),
        Fact("electrons per unit", f"{exposure.gain:.4g}" if np.isfinite(exposure.gain) else "not known"),
        Fact("pixels not used", f"{count(n_masked)} ({percent(n_masked, exposure.data.size)})"),
        Fact("of these saturated", count(int(np.count_nonzero(exposure.saturated)))),
        Fact("median sky", f"{digits(float(np.median(result.frame.sky)), '.4g')} {exposure.unit}".strip()),
        Fact("noise of a pixel (median)", f"{digits(exposure.noise, '.3g')} {exposure.unit}".strip()),
        *_structure(result.frame),
        Fact("sources", count(len(result.sources))),
        Fact("PSF", f"FWHM {psf.fwhm:.2f} pix, {shape_text(psf)}"),
        Fact("passes", count(len(result.history))),
        Fact("crowdfit", __version__),
    ]
    return [*facts[:2], *_sky_position(exposure), *facts[2:]]


def _structure(frame: Frame) -> list[Fact]:
    """Return the structure noise of the sky, if the fit knows of any."""
    if frame.structure is None:
        return []
    middle = float(np.median(frame.structure[frame.exposure.good]))
    text = f"{digits(middle, '.3g')} {frame.exposure.unit}".strip()
    return [Fact("structure of the sky, as noise per pixel (median)", text)]


def _celestial(exposure: Exposure) -> bool:
    return exposure.wcs is not None and bool(getattr(exposure.wcs, "has_celestial", False))


def _size(exposure: Exposure) -> str:
    ny, nx = exposure.shape
    text = f"{nx} \N{MULTIPLICATION SIGN} {ny} pix (x, y)"
    if not _celestial(exposure):
        return text
    scale_x, scale_y = 3600 * proj_plane_pixel_scales(exposure.wcs.celestial)
    return f"{text}, {_angle(nx * scale_x)} \N{MULTIPLICATION SIGN} {_angle(ny * scale_y)}"


def _angle(arcsec: float) -> str:
    return f"{arcsec:.1f} arcsec" if arcsec < 300 else f"{arcsec / 60:.1f} arcmin"


def _sky_position(exposure: Exposure) -> list[Fact]:
    """Return the sky position of the middle of the image, if it has one."""
    if not _celestial(exposure):
        return []
    ny, nx = exposure.shape
    sky = pixel_to_sky(exposure.wcs, [(nx - 1) / 2], [(ny - 1) / 2])
    return [Fact("centre (RA, Dec)", f"{sky.ra[0]:.5f} deg, {sky.dec[0]:+.5f} deg")]


@dataclass(frozen=True)
class Verdict:
    """What the PSF was made from: a sentence, why it should not be trusted, and who was refused."""

    text: str
    problems: tuple[str, ...]
    refused: str


def psf_verdict(frame: Frame, psf_map: PsfMap | None = None) -> Verdict:
    """Return how the PSF was made and whether it can be trusted, everywhere on the field too (P035, P037)."""
    quality = frame.psf_quality
    problem = "" if psf_map is None else missing_variation(frame.psf, psf_map)
    varies = (problem,) if problem else ()
    if quality is None:
        return Verdict("The PSF is as it was given or first measured: no pass has changed it.", varies, "")
    verdict = (
        "Nothing speaks against it." if quality.passed and not varies else "It should not be trusted blindly:"
    )
    stars = plural(quality.n_stars, "star")
    text = f"Fitted to {stars}, whose cores depart from it by {100 * quality.core_error:.2g} %. {verdict}"
    if not quality.n_stars:
        text = "The last pass kept the PSF of the one before:"
    return Verdict(text, quality.problems + varies, _removed(quality.refused))


@dataclass(frozen=True)
class FlagRow:
    """One source flag and how many sources carry it."""

    name: str
    n: int
    number: str
    share: str
    text: str


def flag_rows(values: np.ndarray) -> list[FlagRow]:
    """Return all flags with their counts, the most frequent first."""
    rows = []
    for flag in flags.SOURCE_FLAGS:
        n = int(np.count_nonzero(flags.has(values, flag.name)))
        rows.append(FlagRow(flag.name, n, count(n), percent(n, len(values)), flag.text))
    return sorted(rows, key=lambda row: -row.n)


@dataclass(frozen=True)
class StageRow:
    """Time and memory of one stage: text, and its share of the longest (percent) for the bar."""

    name: str
    seconds: str
    share: str
    memory: str
    bar: float


def stage_rows(seconds: Mapping[str, float], held: Mapping[str, float]) -> list[StageRow]:
    """Return the stages, the longest first, with the most memory (MB) held by each of them in any pass (P016)."""
    total, longest = sum(seconds.values()), max(seconds.values(), default=0.0)
    return [
        StageRow(
            name,
            duration(value),
            percent(value, total),
            memory(held.get(name, np.nan)),
            100 * value / longest if longest > 0 else 0.0,
        )
        for name, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]


PASS_HEADINGS = (
    "pass",
    "sources",
    "new",
    "removed",
    "rms residual / error",
    "FWHM (pix)",
    "step (pix)",
    "PSF stars",
    "solver iterations",
    "time",
    "memory",
)


def pass_rows(history: "tuple[PassStats, ...]") -> list[tuple[str, ...]]:
    """Return one row of text per pass, in the order of `PASS_HEADINGS`."""
    return [
        (
            str(stats.pass_no),
            count(stats.n_sources),
            count(stats.n_new),
            _removed(stats.n_removed),
            digits(stats.chi, ".3f"),
            digits(stats.fwhm, ".3f"),
            digits(stats.max_step, ".2f"),
            count(stats.psf_stars),
            count(stats.solver_iterations),
            duration(stats.seconds),
            memory(stats.memory_mb),
        )
        for stats in history
    ]


def _removed(by_reason: Mapping[str, int]) -> str:
    """Return how many sources were removed, and why."""
    reasons = [f"{count(n)} {name.replace('_', ' ')}" for name, n in by_reason.items() if n]
    return ", ".join(reasons) if reasons else "0"
