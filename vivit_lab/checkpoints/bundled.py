"""The small models and clip that ship with the package, so that it does something real before anything is downloaded.

They lie in ``data/``: beside the package in a checkout, inside it in an installed wheel. Before its first use in a
process each file is compared with the size and sha256 in ``data/manifest.json``, which also tells licence and origin.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from vivit_lab.checkpoints.hub import pin_revision, resolve_file
from vivit_lab.errors import BundledDataError, CheckpointNotFoundError, CheckpointWarning
from vivit_lab.files import read_json

__all__ = [
    "bundled_clip_path",
    "bundled_manifest",
    "bundled_model_path",
    "data_directory",
    "verify_bundled",
]

_PACKAGE = Path(__file__).resolve().parent.parent
_CHUNK = 2**20


def data_directory() -> Path:
    """Return where the bundled files are: in the installed package, else beside it in a checkout.

    Raises:
        BundledDataError: there is no ``manifest.json`` in either place.
    """
    places = [_PACKAGE / "data", _PACKAGE.parent / "data"]
    for place in places:
        if (place / "manifest.json").is_file():
            return place
    raise BundledDataError(
        f"the bundled data is missing: no manifest.json in {' or '.join(map(str, places))}. Install the package again, "
        "or use a clip and a model of your own"
    )


def bundled_manifest() -> dict[str, Any]:
    """Return the contents of ``data/manifest.json``: for each file its size, sha256, licence, attribution and origin.

    Raises:
        BundledDataError: it is missing or is not such a manifest.
    """
    path = data_directory() / "manifest.json"
    try:
        contents = read_json(path)
        files, folder, clip = contents["files"], contents["model"]["directory"], contents["clip"]
        if not isinstance(files, dict) or clip not in files or not _files_of(contents, folder):
            raise ValueError(f"wanted files of the model {folder!r} and the clip {clip!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise BundledDataError(
            f"{path} is damaged ({type(error).__name__}: {error}); install the package again"
        ) from error
    return contents


def bundled_clip_path() -> Path:
    """Return the path of the bundled clip, a Samoyed on a floor (see its attribution in ``data/NOTICE.md``).

    Raises:
        BundledDataError: it is missing or is not the file that the manifest describes.
    """
    return verify_bundled(bundled_manifest()["clip"])


def bundled_model_path(
    name: str = "bundled",
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Return the directory of a bundled model.

    ``"bundled"`` is a ViViT started from an image model: it knows no motion and no classes. ``"planted"`` is a small
    ViViT trained on planted clips: it names the direction in which a shape moves, and where the evidence is is known.

    An installation without it looks for the same files on the Hub, where they are if they have been published. It says
    so in a warning, and checks what comes against the manifest.

    Args:
        name: ``"bundled"`` or ``"planted"``.
        cache_dir: where a download is kept.
        local_files_only: never touch the network.
        token: Hub access token.

    Raises:
        BundledDataError: there is no such model, a file is not the one that the manifest describes, or the model is
            found neither here nor on the Hub.
    """
    manifest = bundled_manifest()
    entry = manifest.get("model" if name == "bundled" else name)
    if not isinstance(entry, dict) or "directory" not in entry or "sha256" in entry:
        raise BundledDataError(f"no model {name!r} is bundled; wanted 'bundled' or 'planted'")
    folder = entry["directory"]
    if (data_directory() / folder).is_dir():
        for name in _files_of(manifest, folder):
            verify_bundled(name)
        return data_directory() / folder
    return _from_hub(manifest, entry, {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token})


def verify_bundled(name: str) -> Path:
    """Return the path of a file of ``data/``, once it is known to be the one that the manifest describes.

    The sha256 is computed once a process for each state (size, time of change) of the file; 45 MB take about 0.1 s.

    Args:
        name: path inside ``data/``, with forward slashes.

    Raises:
        BundledDataError: the manifest has no such file, it is missing, or its size or sha256 is another.
    """
    files = bundled_manifest()["files"]
    if name not in files:
        raise BundledDataError(f"the manifest has no file {name!r}; it has {', '.join(sorted(files))}")
    path = data_directory() / name
    if not path.is_file():
        raise BundledDataError(
            f"the bundled file {path} is missing; check the checkout out or install the package again"
        )
    _check(path, name, files[name])
    return path


def _check(path: Path, name: str, entry: dict[str, Any]) -> None:
    status = path.stat()
    if status.st_size != entry["bytes"]:
        hint = " (a Git LFS pointer? fetch the file itself)" if status.st_size < 200 else ""
        raise BundledDataError(
            f"{path} is not the bundled {name}: wanted {entry['bytes']} bytes, got {status.st_size}{hint}"
        )
    found = _sha256(path, status.st_size, status.st_mtime_ns)
    if found != entry["sha256"]:
        raise BundledDataError(f"{path} is not the bundled {name}: wanted sha256 {entry['sha256']}, got {found}")


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    """Hash a file; size and time of change are only there to make a changed file a new question."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _files_of(manifest: dict[str, Any], folder: str) -> list[str]:
    return [name for name in manifest["files"] if name.startswith(f"{folder}/")]


def _from_hub(manifest: dict[str, Any], entry: dict[str, Any], where: dict[str, Any]) -> Path:
    """Fetch a bundled model's files from the Hub and check each."""
    folder, repo = entry["directory"], entry.get("hub_id")
    missing = f"the bundled model is not part of this installation ({data_directory() / folder} is absent)"
    if not repo:
        raise BundledDataError(f"{missing}, and the manifest names no Hub id; install the package again")
    warnings.warn(
        f"{missing}: looking for it on the Hub, as {repo}, if it has been published there; what comes is verified",
        CheckpointWarning,
        stacklevel=3,
    )
    paths = []
    for name in _files_of(manifest, folder):
        try:
            where = pin_revision(repo, **where)  # nothing is asked once it is a commit
            path = resolve_file(repo, name.removeprefix(f"{folder}/"), **where)
        except CheckpointNotFoundError as error:
            raise BundledDataError(
                f"{missing}, and it could not be taken from the Hub, where {repo} is only if it has been "
                f"published: {error}. Install a wheel or check out a source that has data/, or load another model"
            ) from error
        assert path is not None, "a required file is found or raises"
        _check(path, name, manifest["files"][name])
        paths.append(path)
    return paths[0].parent
