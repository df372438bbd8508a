"""What video files and pictures are called."""

from __future__ import annotations

from pathlib import Path, PurePath

__all__ = ["PICTURE_SUFFIXES", "VIDEO_SUFFIXES", "holds_pictures", "is_video_name"]

#: Endings of file names that are taken for videos where a directory is searched, in lower case.
VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .webm .wmv .y4m".split()
)


#: Endings of the names of pictures, in lower case.
PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def holds_pictures(folder: str | Path) -> bool:
    """Whether a path is a folder that holds a picture, and so may be a video's frames."""
    folder = Path(folder)
    return folder.is_dir() and any(file.suffix.lower() in PICTURE_SUFFIXES for file in folder.iterdir())


def is_video_name(name: str | PurePath) -> bool:
    """Whether a path or URL ends as a video's does, in capitals too."""
    return PurePath(name).suffix.lower() in VIDEO_SUFFIXES
