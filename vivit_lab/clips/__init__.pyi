# The index of vivit_lab.clips: read when it runs, and by type checkers and editors.
from vivit_lab.clips.listing import ClipList as ClipList
from vivit_lab.clips.listing import list_clips as list_clips
