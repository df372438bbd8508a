"""What the processes of a benchmark do: each measures one thing and prints it as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from vivit_lab.attribution.rollout import AttentionRollout
from vivit_lab.bench.measure import PeakMeter, sampled
from vivit_lab.bench.workload import Workload, attention_call
from vivit_lab.errors import BackendError
from vivit_lab.records.attention import record_attention

__all__ = [
    "attention_peak",
    "attention_seconds",
    "forward_peak",
    "forward_seconds",
    "main",
    "rollout_peak",
    "rollout_seconds",
    "training_peak",
    "training_seconds",
]


def forward_seconds(workload: Workload, implementations: list[str], batches: int) -> dict[str, list[float]]:
    """Return the seconds of each batch for each implementation, taken in turn, after one batch to warm up."""
    model, pixels = workload.model(), workload.pixels()

    def forward(implementation: str) -> None:
        model.set_attn_implementation(implementation)
        with torch.inference_mode():
            model(pixels)
        workload.synchronise()

    return _timed({name: lambda name=name: forward(name) for name in implementations}, batches)


def forward_peak(workload: Workload, implementation: str) -> int | None:
    """Return the bytes by which memory rises above model and clips in a forward pass."""
    model, pixels = workload.model(implementation), workload.pixels()
    with PeakMeter(workload.device) as meter, torch.inference_mode():
        model(pixels)
    return meter.bytes


def _trainer(workload: Workload, implementation: str) -> Callable[[], None]:
    """Return one step of training: forward, cross entropy, backward, AdamW."""
    model, pixels = workload.model(implementation).train(), workload.pixels()
    labels = torch.arange(workload.batch, device=pixels.device) % (workload.config.num_labels or 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        functional.cross_entropy(model(pixels).logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        workload.synchronise()

    return step


def training_seconds(workload: Workload, implementations: list[str], steps: int) -> dict[str, list[float]]:
    """Return the seconds of each step for each implementation, taken in turn, after one step to warm up."""
    return _timed({name: _trainer(workload, name) for name in implementations}, steps)


def training_peak(workload: Workload, implementation: str) -> int | None:
    """Return the bytes by which memory rises above model and clips in two steps: gradients and optimizer included."""
    step = _trainer(workload, implementation)
    with PeakMeter(workload.device) as meter:
        step()
        step()
    return meter.bytes


def attention_seconds(workload: Workload, backends: list[str], repeats: int, backward: bool) -> dict[str, Any]:
    """Return for each backend its seconds, or as a text why there are none, and how far it is from eager attention.

    The distance is None where eager attention could not be computed.
    """
    query, key, value = _qkv(workload, backward)
    calls, answers, wanted = {}, {}, None
    for name in ["eager", *(name for name in backends if name != "eager")]:
        try:
            call = attention_call(name, query, key, value)
            context = call()
            if backward:
                torch.autograd.grad(context.sum(), (query, key, value))
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            answers[name] = said if isinstance(error, BackendError) else f"{type(error).__name__}: {said}"
            continue
        found = context.detach().float()
        wanted = found if name == "eager" else wanted
        answers[name] = {"error": None if wanted is None else float((found - wanted).abs().max())}
        if name in backends:
            calls[name] = _attention_step(workload, call, (query, key, value), backward)
    for name, seconds in _timed(calls, repeats).items():
        answers[name]["seconds"] = seconds
    return {name: answers[name] for name in backends}


def attention_peak(workload: Workload, backend: str, backward: bool) -> int | None:
    """Return the bytes by which memory rises above q, k and v while a backend attends."""
    query, key, value = _qkv(workload, backward)
    call = _attention_step(workload, attention_call(backend, query, key, value), (query, key, value), backward)
    if backend in ("compile", "flex"):
        call()  # compiling takes memory of its own
    with PeakMeter(workload.device) as meter:
        call()
    return meter.bytes


def _qkv(workload: Workload, backward: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    config, like = workload.config, workload.with_(batch=1).pixels()
    shape = (workload.batch, config.num_attention_heads, config.grid.num_tokens, config.head_dim)
    generator = torch.Generator().manual_seed(workload.seed)
    made = [torch.randn(shape, generator=generator).to(like.device, like.dtype) for _ in range(3)]
    query, key, value = (tensor.requires_grad_(backward) for tensor in made)
    return query, key, value


def _attention_step(
    workload: Workload, call: Callable[[], torch.Tensor], inputs: tuple[torch.Tensor, ...], backward: bool
) -> Callable[[], None]:
    def step() -> None:
        context = call()
        if backward:
            torch.autograd.grad(context.sum(), inputs)
        workload.synchronise()

    return step


def rollout_seconds(workload: Workload, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of a forward pass, of a record, and of a record with its rollout, taken in turn."""
    model, pixels = workload.model(), workload.pixels()

    def forward() -> None:
        with torch.inference_mode():
            model(pixels)
        workload.synchronise()

    calls: dict[str, Callable[[], Any]] = {
        "forward": forward,
        "record": lambda: record_attention(model, pixels),
        "record + rollout": lambda: AttentionRollout()(model, pixels),
    }
    return _timed(calls, repeats)


def rollout_peak(workload: Workload, what: str) -> int | None:
    """Return the bytes by which memory rises above model and clips; ``what`` is a name of ``rollout_seconds``."""
    model, pixels = workload.model(), workload.pixels()
    with PeakMeter(workload.device) as meter:
        if what == "forward":
            with torch.inference_mode():
                model(pixels)
        elif what == "record":
            record_attention(model, pixels)
        else:
            AttentionRollout()(model, pixels)
    return meter.bytes


def _timed(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    for call in calls.values():
        call()
    return sampled(calls, repeats)


def main() -> None:
    """Read a task from standard input and print its answer."""
    given = json.load(sys.stdin)
    answer = globals()[given["task"]](Workload.from_json(given["workload"]), **given["arguments"])
    print("ANSWER " + json.dumps(answer))


if __name__ == "__main__":
    main()
