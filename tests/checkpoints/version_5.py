"""The names that transformers 5 keeps in memory."""

import re

IN_TRANSFORMERS_5 = {
    "encoder.layer.": "layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
}


def version_5(name: str) -> str:
    """Transformers 5's name of a tensor, from transformers 4's."""
    for old, new in IN_TRANSFORMERS_5.items():
        name = name.replace(old, new)
    return re.sub(r"(layers\.\d+)\.output\.dense", r"\1.mlp.fc2", name)
