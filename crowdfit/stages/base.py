"""What all stages share: validation that refuses unknown fields, and the frozen dataclass they are made with.

Write a stage as ``@dataclass(frozen=True, kw_only=True, config=STRICT)`` with pydantic's `dataclass`, a
`kind` literal, and every field as ``Field(default, ..., description="...")``.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict

STRICT = ConfigDict(
    extra="forbid", validate_default=True, use_attribute_docstrings=False, allow_inf_nan=False
)


def _listed(value: Any) -> Any:
    """Return a lone number as a list of one; what is no number is left for the validation to refuse."""
    return (value,) if isinstance(value, int | float | str) and not isinstance(value, bool) else value


Schedule = Annotated[tuple[float, ...], BeforeValidator(_listed)]
"""One value for each pass, the last one repeating. A number by itself holds for all passes."""


def by_pass(schedule: Schedule, pass_no: int) -> float:
    """Return the entry of a schedule for this pass; the last one repeats."""
    return schedule[min(pass_no, len(schedule) - 1)]
