"""What pages of documentation say, and whether it is so: code blocks, commands, settings."""

import re
import shlex

from crowdfit import config, config_layers, config_schema
from crowdfit.commands.photometry import list_settings
from crowdfit.detectors.destripe import Destripe
from crowdfit.scene import Scene
from docs.tables import COMMANDS

STAGES = config_schema.members(config.Config)


def blocks(text, language):
    """Return the code blocks of a page in a language."""
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def crowdfit_commands(text, language="sh"):
    """Return the arguments of each call of `crowdfit` in the shell blocks of a page, without comments."""
    lines = [line for block in blocks(text, language) for line in block.replace("\\\n", " ").splitlines()]
    calls = [
        shlex.split(part, comments=True)
        for line in lines
        for part in re.split(r"&&|\s\|\s", line)
        if "crowdfit" in part
    ]
    return [words[1:] for words in calls if words and words[0] == "crowdfit"]


def check_command(words):
    """Check that a command is one, with options that it takes and settings that are accepted."""
    command = COMMANDS[words[0]]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known
    names = [words[i + 1] for i, word in enumerate(words) if word == "-c"]
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    if words[0] == "destripe":  # it has settings of its own
        config_layers.resolve(Destripe, {}, None, settings)
        return
    if words[0] == "simulate" and "--like" not in words:  # so have scenes
        assert {setting.partition("=")[0] for setting in settings} <= set(config_schema.options(Scene))
        return
    if words[0] == "photometry":  # it turns apertures on by itself
        settings = list_settings(names[0] if names else None, settings, [])
    for name in names or [None]:
        config.load_config(None if name and name.endswith(".yaml") else name, settings)


def named_settings(text):
    """Return `stage.field` in code type, or at the start of it, as often as its stage is one."""
    named = re.findall(r"`(?:--set |--vary )?([a-z_]+\.[a-z_]+)(?:[:=\[][^`]*)?`", text)
    return [name for name in named if name.partition(".")[0] in STAGES]


def is_setting(name):
    """Return whether `stage.field` is a setting of one of the kinds of a stage."""
    stage, _, field = name.partition(".")
    fields = {name for cls in STAGES[stage].values() for name in config_schema.options(cls)}
    return field in fields | {"kind"}
