# The index of vivit_lab.training: read when it runs, and by type checkers and editors.
from vivit_lab.training.augment import Augmentation as Augmentation
from vivit_lab.training.augment import Mirror as Mirror
from vivit_lab.training.augment import mirror_of as mirror_of
from vivit_lab.training.config import PRESETS as PRESETS
from vivit_lab.training.config import TrainingConfig as TrainingConfig
from vivit_lab.training.data import LabelledClip as LabelledClip
from vivit_lab.training.data import find_clips as find_clips
from vivit_lab.training.finetuning import FinetuneResult as FinetuneResult
from vivit_lab.training.finetuning import finetune as finetune
from vivit_lab.training.loop import train as train
from vivit_lab.training.scores import ClassificationReport as ClassificationReport
from vivit_lab.training.scores import classify_clips as classify_clips
