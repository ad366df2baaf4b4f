"""The formats of catalogues by name; apart from their writers, so that a fit can ask before it loads those."""

from importlib import import_module
from typing import Any, Final

from crowdfit.errors import InputError

__all__ = ["FORMATS", "check_formats", "pyarrow"]

FORMATS: Final = ("fits", "ecsv", "csv", "vot", "parquet")
"""Suffixes of the catalogue formats, without the dot."""


def check_formats(formats: tuple[str, ...]) -> None:
    """Refuse formats that cannot be written here; call it before a long fit.

    Parameters
    ----------
    formats : tuple of str
        Suffixes without the dot.

    Raises
    ------
    InputError
        Naming the formats there are, or the package that is missing.
    """
    for name in formats:
        if name.lower() not in FORMATS:
            raise InputError(f"'{name}' is not a catalogue format; choose from {', '.join(FORMATS)}")
        if name.lower() == "parquet":
            pyarrow("pyarrow")


def pyarrow(module: str) -> Any:
    """Import pyarrow or one of its modules; InputError says how to get it."""
    try:
        return import_module(module)
    except ImportError as exc:
        raise InputError(
            "parquet needs the package pyarrow; install it with pip install 'crowdfit[parquet]', or choose "
            "another format"
        ) from exc
