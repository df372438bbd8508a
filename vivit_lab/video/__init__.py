"""Video files: from a file to frames that know their times, and back. Needs numpy and PyAV alone, no torch.

Each name is imported when it is first used.
"""

from vivit_lab._index import public_index

__all__, __getattr__, __dir__ = public_index(__name__)
