"""Source flags: one table is the only definition."""

import numpy as np
import pytest

from crowdfit import flags


def test_bits_are_distinct_documented_and_fit_32():
    bits = [flag.bit for flag in flags.SOURCE_FLAGS]
    names = [flag.name for flag in flags.SOURCE_FLAGS]
    assert len(set(bits)) == len(set(names)) == len(bits)
    assert max(bits) < 32
    for flag in flags.SOURCE_FLAGS:
        assert len(flag.text) > 10
        assert flag.value == 2**flag.bit


def test_bit():
    assert flags.bit("core_masked") == 1
    assert flags.bit("psf_star") == 1 << 12
    assert flags.bit("edge").dtype == np.uint32
    with pytest.raises(KeyError):
        flags.bit("nothing")


def test_decode():
    """P070: names of the bits."""
    assert flags.decode(0) == ()
    assert flags.decode(0b1010) == ("saturated", "near_mask")
    every = sum(flag.value for flag in flags.SOURCE_FLAGS)
    assert flags.decode(every) == tuple(flag.name for flag in flags.SOURCE_FLAGS)


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.int32])
def test_has(dtype):
    values = np.array([0, 1, 2, 3], dtype)
    assert flags.has(values, "core_masked").tolist() == [False, True, False, True]
    assert flags.has(values, "saturated").tolist() == [False, False, True, True]
    assert flags.has(5, "edge")


def test_aperture_bits():
    """Bits of their own column, from a table of their own."""
    names = [flag.name for flag in flags.APERTURE_FLAGS]
    assert len(set(names)) == len({flag.bit for flag in flags.APERTURE_FLAGS}) == len(names)
    bits = flags.aperture_bits("edge", [True, False])
    assert bits.tolist() == [2, 0]
    assert bits.dtype == np.uint32
    with pytest.raises(StopIteration):
        flags.aperture_bits("nothing", [True])
