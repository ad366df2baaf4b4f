"""When to stop, and why."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from crowdfit.stages.base import STRICT

if TYPE_CHECKING:
    from crowdfit.loop import State


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settled:
    """Stop when a pass hardly changes the list and the width and wings of the PSF, within a least and a most number."""

    kind: Literal["settled"] = "settled"
    min_passes: int = Field(default=4, ge=1, description="passes that are always made")
    max_passes: int = Field(default=14, ge=1, description="passes that are never exceeded")
    new_fraction: float = Field(
        default=0.01, ge=0, description="settled when the list grows or shrinks by less than this share"
    )
    fwhm_change: float = Field(
        default=0.01,
        gt=0,
        description="not settled while a pass changes the FWHM of the PSF by more than this share",
    )
    max_sources: int = Field(default=5_000_000, ge=1, description="stop when the list grows beyond this")

    def __call__(self, state: "State") -> str | None:
        """Return the reason to stop after this pass, or None to go on."""
        stats = state.stats
        if stats.n_sources > self.max_sources:
            return "too_many_sources"
        if state.frames[0].tiles.is_full(max(stats.stage_memory_mb.values(), default=0.0)):
            return "memory_ceiling"
        if state.pass_no + 1 >= self.max_passes:
            return "max_passes"
        gained = abs(stats.n_new - sum(stats.n_removed.values()))
        is_still = gained <= self.new_fraction * stats.n_sources and stats.fwhm_change <= self.fwhm_change
        is_still &= stats.psf_quality is None or stats.psf_quality.wings_are_still
        if state.pass_no + 1 >= self.min_passes and is_still:
            return "settled"
        return None


STOP_REASONS = {
    "settled": "hardly any new sources were found, and width and wings of the PSF hardly changed",
    "max_passes": "the largest number of passes was reached (raise stop.max_passes if chi still falls)",
    "too_many_sources": "the list grew beyond stop.max_sources",
    "memory_ceiling": "the process comes near tiles.memory_mb (raise it, or fit parts of the image)",
    "interrupted": "the run was interrupted; the result is that of the last finished pass",
}
