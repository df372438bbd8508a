# The index of vivit_lab.bulk: read when it runs, and by type checkers and editors.
from vivit_lab.bulk.engine import LocalExecutor as LocalExecutor
from vivit_lab.bulk.engine import run_bulk as run_bulk
from vivit_lab.bulk.job import BulkJob as BulkJob
from vivit_lab.bulk.render import render_clips as render_clips
from vivit_lab.bulk.results import BulkResults as BulkResults
from vivit_lab.bulk.sweep import HeadSweepResults as HeadSweepResults
from vivit_lab.bulk.sweep import MaskList as MaskList
from vivit_lab.bulk.sweep import sweep_heads as sweep_heads
