"""`python -m crowdfit`, and the entry point of the installed command; what is set for the whole process."""

import _thread
import gc
import sys
import threading
from collections.abc import Sequence
from typing import Any

__all__ = ["main"]

CYCLES = 50_000
"""So many new objects before Python looks for dead cycles among them. The 130,000 objects of the packages live
to the end; going through them at the usual rate costs a tenth of the start, and as much again in the report."""
AGAIN = 0.05
"""A lost interrupt is repeated after this time (s)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; 130 when it is interrupted, even while it is loaded.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments without the program name; those of the process when not given.
    """
    gc.set_threshold(CYCLES)
    sys.unraisablehook = _repeat_interrupt
    try:
        from crowdfit.cli import main as run  # noqa: PLC0415 - loading it can be interrupted, too

        return run(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("crowdfit: interrupted\n")
        return 130


def _repeat_interrupt(lost: Any) -> None:
    """Interrupt once more when Ctrl-C came where Python can only ignore it; report other lost exceptions.

    Half of them do: Python acts on a signal when a kernel has returned, and what runs then is often the clearing
    of a weak reference of numba's, from which no exception gets out.
    """
    if lost.exc_type is KeyboardInterrupt:
        timer = threading.Timer(AGAIN, _thread.interrupt_main)
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(lost)


if __name__ == "__main__":
    sys.exit(main())
