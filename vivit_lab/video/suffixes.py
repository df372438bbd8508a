"""What video files are called."""

from __future__ import annotations

__all__ = ["VIDEO_SUFFIXES"]

#: Endings of file names that are taken for videos where a directory is searched, in lower case.
VIDEO_SUFFIXES = frozenset({".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"})
