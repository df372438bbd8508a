"""Shape annotations of the public tensor functions are true; those of a record are checked in its own tests."""

import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from vivit_lab.attribution.rollout import drop_lowest
from vivit_lab.families.vivit import classification_loss
from vivit_lab.model import VivitConfig
from vivit_lab.model.attention import attention_pattern, fused_attention_with_lse
from vivit_lab.model.embeddings import interpolate_positions


def checked(function):
    return jaxtyped(typechecker=beartype)(function)


def test_right_shapes_pass():
    query, key = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 5)
    assert checked(attention_pattern)(query, key, 0.5).shape == (2, 3, 4, 6)
    context, lse = checked(fused_attention_with_lse)(query, query, query, 0.5)
    assert (context.shape, lse.shape) == ((2, 3, 4, 5), (2, 3, 4))
    assert checked(interpolate_positions)(torch.randn(1, 9, 7), (2, 2, 2), (1, 3, 4)).shape == (1, 13, 7)
    assert checked(drop_lowest)(torch.rand(3, 4), 0.5).shape == (3, 4)
    config = VivitConfig(num_labels=3)
    assert checked(classification_loss)(torch.randn(2, 3), torch.tensor([0, 2]), config).shape == ()


@pytest.mark.parametrize(
    "call",
    [
        lambda: checked(attention_pattern)(torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 7), 0.5),
        lambda: checked(fused_attention_with_lse)(*[torch.randn(3, 4, 5)] * 3, 0.5),
        lambda: checked(interpolate_positions)(torch.randn(9, 7), (2, 2, 2), (1, 3, 4)),
        lambda: checked(drop_lowest)(torch.rand(4), 0.5),
    ],
)
def test_wrong_shapes_are_named(call):
    with pytest.raises(TypeCheckError, match=r"[Tt]ype-check error"):
        call()
