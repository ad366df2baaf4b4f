"""Data-quality policies in the grammar of the JWST pipeline, and bits by name."""

import numpy as np
import pytest

from crowdfit.cli import main
from crowdfit.config import load_config
from crowdfit.errors import ConfigError, InputError
from crowdfit.io.dq import DQ_BITS, PRESETS, decode_dq, good_bits

ALL = 2**32 - 1


@pytest.mark.parametrize(
    ("policy", "good"),
    [
        (6, 6), ("6", 6), ("4+8", 12), ("4, 8", 12), ("SATURATED+JUMP_DET", 6), ("saturated | jump_det", 6),
        ("SATURATED+4", 6), (0, 0), ("0", 0), ("~1", ALL - 1), ("~DO_NOT_USE+HOT", ALL - 2049),
        ("~ (DO_NOT_USE + HOT)", ALL - 2049), ("REFERENCE_PIXEL", 2**31), (None, None), ("None", None),
        ("strict", 0), ("notebook", 6),
    ],
)  # fmt: skip
def test_grammar(policy, good):
    """M003: a sum, names, ~ for the bad ones, 0 for any flag, None to ignore; presets by name."""
    assert good_bits(policy) == good


def test_photometry_preset():
    """Bad are the bits at which there is no value or a wrong one; NaN is dealt with elsewhere."""
    bad = set(decode_dq(ALL & ~good_bits("photometry")))
    assert bad == {
        "DO_NOT_USE", "OUTLIER", "NON_SCIENCE", "DEAD", "HOT", "UNRELIABLE_SLOPE", "OPEN", "ADJ_OPEN", "REFERENCE_PIXEL"
    }  # fmt: skip
    assert set(PRESETS) == {"strict", "notebook", "photometry"}


@pytest.mark.parametrize("policy", ["HOTT", "", "~", "4+", "-1", 2**32, "1.5"])
def test_what_is_no_policy(policy):
    with pytest.raises(InputError, match="policy"):
        good_bits(policy)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (2049, {"DO_NOT_USE", "HOT"}),
        (32769, {"DO_NOT_USE", "TELEGRAPH"}),
        (1311745, {"DO_NOT_USE", "DEAD", "NO_FLAT_FIELD", "NO_LIN_CORR"}),
        (4194304, {"UNRELIABLE_BIAS"}),
        (2**31 + 1, {"DO_NOT_USE", "REFERENCE_PIXEL"}),
        (6, {"SATURATED", "JUMP_DET"}),
        (0, set()),
    ],
)
def test_decoder_on_real_values(value, names):
    """M004: values of real files."""
    assert set(decode_dq(np.uint32(value))) == names


def test_command_names_bits(capsys):
    """M004: from the command line."""
    assert main(["flags", "--dq", "2049"]) == 0
    assert capsys.readouterr().out.split() == ["DO_NOT_USE", "HOT"]
    assert main(["flags", "--dq", "0"]) == 0
    assert capsys.readouterr().out == "no bits\n"
    assert main(["flags", "--dq", "-1"]) == 2


def test_bits_are_those_of_the_standard():
    assert (DQ_BITS["JUMP_DET"], DQ_BITS["CHARGELOSS"], DQ_BITS["NON_SCIENCE"]) == (4, 128, 512)
    assert DQ_BITS["FLUX_ESTIMATED"] == 268435456
    assert len(DQ_BITS) == 32


def test_policy_is_checked_with_the_configuration():
    """P001: a wrong name is refused with its key path before any file is read."""
    with pytest.raises(ConfigError, match=r"input\.dq_good: 'HOTT'"):
        load_config(None, ["input.dq_good=HOTT"])
    assert load_config(None, ["input.dq_good=4+8"]).input.dq_good == "4+8"
    assert load_config(None, ["input.dq_good=null"]).input.dq_good is None
    assert load_config("nircam_sw").input.dq_good == "photometry"
