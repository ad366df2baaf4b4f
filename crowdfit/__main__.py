"""`python -m crowdfit`, and the entry point of the installed command."""

import gc
import sys
from collections.abc import Sequence

__all__ = ["main"]

CYCLES = 50_000
"""So many new objects before Python looks for dead cycles among them. The 130,000 objects of the packages live
to the end; going through them at the usual rate costs a tenth of the start, and as much again in the report."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; 130 when it is interrupted, even while it is loaded.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments without the program name; those of the process when not given.
    """
    gc.set_threshold(CYCLES)
    try:
        from crowdfit.cli import main as run  # noqa: PLC0415 - loading it can be interrupted, too

        return run(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("crowdfit: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
