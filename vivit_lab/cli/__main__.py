"""``python -m vivit_lab.cli``, the same as ``vivit-lab``."""

import sys

from vivit_lab.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
