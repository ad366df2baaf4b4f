"""Widths of distributions that outliers do not move."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAD", "scatter"]

MAD: Final = 1.4826
"""Standard deviation of normal numbers over the median of their distances from the median."""


def scatter(values: NDArray[Any]) -> float:
    """Return the standard deviation of values (n,) about their median as the median distance tells it."""
    return float(MAD * np.median(np.abs(values - np.median(values))))
