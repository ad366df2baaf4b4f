"""The stop rule: every reason is named, explained, and comes when it should."""

from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from crowdfit.frame import WINGS_STILL, PsfQuality
from crowdfit.stages.stop import STOP_REASONS, Settled
from crowdfit.tiles import Tiles


def state(  # noqa: PLR0913 - everything that the rule looks at
    pass_no,
    *,
    n_sources=1000,
    n_new=0,
    memory_mb=100.0,
    n_removed=0,
    fwhm_change=0.0,
    ceiling_mb=None,
    quality=None,
):
    """Return what the rule looks at."""
    stats = SimpleNamespace(
        n_sources=n_sources,
        n_new=n_new,
        memory_mb=2 * memory_mb,
        stage_memory_mb={"sky": 0.5 * memory_mb, "solve": memory_mb},
        n_removed={"faint": n_removed},
        chi=1.0,
        max_step=0.0,
        fwhm_change=fwhm_change,
        psf_quality=quality,
    )
    frames = (SimpleNamespace(tiles=Tiles(memory_mb=ceiling_mb)),)
    return SimpleNamespace(pass_no=pass_no, stats=stats, frames=frames)


def quality(wing_change):
    """Return the report on a PSF whose wings changed by so many sigma of a pixel."""
    return PsfQuality(100, {}, 0.01, 3.0, 0.0, 0.0, wing_change=wing_change)


RULE = Settled(min_passes=3, max_passes=6, new_fraction=0.01, fwhm_change=0.02)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (state(0), None),
        (state(1), None),
        (state(2), "settled"),
        (state(2, n_new=10), "settled"),
        (state(2, n_new=11), None),
        (state(2, fwhm_change=0.02), "settled"),
        (state(2, fwhm_change=0.021), None),
        (state(2, quality=quality(WINGS_STILL)), "settled"),
        (state(2, quality=quality(1.1 * WINGS_STILL)), None),
        (state(5, fwhm_change=0.5), "max_passes"),
        (state(5, n_new=500), "max_passes"),
        (state(9, n_new=500), "max_passes"),
        (state(2, n_sources=0), "settled"),
    ],
)
def test_settled_and_max_passes(given, reason):
    """Few new ones for the length of the list, but not before the least and not after the most passes."""
    assert RULE(given) == reason


def test_list_that_grows_without_end():
    """Even in the first pass."""
    rule = Settled(max_sources=5000)
    assert rule(state(0, n_sources=5001, n_new=5001)) == "too_many_sources"
    assert rule(state(0, n_sources=5000, n_new=5000)) is None


def test_memory_ceiling():
    """P016: a tenth below it, by what the stages of the pass held; what other work of the process held is its own."""
    assert Settled()(state(0, memory_mb=1e9)) is None
    assert Settled()(state(0, memory_mb=1351, ceiling_mb=1500)) == "memory_ceiling"
    assert Settled()(state(0, memory_mb=1350, ceiling_mb=1500)) is None


def test_every_reason_is_explained():
    """A person reads the sentence, not the key."""
    given = {
        Settled(max_sources=1)(state(0)), Settled()(state(0, ceiling_mb=100)), RULE(state(2)),
        RULE(state(9, n_new=900)), "interrupted",
    }  # fmt: skip
    assert given <= set(STOP_REASONS)
    assert all(len(text) > 20 for text in STOP_REASONS.values())


@pytest.mark.parametrize("field", ["min_passes", "max_passes", "max_sources"])
def test_at_least_one(field):
    with pytest.raises(ValidationError):
        Settled(**{field: 0})
