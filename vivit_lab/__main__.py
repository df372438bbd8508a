"""``python -m vivit_lab`` is ``vivit-lab``."""

import sys

from vivit_lab.cli import main

sys.exit(main())
