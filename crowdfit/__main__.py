"""`python -m crowdfit`, and the entry point of the installed command."""

import sys

from crowdfit.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
