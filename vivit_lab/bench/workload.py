"""What a benchmark runs, in which way of computing attention, and a process to run it in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivit_lab.checkpoints.files import parse_dtype
from vivit_lab.errors import BackendError, InputError
from vivit_lab.families.vivit import VivitForVideoClassification
from vivit_lab.model.attention import attention_pattern, heads_left
from vivit_lab.model.config import VivitConfig, layer_layouts
from vivit_lab.model.load import parse_device

__all__ = ["BACKENDS", "Workload", "attention_call", "half_dtype", "run_task"]

_KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}

#: ``sdpa`` is the default of the package: PyTorch chooses the kernel. The next four pin one. ``flex`` and ``compile``
#: are flex attention and the eager formula, through torch.compile, which calls a fused kernel where it knows the
#: formula. ``eager`` makes the pattern as a tensor.
BACKENDS = ("sdpa", *_KERNELS, "flex", "compile", "eager")


def attention_call(name: str, query: Tensor, key: Tensor, value: Tensor) -> Callable[[], Tensor]:
    """Return a call that attends.

    Args:
        name: of ``BACKENDS``.
        query: (batch, head, token, d_head); key and value alike.
        key: see query.
        value: see query.

    Raises:
        InputError: there is no such backend. (One that is known but missing here fails when it is called: with a
            ``BackendError``, or what compiling raises.)
    """
    if name not in BACKENDS:
        raise InputError(f"backend {name!r} is not known; choose of {', '.join(BACKENDS)}")
    if name == "sdpa":
        return partial(functional.scaled_dot_product_attention, query, key, value)
    if name in _KERNELS:
        return partial(_pinned, name, query, key, value)
    if name == "flex":
        from torch.nn.attention.flex_attention import flex_attention

        return partial(torch.compile(flex_attention, dynamic=False), query, key, value)
    attend = torch.compile(_eager, dynamic=False) if name == "compile" else _eager
    return partial(attend, query, key, value)


def _pinned(name: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    try:
        with sdpa_kernel(_KERNELS[name]):
            return functional.scaled_dot_product_attention(query, key, value)
    except RuntimeError as error:
        if not any(text in str(error) for text in ("No available kernel", "No viable backend")):
            raise
        raise BackendError(f"PyTorch has no {name} kernel for {query.dtype} on {query.device.type}") from error


def _eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.matmul(attention_pattern(query, key, query.shape[-1] ** -0.5), value)


def _vit_b() -> VivitConfig:
    return VivitConfig(num_labels=400)


@dataclass(frozen=True)
class Workload:
    """A model of a shape, and a batch for it. Speed and memory do not depend on the weights, which are random.

    Args:
        config: the shape; the default is ViViT-B/16x2 with 400 classes.
        device: where it runs; ``"auto"`` is CUDA where there is one, else the CPU.
        dtype: of parameters and pixels.
        batch: clips of a batch.
        seed: of weights and pixels.

    Raises:
        BackendError: there is no such device.
        ConfigError: there is no such dtype.
    """

    config: VivitConfig = field(default_factory=_vit_b)
    device: str = "cpu"
    dtype: str = "float32"
    batch: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        name = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        object.__setattr__(self, "device", str(parse_device(name)))
        object.__setattr__(self, "dtype", str(parse_dtype(self.dtype)).removeprefix("torch."))

    def model(self, implementation: str = "sdpa") -> VivitForVideoClassification:
        """Return a new model in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = VivitForVideoClassification(self.config.replace(attn_implementation=implementation))
        return model.to(self.device, parse_dtype(self.dtype)).eval()

    def pixels(self) -> torch.Tensor:
        """Return (batch, frame, channel, height, width) noise in -1 … 1."""
        config = self.config
        shape = (self.batch, config.num_frames, config.num_channels, config.image_size, config.image_size)
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(self.seed)) * 2 - 1
        return noise.to(self.device, parse_dtype(self.dtype))

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def pattern_bytes(self, implementation: str, *, training: bool = False) -> int:
        """Return the bytes of attention patterns that exist at once; 0 where attention is fused.

        Eager attention holds scores, softmax in float32 and its cast; training keeps softmax and cast of each layer.
        """
        if implementation != "eager":
            return 0
        entries = [self.batch * count for count in self.pattern_entries()]
        size = parse_dtype(self.dtype).itemsize
        kept = sum(entries) * (4 + (size if size != 4 else 0)) if training else 0
        return kept + max(entries) * (2 * size + 4)

    def pattern_entries(self) -> list[int]:
        """Return how many numbers the patterns of one clip have, layer by layer."""
        config = self.config
        layouts = enumerate(layer_layouts(config, config.grid))
        return [layout.scores(heads_left(config, layer), config.num_attention_heads) for layer, layout in layouts]

    def describe(self) -> dict[str, Any]:
        """Return shape, device and dtype as JSON-able values."""
        config = self.config
        names = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "num_labels")
        shape = {"num_frames": config.num_frames, "image_size": config.image_size, "tokens": config.grid.num_tokens}
        return {**shape, **{name: getattr(config, name) for name in names}, "device": self.device, "dtype": self.dtype}

    def to_json(self) -> str:
        """Return the workload as JSON, for another process."""
        fields = {"device": self.device, "dtype": self.dtype, "batch": self.batch, "seed": self.seed}
        return json.dumps({"config": self.config.to_dict(), **fields})

    @classmethod
    def from_json(cls, text: str) -> Workload:
        """Return the workload that ``to_json`` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "config": VivitConfig.from_dict(fields["config"])})

    def with_(self, **changes: Any) -> Workload:
        """Return the workload with some fields changed."""
        return replace(self, **changes)


def half_dtype(device: str) -> str:
    """Return the half precision that a device computes well: float16 on CUDA, bfloat16 elsewhere."""
    return "float16" if device.startswith("cuda") else "bfloat16"


def run_task(task: str, workload: Workload, **arguments: Any) -> Any:
    """Run a task of ``vivit_lab.bench.tasks`` in a fresh process and return what it returns.

    Args:
        task: the function's name.
        workload: its first argument.
        **arguments: JSON-able.

    Raises:
        BackendError: the process failed; says the last line it wrote.
    """
    given = json.dumps({"task": task, "workload": workload.to_json(), "arguments": arguments})
    command = [sys.executable, "-m", "vivit_lab.bench.tasks"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    if done.returncode or not answers:
        said = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise BackendError(f"{task} could not be measured: {said}")
    return json.loads(answers[-1].removeprefix("ANSWER "))
