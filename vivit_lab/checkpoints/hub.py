"""Where the files of a checkpoint are: in a directory, on the Hub (downloaded once, then cached), or in the package."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import ssl
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vivit_lab.errors import BundledDataError, CheckpointNotFoundError, CheckpointWarning, InputError
from vivit_lab.files import read_json

__all__ = [
    "BUNDLED",
    "bundled_clip_path",
    "bundled_manifest",
    "bundled_model_path",
    "data_directory",
    "is_local",
    "pin_revision",
    "resolve_file",
    "resolve_first",
    "take_loader_arguments",
    "verify_bundled",
]

# What is always so here, whatever is passed: tensors are read one at a time, no code of a checkpoint is ever run, and a
# download goes on where it stopped.
_WITHOUT_EFFECT = ("low_cpu_mem_usage", "trust_remote_code", "code_revision", "resume_download", "_fast_init")

# What is not supported, and what to do instead. The value in front asks for nothing, as does None.
_NOT_SUPPORTED: dict[str, tuple[Any, str]] = {
    "subfolder": ("", "keep the model in a repository of its own, or pass the path of the local subfolder"),
    "variant": ("", "rename the files to model.safetensors, or keep them in a directory or revision of their own"),
    "output_loading_info": (False, "a CheckpointWarning tells what did not come from the checkpoint, and a "
                            "KeyMismatchError what does not fit"),
    "proxies": ({}, "set HTTPS_PROXY in the environment, which the Hub's client reads"),
    "use_auth_token": (False, "pass token=…, its newer name"),
    "state_dict": (None, "build the model from its configuration and call load_state_dict, which wants this package's "
                   "names, or save the tensors beside a config.json and load that directory"),
    "from_tf": (False, "convert the weights to safetensors first"),
    "from_flax": (False, "convert the weights to safetensors first"),
    "gguf_file": ("", "convert the weights to safetensors first"),
    "quantization_config": (None, "load in float, e.g. dtype='bfloat16'"),
    "load_in_8bit": (False, "load in float, e.g. dtype='bfloat16'"),
    "load_in_4bit": (False, "load in float, e.g. dtype='bfloat16'"),
    "weights_only": (True, "pickled code is never run; convert the file to safetensors where you trust it"),
    "key_mapping": (None, "rename the tensors in the file"),
    "max_memory": (None, "one device holds the whole model: pass device"),
    "offload_folder": (None, "one device holds the whole model: pass device"),
    "offload_state_dict": (False, "one device holds the whole model: pass device"),
    "offload_buffers": (False, "one device holds the whole model: pass device"),
    "tp_plan": (None, "one device holds the whole model: pass device"),
}  # fmt: skip


def take_loader_arguments(arguments: dict[str, Any]) -> None:
    """Take out of keyword arguments those of transformers' loader that change nothing here.

    Args:
        arguments: what a caller passed besides the arguments known here; loader arguments are removed from it, and what
            is left are fields of the configuration.

    Raises:
        InputError: one of them asks for what is not supported; the message says what to do instead.
    """
    for name in _WITHOUT_EFFECT:
        arguments.pop(name, None)
    for name, (nothing, instead) in _NOT_SUPPORTED.items():
        value = arguments.pop(name, None)
        if value is not None and value != nothing:
            raise InputError(f"{name} is not supported: {instead} (got {name}={value!r})")


BUNDLED = ("bundled", "planted")  # names of the models that ship with the package
"""Names of the models that ship with the package, wherever a directory or Hub id is taken.

