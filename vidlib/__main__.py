"""`python -m vidlib`."""

import sys

from .cli import main

# the guard matters: worker processes import this file again
if __name__ == "__main__":
    sys.exit(main())
