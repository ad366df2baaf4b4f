"""SEP's extraction, whose only exception is the bare one, with refusals that say what to do."""

from typing import Any

import sep

from crowdfit.errors import InputError

__all__ = ["extract"]


def extract(name: str, remedy: str, image: Any, threshold: float, **options: Any) -> Any:
    """Return what ``sep.extract(image, threshold, **options)`` returns.

    Parameters
    ----------
    name, remedy : str
        Of the image, and which settings to change, for the message.
    image, threshold, **options
        Handed on.

    Raises
    ------
    InputError
        SEP's buffers overflow.
    """
    try:
        return sep.extract(image, threshold, **options)
    except Exception as problem:
        if "overflow" not in str(problem) and "pixel" not in str(problem):
            raise
        raise InputError(f"{name}: SEP ran out of room in a crowded field ({problem}); {remedy}") from problem
