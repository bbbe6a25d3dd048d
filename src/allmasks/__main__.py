"""`python -m allmasks`."""

import sys

from allmasks.cli import main

if __name__ == "__main__":
    sys.exit(main())
