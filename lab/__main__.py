"""python -m lab: the console script `lab`, where that is not on the path."""

import sys

from lab.commands import main

if __name__ == "__main__":
    sys.exit(main())
