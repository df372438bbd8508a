# The index of vivit_lab.checkpoints: read when it runs, and by type checkers and editors.
from vivit_lab.checkpoints.checkpoint import Checkpoint as Checkpoint
from vivit_lab.checkpoints.checkpoint import kinetics400_labels as kinetics400_labels
from vivit_lab.checkpoints.hub import bundled_clip_path as bundled_clip_path
from vivit_lab.checkpoints.hub import bundled_model_path as bundled_model_path
