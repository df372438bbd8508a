"""What a bulk run computes, as a value: equal jobs give equal numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from vivit_lab.attribution.registry import METHODS, make_method
from vivit_lab.errors import ConfigError, InputError
from vivit_lab.numbers import checked_numbers

__all__ = ["BulkJob", "fingerprint_of"]

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "sampling": ("window", "uniform"),
    "dtype": ("float32", "bfloat16", "float16", "auto"),
    "autocast": (None, "bfloat16", "float16"),
    "attn_implementation": ("sdpa", "eager", "flash_attention_2"),
    "head_statistics": ("sampled", "all", "none"),
    "hidden_states": ("none", "cls", "tokens"),
}

# what does not decide the numbers: how a run is cut into files, and a name for weights, which are known by their digest
_NOT_NUMBERS = ("shard_size", "revision")


@checked_numbers()
@dataclass(frozen=True)
class BulkJob:
    """The settings of a bulk run; frozen, hashable, JSON-able.

    Args:
        model: a directory, a Hub id, ``"bundled"`` or ``"planted"``.
        revision: branch, tag or commit on the Hub.
        methods: names of ``METHODS`` with settings after a colon (``"rollout:start_layer=2;head_fusion=max"``), or
            methods themselves, which are kept as such text.
        target: the class that class-specific methods explain, by index or label; None is each clip's prediction.
        sampling: ``"window"`` takes frames start, start + stride, … of a segment; ``"uniform"`` spreads the model's
            frames evenly over it. A segment that is too short repeats its last frame.
        stride: of ``"window"``, in frames; None takes the model's own, see ``sampling_of``, which the run writes down.
        dtype: of the parameters.
        autocast: dtype of ``torch.autocast``, or None.
        attn_implementation: how attention is computed.
        top_k: how many best classes a row names.
        head_statistics: entropy and temporal distance of each head, over 32 evenly spaced queries (``"sampled"``), over
            ``"all"``, or ``"none"``.
        hidden_states: ``"cls"`` also keeps the CLS token after each layer, ``"tokens"`` the last layer's tokens.
        batch_size: clips in a forward pass; None finds it from the memory that is free when the run begins.
        shard_size: clips of a part, the unit that is done or not.
        compile: run the blocks through ``torch.compile``.

    Raises:
        InputError: a field has no such value, or a method or its setting is not known.

    Example:
        >>> job = BulkJob("planted", methods=("rollout", "chefer"), stride=1)
    """

    model: str = "bundled"
    revision: str | None = None
    methods: tuple[str, ...] = ("rollout",)
    target: str | None = None
    sampling: str = "window"
    stride: int | None = None
    dtype: str = "float32"
    autocast: str | None = None
    attn_implementation: str = "sdpa"
    top_k: int = 5
    head_statistics: str = "sampled"
    hidden_states: str = "none"
    batch_size: int | None = None
    shard_size: int = 64
    compile: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", str(self.model))
        methods = [self.methods] if isinstance(self.methods, str) else list(self.methods)
        object.__setattr__(self, "methods", tuple(map(_as_text, methods)))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name}={getattr(self, name)!r} is not known; choose one of {_words(choices)}")
        given = [name for name in ("stride", "batch_size") if getattr(self, name) is not None]
        for name in (*given, "top_k", "shard_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a positive whole number, got {value!r}")
        if len(set(self.methods)) < max(len(self.methods), 1):
            raise InputError(f"wanted at least one method and none twice, got {', '.join(self.methods) or 'none'}")

    def built(self) -> list[tuple[str, Any]]:
        """Return the methods with the name of their column: ``map`` for the first, ``map_<method>`` for others."""
        found: list[tuple[str, Any]] = []
        for number, text in enumerate(self.methods):
            method, name = _parse(text), text.partition(":")[0]
            twice = sum(other.partition(":")[0] == name for other in self.methods) > 1
            words = "".join(letter if letter.isalnum() else "_" for letter in text) if twice else name
            found.append(("map" if number == 0 else f"map_{words}", method))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {**dataclasses.asdict(self), "methods": list(self.methods)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> BulkJob:
        """Return the job that ``to_dict`` described.

        Raises:
            ConfigError: a field is not known, as of a later version.
        """
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(f"a bulk job has no field {', '.join(unknown)}; was it written by a later version?")
        return cls(**{**fields, "methods": tuple(fields["methods"])})


def fingerprint_of(job: BulkJob, **more: Any) -> dict[str, str]:
    """Return what decides the numbers of a run, each as a short digest, to be compared when it is resumed.

    Args:
        job: what is computed.
        **more: name → JSON-able value: weights, code version, decoder, processor.
    """
    fields = {name: value for name, value in job.to_dict().items() if name not in _NOT_NUMBERS}
    return {name: _digest(value) for name, value in {**fields, **more}.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _parse(text: str) -> Any:
    name, _, settings = text.partition(":")
    pairs = [setting.partition("=") for setting in settings.split(";") if setting]
    return make_method(name.strip(), {key.strip(): value for key, _, value in pairs})


def _as_text(method: Any) -> str:
    """Return a method as text that ``_parse`` reads; text in its shortest form."""
    built = _parse(method) if isinstance(method, str) else method
    names = [name for name, kind in METHODS.items() if kind is type(built)]
    if not names:
        raise InputError(f"wanted methods of the package or their names ({', '.join(METHODS)}), got {method!r}")
    changed = []
    for field in dataclasses.fields(built):
        value = getattr(built, field.name)
        if value != field.default:
            words = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            changed.append(f"{field.name}={words}")
    text = names[0] + (":" + ";".join(changed) if changed else "")
    if _parse(text) != built:
        raise InputError(f"{built!r} has settings that cannot be written as text; a bulk job wants simple ones")
    return text


def _words(choices: tuple[str | None, ...]) -> str:
    return ", ".join(map(str, choices))