Only a directory of that name with a config.json wins over them: any other folder, such as one of clips, is no
checkpoint. A path (``Path("planted")`` or ``"./planted"``) is always the directory, and ``bundled_model_path()`` always
the shipped model.
"""

# owner/name or name, as the Hub allows them
_REPO_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(?:/[A-Za-z0-9_][\w.-]{0,95})?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# requests (huggingface_hub below 1), httpx (1) and httpx2 (2), with what they are built on
_HTTP_LIBRARY = re.compile(r"(?:requests|urllib3|httpx|httpcore)\d*")
_FILE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".ckpt")


def is_local(model: str | os.PathLike[str]) -> bool:
    """Whether ``model`` names a directory on this machine rather than a Hub id; nothing is fetched.

    A directory that exists always wins over a Hub id of the same spelling, as in transformers. It wins over the name of
    a bundled model where it holds a config.json.

    Args:
        model: a directory, or a Hub id such as ``"google/vivit-b-16x2-kinetics400"``.

    Raises:
        CheckpointNotFoundError: it is written like a path, but there is no such directory.
    """
    text = os.fspath(model)
    path = Path(text).expanduser()
    if model in BUNDLED:
        return (path / "config.json").is_file()
    if text and path.is_dir():
        return True
    if path.is_file():
        raise CheckpointNotFoundError(
            f"{text} is a file; wanted the directory that holds it and its config.json, or a Hub id"
        )
    if isinstance(model, os.PathLike) or _written_like_a_path(text):
        raise CheckpointNotFoundError(
            f"there is no directory {text!r} (looked for {path.absolute()}), and it is not a Hub id: wanted a "
            "directory with a config.json, or an id such as 'google/vivit-b-16x2-kinetics400'"
        )
    return False


def _written_like_a_path(text: str) -> bool:
    separators = {"/", os.sep, os.altsep or "/"}
    return (
        text.startswith((".", "~", "/", "\\"))
        or any(text.endswith(mark) for mark in separators)
        or text.lower().endswith(_FILE_SUFFIXES)
        or not _REPO_ID.fullmatch(text)
        or "--" in text
        or ".." in text
    )


def resolve_file(
    model: str | os.PathLike[str],
    filename: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    force_download: bool = False,
    required: bool = True,
) -> Path | None:
    """Return the path of one file of a checkpoint, downloading it where it is on the Hub and not in the cache.

    Args:
        model: a directory, a Hub id, or ``"bundled"`` or ``"planted"`` (see ``BUNDLED``).
        filename: name of the file in the directory or repository.
        revision: branch, tag or commit on the Hub; ``"main"`` where None. A directory has none.
        cache_dir: where downloads are kept; ``HF_HOME`` and the Hub client's own default where None.
        local_files_only: only look into the cache, never at the network. ``HF_HUB_OFFLINE=1`` does the same.
        token: access token for gated and private repositories; True for the one stored by ``hf auth login``.
        force_download: fetch the file again although it is in the cache; a directory has nothing to fetch.
        required: whether a checkpoint without this file is an error.

    Returns:
        The path; None where the checkpoint is there but not this file, and it is not required.

    Raises:
        CheckpointNotFoundError: no such directory, repository, revision or file, no access to it, or no connection
            and nothing cached; the message says which, and what to do.
        InputError: a file is to be fetched again, but only the cache may be used.
    """
    if _is_bundled(model):
        where = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
        model = bundled_model_path(os.fspath(model), **where)
    if is_local(model):
        path = Path(os.fspath(model)).expanduser() / filename
        if path.is_file():
            return path
        if not required:
            return None
        present = ", ".join(sorted(entry.name for entry in path.parent.iterdir())[:20]) if path.parent.is_dir() else ""
        raise CheckpointNotFoundError(f"there is no {filename} in {path.parent}, which holds: {present or 'nothing'}")
    place = {"revision": revision, "cache_dir": None if cache_dir is None else os.fspath(cache_dir)}
    return _download(os.fspath(model), filename, place, local_files_only, token, required, force_download)


def _is_bundled(model: str | os.PathLike[str]) -> bool:
    return model in BUNDLED and not is_local(model)


def pin_revision(model: str | os.PathLike[str], **where: Any) -> dict[str, Any]:
    """Return where to look for every file of one load: at one commit, and without asking a Hub that is out of reach.

    A branch can move between two files of a load, and configuration and weights would then not belong together. And
    the Hub's client tries again for about 20 s for every file; after the first lost connection the cache serves.
    Nothing changes for a directory and for a bundled model, and where the revision is a commit already.

    Args:
        model: a directory, a Hub id, or ``"bundled"``.
        **where: ``revision``, ``cache_dir``, ``local_files_only``, ``token`` and ``force_download`` of
            ``resolve_file``.

    Returns:
        ``where`` with ``revision`` a commit; ``local_files_only`` is True where the Hub could not be reached.

    Raises:
        CheckpointNotFoundError: there is no such checkpoint, no access to it, or no connection and nothing cached.

    Example:
        >>> where = pin_revision("google/vivit-b-16x2-kinetics400", revision="main")
    """
    pinned = dict(where)
    if _is_bundled(model) or is_local(model) or _COMMIT.fullmatch(where.get("revision") or ""):
        return pinned
    repo, forced = os.fspath(model), bool(pinned.pop("force_download", False))
    lost, commit = None, None
    if not _offline(bool(where.get("local_files_only"))):
        lost, commit = _ask(repo, where)
    if lost is not None:
        pinned["local_files_only"] = True
    if commit is not None:
        # first by its commit: the client asks for a file twice, and a branch could move in between
        resolve_file(repo, "config.json", **{**pinned, "revision": commit}, required=False)
    # then by its branch, so that the client notes in the cache where that is, for a load without connection
    path = resolve_file(repo, "config.json", **pinned, required=False)
    if lost is not None and (path is None or forced):
        place = {"revision": where.get("revision"), "cache_dir": where.get("cache_dir")}
        if forced or not _known_absent(repo, "config.json", place):
            raise CheckpointNotFoundError(_unreachable(repo, "config.json", place, False, lost)) from lost
    found = commit if path is None else path.parent.name
    if found is not None and _COMMIT.fullmatch(found):
        pinned["revision"] = found
    return {**pinned, "force_download": True} if forced else pinned


def _ask(repo: str, where: dict[str, Any]) -> tuple[Exception | None, str | None]:
    """Ask the Hub which commit the revision is; return why it could not be reached, and the commit where it told.

    Raises:
        CheckpointNotFoundError: a proxy or a certificate keeps it from being reached.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        url = hf_hub_url(repo, "config.json", revision=where.get("revision"))
        timeout = constants.HF_HUB_ETAG_TIMEOUT
        with _brief():
            return None, get_hf_file_metadata(url, token=where.get("token"), timeout=timeout).commit_hash
    except HfHubHTTPError as error:  # an answer: no such file, no access; what it means is said when a file is fetched
        if error.response is None:
            return None, None
        commit = error.response.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)
        return (error if error.response.status_code >= 500 else None), commit
    except Exception as error:  # the client raises errors of several HTTP libraries
        if not _is_network(error):
            return None, None
        if _is_misconfigured(error):  # to be mended, not to be hidden by a cache
            raise CheckpointNotFoundError(
                f"config.json of {repo} could not be fetched from the Hub at {constants.ENDPOINT}: {_in_words(error)}. "
                "Correct the settings of the network, or pass local_files_only=True for what is in the cache"
            ) from error
        return error, None


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and what led to it, the innermost last."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def _is_network(error: BaseException) -> bool:
    """Whether an error says that a server did not answer, in the classes of any of the client's HTTP libraries."""
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return any(_HTTP_LIBRARY.fullmatch(kind.__module__.partition(".")[0]) for kind in type(error).__mro__)


