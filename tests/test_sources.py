"""The list of sources: a value that is replaced, never changed."""

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdfit import flags
from crowdfit.sources import Sources

DTYPES = {
    "x": "f8", "y": "f8", "flux": "f8", "flux_err": "f8", "flux_err_marginal": "f8", "id": "i8",
    "pass_no": "i4", "flags": "u4"
}  # fmt: skip


def some(n=4, pass_no=0):
    return Sources.at(np.arange(n), np.arange(n) * 2.0, np.arange(n) + 1.0, pass_no=pass_no)


def test_types():
    for sources in (Sources.empty(), Sources.at([1], [2]), Sources.at([1, 2], [3, 4], [5, 6])):
        for name, dtype in DTYPES.items():
            assert getattr(sources, name).dtype == np.dtype(dtype)
            assert getattr(sources, name).shape == (len(sources),)
    assert {field.name for field in fields(Sources)} == set(DTYPES)


def test_positions_of_the_user_have_no_pass():
    assert Sources.at([1.0], [2.0]).pass_no[0] == -1
    assert len(Sources.empty()) == 0


def test_input_is_copied():
    x = np.zeros(2)
    sources = Sources.at(x, [0, 0])
    x[0] = 9
    assert sources.x[0] == 0


def test_append_keeps_ids_unique():
    first = some(3).take(np.array([0, 2]))
    both = first.append(some(2, pass_no=1))
    assert both.id.tolist() == [0, 2, 3, 4]
    assert both.pass_no.tolist() == [0, 0, 1, 1]
    assert both.flux.tolist() == [1, 3, 1, 2]
    assert len(first) == 2
    assert Sources.empty().append(some(2)).id.tolist() == [0, 1]
    assert some(2).append(Sources.empty()).id.tolist() == [0, 1]
    for name, dtype in DTYPES.items():
        assert getattr(both, name).dtype == np.dtype(dtype)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 5))
def test_ids_stay_unique_whatever_is_removed(drops, n):
    sources = some(5)
    for drop in drops:
        sources = sources.take(sources.id != drop).append(some(n))
    assert len(set(sources.id.tolist())) == len(sources)


def test_take_by_index_and_mask():
    sources = some(4)
    assert sources.take(np.array([3, 1])).id.tolist() == [3, 1]
    assert sources.take(sources.flux > 2).id.tolist() == [2, 3]
    assert len(sources.take(np.zeros(4, bool))) == 0


def test_changed_is_a_copy():
    sources = some(2)
    moved = sources.changed(x=sources.x + 1)
    assert moved.x.tolist() == [1, 2]
    assert sources.x.tolist() == [0, 1]
    with pytest.raises(FrozenInstanceError):
        sources.x = moved.x


def test_flagged_sets_and_clears_one_bit():
    sources = some(3).flagged("saturated", np.array([True, True, False]))
    sources = sources.flagged("edge", np.array([False, True, True]))
    assert [flags.decode(int(value)) for value in sources.flags] == [
        ("saturated",), ("saturated", "edge"), ("edge",)
    ]  # fmt: skip
    cleared = sources.flagged("saturated", np.zeros(3, bool))
    assert not flags.has(cleared.flags, "saturated").any()
    assert flags.has(cleared.flags, "edge").tolist() == [False, True, True]
    assert cleared.flags.dtype == np.uint32
