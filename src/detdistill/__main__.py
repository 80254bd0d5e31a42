"""`python -m detdistill` is the command `detdistill`."""

import sys

from detdistill.cli import main

if __name__ == "__main__":
    sys.exit(main())
