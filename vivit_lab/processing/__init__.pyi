# The index of vivit_lab.processing: read when it runs, and by type checkers and editors.
from vivit_lab.processing.processor import VivitImageProcessor as VivitImageProcessor
from vivit_lab.processing.sampling import Sampling as Sampling
from vivit_lab.processing.sampling import note_sampling as note_sampling
from vivit_lab.processing.sampling import sampling_of as sampling_of
