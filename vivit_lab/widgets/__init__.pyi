# The index of vivit_lab.widgets: read when it runs, and by type checkers and editors.
from vivit_lab.widgets.clip_explorer import ClipExplorer as ClipExplorer
from vivit_lab.widgets.compare_explorer import CompareExplorer as CompareExplorer
from vivit_lab.widgets.compare_explorer import Side as Side
from vivit_lab.widgets.faithfulness_table import FaithfulnessTable as FaithfulnessTable
from vivit_lab.widgets.head_explorer import HeadExplorer as HeadExplorer
from vivit_lab.widgets.link import link_views as link_views
from vivit_lab.widgets.logit_lens_strip import LogitLensStrip as LogitLensStrip
from vivit_lab.widgets.patching_heatmap import PatchingHeatmap as PatchingHeatmap
from vivit_lab.widgets.pruning_curves import PruningCurvesView as PruningCurvesView
from vivit_lab.widgets.workbench import Workbench as Workbench
