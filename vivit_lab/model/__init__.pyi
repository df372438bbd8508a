# The index of vivit_lab.model: read when it runs, and by type checkers and editors.
from vivit_lab.model.cache import ActivationCache as ActivationCache
from vivit_lab.model.cache import LogitLens as LogitLens
from vivit_lab.model.config import VivitConfig as VivitConfig
from vivit_lab.model.hooks import HookPoint as HookPoint
from vivit_lab.model.outputs import VideoClassifierOutput as VideoClassifierOutput
from vivit_lab.model.outputs import VivitModelOutput as VivitModelOutput
