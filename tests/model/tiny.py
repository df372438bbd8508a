"""Tiny configurations, and the peer with the same weights."""

from typing import Any

import torch

from vivit_lab.families import VivitForVideoClassification, VivitModel
from vivit_lab.model import VivitConfig

TINY: dict[str, Any] = {
    "image_size": 32,
    "num_frames": 4,
    "tubelet_size": [2, 16, 16],
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}

_RENAMES = {
    "embed.cls_token": "embeddings.cls_token",
    "embed.position": "embeddings.position_embeddings",
    "embed.projection": "embeddings.patch_embeddings.projection",
    "ln_final": "layernorm",
    "blocks": "encoder.layer",
    "attn.q.": "attention.attention.query.",
    "attn.k.": "attention.attention.key.",
    "attn.v.": "attention.attention.value.",
    "attn.o.": "attention.output.dense.",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "ln1": "layernorm_before",
    "ln2": "layernorm_after",
}


def file_name(name: str, *, classifier: bool = False) -> str:
    """The name of one of our parameters in a file, written out independently of the package's own key map."""
    for ours, theirs in _RENAMES.items():
        name = name.replace(ours, theirs)
    return f"vivit.{name}" if classifier and not name.startswith("classifier") else name


def peer_name(name: str, *, classifier: bool = False) -> str:
    """The peer's name of one of our parameters."""
    from tests.peers import in_memory

    return in_memory(file_name(name, classifier=classifier))


def pair(classifier: bool = True, attention: str = "eager", **fields: Any) -> tuple[Any, Any]:
    """Our model and the peer's, in evaluation mode, with the same random weights (positions and biases too)."""
    import transformers  # not above: most tests want the sizes alone

    ours_fields = {**TINY, **fields}
    labels = {"num_labels": 5} | {key: ours_fields.pop(key) for key in ("num_labels",) if key in ours_fields}
    ours_class = VivitForVideoClassification if classifier else VivitModel
    ours = ours_class(VivitConfig(**ours_fields, **labels, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.ndim < 2 or parameter.shape[0] == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    peer_class = transformers.VivitForVideoClassification if classifier else transformers.VivitModel
    peer = peer_class(transformers.VivitConfig(**ours_fields, **labels, attn_implementation=attention)).eval()
    state = {peer_name(name, classifier=classifier): value for name, value in ours.state_dict().items()}
    peer.load_state_dict(state, strict=True)
    return ours, peer


def clips(batch: int = 2, **fields: Any) -> torch.Tensor:
    """Random pixel values that fit a tiny configuration."""
    fields = {**TINY, **fields}
    size = fields["image_size"]
    return torch.randn(batch, fields["num_frames"], fields.get("num_channels", 3), size, size)
