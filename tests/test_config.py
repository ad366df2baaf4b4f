"""The configuration of crowdfit itself: its stages, the shipped files, and what a person is told."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from crowdfit import config as configuration
from crowdfit.config import (
    Config,
    config_hash,
    describe,
    dump,
    load_config,
    override,
    resolve,
    shipped,
)
from crowdfit.config_layers import to_plain
from crowdfit.config_schema import allowed, members, options, summary
from crowdfit.errors import ConfigError

NAMES = sorted(shipped())
OPTIONS = [
    (stage, kind, cls, name)
    for stage, kinds in members(Config).items()
    for kind, cls in kinds.items()
    for name in options(cls)
]


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    return str(caught.value)


def test_the_shipped_configurations_are_there():
    expected = {
        "acs",
        "wfc3_uvis",
        "wfc3_ir",
        "decam",
        "nircam_sw",
        "nircam_lw",
        "miri",
        "wfpc2",
        "irac",
        "k2",
        "undersampled",
        "forced",
    }
    assert expected <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "write", [describe, lambda resolved: dump(resolved.config)], ids=["describe", "dump"]
)
def test_shipped_configurations_round_trip(name: str, write, tmp_path: Path):
    """P003: what is printed or stored loads back to an equal configuration."""
    resolved = resolve(name)
    path = tmp_path / "again.yaml"
    path.write_text(write(resolved), encoding="utf-8")
    again = load_config(path)
    assert again == resolved.config
    assert config_hash(again) == config_hash(resolved.config)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_configurations_hold_departures_only(name: str):
    """Defaults live in the classes only; a value that repeats one would hide a later change of it."""
    resolved = resolve(name)
    for key, origin in resolved.origins.items():
        stage, field = key.split(".")
        if origin != "default":
            default = type(getattr(resolved.config, stage))
            info = options(default).get(field)
            value = getattr(getattr(resolved.config, stage), field)
            if info is not None and not info.is_required():
                assert value != info.get_default(call_default_factory=True), f"{name}: {key} is the default"


@pytest.mark.parametrize("name", NAMES)
def test_shipped_configurations_give_a_reason_for_every_value(name: str):
    first, *lines = shipped()[name].read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")
    for line in lines:
        if re.search(r":\s*[^\s#]|^\s*- ", line) and not line.startswith("base:"):
            assert "#" in line, f"{name}: {line}"


def test_defaults_are_those_of_the_classes():
    assert load_config() == Config()
    assert set(resolve().origins.values()) == {"default"}


def test_the_first_member_of_a_union_is_the_default():
    for stage, kinds in members(Config).items():
        assert type(getattr(Config(), stage)) is next(iter(kinds.values())), stage


@pytest.mark.parametrize(("stage", "kind", "cls", "name"), OPTIONS, ids=str)
def test_every_setting_is_documented(stage: str, kind: str, cls: type, name: str):
    """P001: each field has a sentence, and what it accepts can be said in words."""
    assert options(cls)[name].description, f"{stage}.{name} of {kind}"
    assert "right type" not in allowed(cls, name)
    assert summary(cls)


@pytest.mark.parametrize("stage", list(members(Config)))
def test_every_kind_can_be_chosen(stage: str):
    for kind, cls in members(Config)[stage].items():
        required = [name for name, info in options(cls).items() if info.is_required()]
        needed = [f"{stage}.{name}={'a' if allowed(cls, name) == 'a path' else 1}" for name in required]
        chosen = load_config(None, [f"{stage}.kind={kind}", *needed] if kind else needed)
        assert type(getattr(chosen, stage)) is cls


def test_messages_name_path_value_origin_range_and_nearest_key():
    """P001, P013, P103: the three examples of the style guide, with our stages."""
    message = refusal("detect.nsgma=4")
    assert message.startswith("detect.nsgma: unknown field of 'score', set to 4 (--set detect.nsgma=4); ")
    assert "did you mean nsigma? it takes nsigma, " in message
    message = refusal("stop.max_passes=0")
    assert message == "stop.max_passes: 0 is not an integer of at least 1 (--set stop.max_passes=0)"
    kinds = ", ".join(repr(kind) for kind in members(Config)["sky"])
    assert refusal("sky.kind=median") == f"sky.kind: 'median' is not one of {kinds} (--set sky.kind=median)"


def test_unknown_stage_names_the_nearest_and_all():
    """P001."""
    message = refusal("detct.nsigma=4")
    assert "did you mean detect? the keys are " + ", ".join(field.name for field in fields(Config)) in message


def test_all_mistakes_are_told_at_once(tmp_path: Path):
    """P103: one line for each, file and line in it."""
    path = tmp_path / "wrong.yaml"
    path.write_text("sky:\n  kind: mesh\n  brigt: 3\nstop: {max_passes: off}\noutput: {formats: [xls]}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["solve.kind=qr"])
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "sky.brigt",
        "solve.kind",
        "stop.max_passes",
        "output.formats",
    ]
    assert f"({path}, line 3); did you mean bright?" in lines[0]
    assert lines[2] == f"stop.max_passes: 'off' is not an integer of at least 1 ({path}, line 4)"


def test_command_line_goes_over_file_over_base_over_default(tmp_path: Path):
    """P003."""
    path = tmp_path / "field.yaml"
    path.write_text("base: irac\ninput: {saturate: 1500}\nstop: {max_passes: 7}\n")
    resolved = resolve(path, ["stop.max_passes=9"])
    assert resolved.config.stop.max_passes == 9
    assert resolved.config.input.saturate == 1500
    assert resolved.config.input.gain == load_config("irac").input.gain
    assert resolved.origins["input.gain"].startswith("irac.yaml, line ")
    assert resolved.origins["input.saturate"] == f"{path}, line 2"
    assert resolved.origins["stop.max_passes"] == "--set stop.max_passes=9"
    assert resolved.origins["stop.min_passes"] == "default"


def test_filter_blocks(tmp_path: Path):
    """P002."""
    path = tmp_path / "survey.yaml"
    path.write_text("filters:\n  F444W: {stop: {max_passes: 5}}\n")
    assert load_config(path, band="F444W").stop.max_passes == 5
    assert load_config(path, band="F200W") == Config()


def test_hash_follows_values_not_their_origin(tmp_path: Path):
    path = tmp_path / "same.yaml"
    path.write_text("stop: {max_passes: 9}\n")
    assert config_hash(load_config(path)) == config_hash(load_config(None, ["stop.max_passes=9"]))
    assert config_hash(load_config(path)) != config_hash(Config())
    assert re.fullmatch("[0-9a-f]{12}", config_hash(Config()))


def test_a_callable_can_stand_in_for_a_stage():
    """A stage of the user's own needs no registration; it is named in what is stored."""

    def my_sky(frames, *, pass_no):
        return frames

    config = replace(Config(), sky=my_sky)
    assert config.sky is my_sky
    assert "my_sky" in dump(config)
    assert override(config, ["stop.max_passes=9"]).sky is my_sky


