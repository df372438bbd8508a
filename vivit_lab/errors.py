"""Every error and warning of the package, in one tree.

Each error is also the built-in it specialises, so ``except ValueError`` keeps working::

    VivitLabError(Exception)
    ├── ConfigError(ValueError)               a field of a model or processor configuration is wrong or unknown
    ├── GridError(ValueError)                 tokens, frames or pixels do not fit the token grid
    ├── InputError(ValueError)                an argument or a tensor's shape is not what was wanted
    ├── BackendError(RuntimeError)            an attention implementation, device or engine cannot; a run diverged
    ├── OutOfMemoryBudgetError(MemoryError)   the result would not fit into the memory that is free
    ├── VideoError(Exception)
    │   ├── VideoNotFoundError(FileNotFoundError)
    │   ├── NotAVideoError(ValueError)        no video stream to read: audio only, a still image, not media at all
    │   └── DecodeError(RuntimeError)         a frame cannot be decoded; says path, frame and time
    ├── DamagedFileError(ValueError)          a file that a run wrote is cut off or altered; names it
    ├── CheckpointError(Exception)
    │   ├── CheckpointNotFoundError(FileNotFoundError)
    │   ├── DamagedCheckpointError(DamagedFileError)  a training run cannot continue from it; names the file
    │   ├── KeyMismatchError(RuntimeError)    missing, unexpected or wrongly shaped tensors, listed in full
    │   └── UnsafeCheckpointError(ValueError) the file holds pickled code; it was not executed
    ├── BundledDataError(RuntimeError)        a file of data/ is missing or its sha256 is wrong
    ├── StorageError(OSError)                 results cannot be written: the disk is full, or takes no files
    └── MissingExtraError(ImportError)        an optional dependency is not installed; names the extra

    VivitLabWarning(UserWarning)
    ├── ShortClipWarning                      the video is shorter than the window that was asked for
    ├── SkippedClipWarning                    a labelled clip cannot be read, and was left out of training
    ├── DoubleNormalizationWarning            a processor configuration normalises twice
    ├── CheckpointWarning                     a checkpoint loaded, but not all of the model came from it
    ├── ColorWarning                          frames lack the colours that a player shows: HDR without tone mapping
    ├── FrameTimesWarning                     the times of frames are not known, and were assumed
    ├── DamagedFileWarning                    a file of a run is damaged, and what it held is missing or computed again
    ├── ChangedVideoWarning                   a video is not the one that a run's row was computed from
    ├── PrecisionWarning                      half precision left too few digits in a result
    ├── ResizedPositionsWarning               a clip of another size than the model was trained on
    └── DecodeWarning                         the decoder repaired damage; pixels may be wrong
"""

__all__ = [
    "BackendError",
    "BundledDataError",
    "ChangedVideoWarning",
    "CheckpointError",
    "CheckpointNotFoundError",
    "CheckpointWarning",
    "ColorWarning",
    "ConfigError",
    "DamagedCheckpointError",
    "DamagedFileError",
    "DamagedFileWarning",
    "DecodeError",
    "DecodeWarning",
    "DoubleNormalizationWarning",
    "FrameTimesWarning",
    "GridError",
    "InputError",
    "KeyMismatchError",
    "MissingExtraError",
    "NotAVideoError",
    "OutOfMemoryBudgetError",
    "PrecisionWarning",
    "ResizedPositionsWarning",
    "ShortClipWarning",
    "SkippedClipWarning",
    "StorageError",
    "UnsafeCheckpointError",
    "VideoError",
    "VideoNotFoundError",
    "VivitLabError",
    "VivitLabWarning",
]


class VivitLabError(Exception):
    """Base of every error that the package raises on purpose."""


class ConfigError(VivitLabError, ValueError):
    """A field of a model or processor configuration is wrong or unknown."""


class GridError(VivitLabError, ValueError):
    """Tokens, frames or pixels do not fit the token grid."""


class InputError(VivitLabError, ValueError):
    """An argument, or the shape of a tensor, is not what was wanted."""


class BackendError(VivitLabError, RuntimeError):
    """What computes cannot give what was asked: an attention implementation, a device, an engine, a diverged run."""


class OutOfMemoryBudgetError(VivitLabError, MemoryError):
    """The result would not fit into the memory that is free."""


class VideoError(VivitLabError):
    """Base of the errors about video files."""


class VideoNotFoundError(VideoError, FileNotFoundError):
    """There is no file at that path, or no directory to write it to."""


class NotAVideoError(VideoError, ValueError):
    """The file has no video to read: audio only, a still image, or not media at all."""


class DecodeError(VideoError, RuntimeError):
    """A frame cannot be decoded. The message names the path, the frame and its time."""


class DamagedFileError(VivitLabError, ValueError):
    """A file that a run wrote is cut off, altered or of another kind. The message names it and says what to do."""


class CheckpointError(VivitLabError):
    """Base of the errors about checkpoints."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No checkpoint at that directory or Hub id."""


class DamagedCheckpointError(CheckpointError, DamagedFileError):
    """A file of a training run's checkpoint is cut off, altered or missing; the message names it."""


class KeyMismatchError(CheckpointError, RuntimeError):
    """Tensors are missing, unexpected or of another shape; the message lists them in full."""


class UnsafeCheckpointError(CheckpointError, ValueError):
    """The file holds pickled code, which was not executed."""


class BundledDataError(VivitLabError, RuntimeError):
    """A bundled file is missing, or is not the file that the manifest describes."""


class StorageError(VivitLabError, OSError):
    """Results cannot be written: the disk is full, or takes no files. What was written before is whole."""


class MissingExtraError(VivitLabError, ImportError):
    """An optional dependency is not installed. The message names the extra to install."""


class VivitLabWarning(UserWarning):
    """Base of every warning of the package."""


class ShortClipWarning(VivitLabWarning):
    """The video is shorter than the window that was asked for; frames repeat."""


class SkippedClipWarning(VivitLabWarning):
    """A labelled clip cannot be read, and was left out of training or validation."""


class DoubleNormalizationWarning(VivitLabWarning):
    """A processor configuration normalises twice, to a range the model was not trained on."""


class CheckpointWarning(VivitLabWarning):
    """A checkpoint was loaded, but not every tensor of the model came from it."""


class ColorWarning(VivitLabWarning):
    """Frames do not have the colours that a player shows, such as HDR that is read without tone mapping."""


class FrameTimesWarning(VivitLabWarning):
    """When frames are shown is not known, and was assumed: pictures of a folder without a frame rate, or with gaps."""


class DamagedFileWarning(VivitLabWarning):
    """A file of a run is damaged: what it held is missing until it is computed again, or is computed again now."""


class ChangedVideoWarning(VivitLabWarning):
    """A video has changed since a run's row was computed from it."""


class PrecisionWarning(VivitLabWarning):
    """A result is a small difference of numbers in half precision, so that few or none of its digits are right."""


class ResizedPositionsWarning(VivitLabWarning):
    """A clip has another size or length than the model was trained on, so its positions were resized."""


class DecodeWarning(VivitLabWarning):
    """The decoder concealed damage in the file, so some pixels may be wrong."""
