# The index of vivit_lab.planted: read when it runs, and by type checkers and editors.
from vivit_lab.planted.clip import PlantedClip as PlantedClip
from vivit_lab.planted.clip import PlantedDataset as PlantedDataset
from vivit_lab.planted.clip import planted_clip as planted_clip
from vivit_lab.planted.files import read_planted as read_planted
from vivit_lab.planted.files import write_planted as write_planted
from vivit_lab.planted.report import planted_report as planted_report
from vivit_lab.planted.scene import PlantedConfig as PlantedConfig