def test_a_stage_of_another_kind_of_work_is_refused():
    with pytest.raises(ValidationError, match="sky"):
        replace(Config(), sky=Config().solve)
    with pytest.raises(ValidationError, match="sky"):
        replace(Config(), sky="mesh")


def test_configurations_are_frozen_and_checked_on_replace():
    with pytest.raises(ValidationError):
        replace(Config().stop, max_passes=-1)
    with pytest.raises(AttributeError):
        Config().stop = None


def test_shipped_are_found_inside_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The wheel carries configs/ in the package; a checkout has it beside the package."""
    inside = tmp_path / "crowdfit" / "configs"
    inside.mkdir(parents=True)
    (inside / "mine.yaml").write_text("# mine\n")
    monkeypatch.setattr(configuration, "__file__", str(tmp_path / "crowdfit" / "config.py"))
    shipped.cache_clear()
    try:
        assert shipped() == {"mine": inside / "mine.yaml"}
    finally:
        shipped.cache_clear()


def test_plain_values_have_every_stage_and_field():
    values = to_plain(Config())
    assert list(values) == [field.name for field in fields(Config)]
    assert list(values["output"]) == ["formats", "report", "run_record"]


@pytest.mark.parametrize("value", ["4", "4.0", "[4]"])
def test_one_number_is_a_schedule(value: str):
    """`--set detect.nsigma=4` holds for every pass."""
    assert load_config(None, [f"detect.nsigma={value}"]).detect.nsigma == (4.0,)


@pytest.mark.parametrize("value", [".inf", ".nan"])
@pytest.mark.parametrize(
    "key", ["psf_update.max_radius", "stamps.smallest", "solve.shift_sigma", "measure.window"]
)
def test_numbers_are_finite(key: str, value: str):
    with pytest.raises(ConfigError, match=rf"{key}: \{value} is not a number"):
        load_config(None, [f"{key}={value}"])


@pytest.mark.parametrize("value", ["true", "[]", "null", "high"])
def test_what_is_no_schedule_is_refused(value: str):
    with pytest.raises(ConfigError, match=r"detect\.nsigma: .* is not a list"):
        load_config(None, [f"detect.nsigma={value}"])
