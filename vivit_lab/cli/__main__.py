"""``python -m vivit_lab.cli``, the same as ``vivit-lab``."""

import sys

from vivit_lab.cli.app import main

sys.exit(main())
