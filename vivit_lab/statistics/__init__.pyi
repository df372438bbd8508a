# The index of vivit_lab.statistics: read when it runs, and by type checkers and editors.
from vivit_lab.statistics.intervals import wilson_interval as wilson_interval