def _is_misconfigured(error: BaseException) -> bool:
    """Whether a proxy or a certificate is to blame, which is a setting of this machine and not a lost connection."""
    return any(isinstance(link, ssl.SSLError) for link in _chain(error)) or _is_proxys(error)


def _is_proxys(error: BaseException) -> bool:
    # requests has a class for a proxy that does not answer; httpx says only that something refused the connection
    names = [type(link).__name__ for link in _chain(error)]
    return "ProxyError" in names or ("ConnectError" in names and _proxy() is not None)


def _proxy() -> str | None:
    """Return the proxy that is set for the Hub, if any."""
    from huggingface_hub import constants

    hub = urlsplit(constants.ENDPOINT)
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(hub.netloc):
        return None
    return proxies.get(hub.scheme) or proxies.get("all")


def _in_words(error: BaseException) -> str:
    """Say in a few words why a server was not reached; the libraries' own texts run over 400 characters."""
    links = _chain(error)
    if _is_proxys(error):
        return f"the proxy {_proxy() or 'that is set'} does not answer"
    for link in links:
        if isinstance(link, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted ({link.verify_message})"
        if isinstance(link, ssl.SSLError):
            return f"there is no secure connection to it ({(link.reason or str(link)).replace('_', ' ').lower()})"
        if isinstance(link, socket.gaierror):
            return "its name is not known here: is this machine connected to a network?"
        if isinstance(link, ConnectionRefusedError):
            return "the connection was refused"
        if isinstance(link, TimeoutError) or "Timeout" in type(link).__name__:
            return "no answer in time"
    text = " ".join(str(links[-1]).split())
    return f"{type(links[-1]).__name__}: {text if len(text) <= 120 else f'{text[:119]}…'}"


class _Shorten(logging.Filter):
    """Leaves out what the client logs of each failed try, and says of its waits what it waits for."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if " thrown while requesting " in text:
            return False
        if text.startswith("Retrying in "):
            from huggingface_hub import constants

            record.msg, record.args = f"The Hub at {constants.ENDPOINT} does not answer. {text}", ()
        return True


@contextmanager
def _brief() -> Iterator[None]:
    """Keep the client's log short while it asks the Hub: what failed in the end is said by an error."""
    log, shorten = logging.getLogger("huggingface_hub.utils._http"), _Shorten()
    log.addFilter(shorten)
    try:
        yield
    finally:
        log.removeFilter(shorten)


def resolve_first(model: str | os.PathLike[str], filenames: tuple[str, ...], **where: Any) -> Path:
    """Return the path of the first of several files that a checkpoint has.

    Args:
        model: a directory, or a Hub id.
        filenames: names in order of preference.
        **where: ``revision``, ``cache_dir``, ``local_files_only``, ``token`` and ``force_download`` of
            ``resolve_file``.

    Raises:
        CheckpointNotFoundError: it has none of them.
    """
    for filename in filenames:
        path = resolve_file(model, filename, **where, required=False)
        if path is not None:
            return path
    only_cache = not is_local(model) and _offline(bool(where.get("local_files_only")))
    hint = "; only the cache was searched: allow downloads once, with a connection" if only_cache else ""
    raise CheckpointNotFoundError(f"{os.fspath(model)} has none of the files {', '.join(filenames)}{hint}")


def _download(
    repo: str,
    filename: str,
    place: dict[str, str | None],
    local_files_only: bool,
    token: str | bool | None,
    required: bool,
    force: bool,
) -> Path | None:
    if force and _offline(local_files_only):
        raise InputError(
            f"force_download=True asks for {filename} of {repo} to be fetched again, but downloads are off "
            "(local_files_only=True or HF_HUB_OFFLINE); leave one of the two out"
        )
    if (
        not required
        and not force
        and _COMMIT.fullmatch(place["revision"] or "")
        and _known_absent(repo, filename, place)
    ):
        return None  # a commit never changes, so there is nothing to ask
    # the client is slow to import, and a directory never needs it
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        with _brief():
            path = hf_hub_download(
                repo,
                filename,
                revision=place["revision"],
                cache_dir=place["cache_dir"],
                local_files_only=local_files_only,
                token=token,
                force_download=force,
            )
        return Path(path)
    except LocalEntryNotFoundError as error:
        # Offline, an optional file may simply not belong to the checkpoint. With a connection that failed, going on
        # could silently pick a worse file, unless the Hub is known not to have this one.
        if not required and (_offline(local_files_only) or _known_absent(repo, filename, place)):
            return None
        raise CheckpointNotFoundError(_unreachable(repo, filename, place, local_files_only, error)) from error
    except EntryNotFoundError as error:
        if not required:
            return None
        raise CheckpointNotFoundError(
            f"the Hub repository {repo} (revision {place['revision'] or 'main'}) has no file {filename}"
        ) from error
    except Exception as error:  # only to add context: the client raises errors of several HTTP libraries
        raise CheckpointNotFoundError(_refused(repo, filename, place, error)) from error


def _offline(local_files_only: bool) -> bool:
    from huggingface_hub import constants

    return local_files_only or bool(constants.HF_HUB_OFFLINE)


def _known_absent(repo: str, filename: str, place: dict[str, str | None]) -> bool:
    """Whether the cache remembers that the Hub has no such file at this revision."""
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(repo, filename, cache_dir=place["cache_dir"], revision=place["revision"])
    return known is not None and not isinstance(known, str)


def _unreachable(
    repo: str, filename: str, place: dict[str, str | None], local_files_only: bool, error: Exception
) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    cache = place["cache_dir"] or constants.HF_HUB_CACHE
    what = f"{filename} of {repo} (revision {place['revision'] or 'main'}) is not in the cache {cache}"
    if _offline(local_files_only):
        why = "local_files_only=True" if local_files_only else "HF_HUB_OFFLINE is set"
        return (
            f"{what}, and downloads are off ({why}). Load it once with a connection, or pass a directory; "
            f"there is no directory {repo!r} here"
        )
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
    return (
        f"{what}, and the Hub at {constants.ENDPOINT} could not be reached: {_in_words(cause)}. "
        f"Check the connection, or pass a directory; there is no directory {repo!r} here"
    )


def _refused(repo: str, filename: str, place: dict[str, str | None], error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return (
            f"{repo} on the Hub is gated: accept its terms on its page, then run `hf auth login` or pass token=… "
            "to download it"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no directory {repo!r} here and no such repository on the Hub, or it is private: check the "
            "spelling; for a private one run `hf auth login` or pass token=…"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} on the Hub has no revision {place['revision']!r}: wanted a branch, a tag or a full commit hash"
    return (
        f"{filename} of {repo} could not be fetched from the Hub ({_in_words(error)}); "
        "try again: a download goes on where it stopped"
    )


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
