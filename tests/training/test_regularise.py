import pytest
import torch

from tests.training.tiny_run import Clips, model
from vivit_lab.errors import ConfigError, InputError
from vivit_lab.training.loop import mixup, stochastic_depth

PIXELS = Clips().pixels[:6]


def test_evaluation_mode_and_a_rate_of_zero_change_nothing():
    network = model(dropout=False).eval()
    plain = network(PIXELS).logits
    with stochastic_depth(network, 0.7):
        torch.testing.assert_close(network(PIXELS).logits, plain, rtol=0, atol=0)
    network.train()
    with stochastic_depth(network, 0.0):
        torch.testing.assert_close(network(PIXELS).logits, plain, rtol=0, atol=0)


def test_the_hooks_are_gone_afterwards_also_after_an_error():
    network = model(dropout=False).train()
    plain = network(PIXELS).logits
    with pytest.raises(ZeroDivisionError), stochastic_depth(network, 0.9):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in network.modules())
    torch.testing.assert_close(network(PIXELS).logits, plain, rtol=0, atol=0)


def test_each_branch_is_left_out_for_whole_clips_and_scaled_where_it_is_kept():
    network = model(dropout=False).train()
    block = network.blocks[1]  # of three: half the rate
    x = torch.randn(400, 5, 16)
    plain_attention, plain_mlp = block.attn(x)[0], block.mlp(x)
    with stochastic_depth(network, 0.8):
        torch.manual_seed(0)
        attention, mlp = block.attn(x)[0], block.mlp(x)
        last = network.blocks[2].mlp(x)
        first = network.blocks[0].mlp(x)
    for dropped, plain in ((attention, plain_attention), (mlp, plain_mlp)):
        out = (dropped == 0).flatten(1).all(1)
        assert 0.3 < out.float().mean() < 0.5
        torch.testing.assert_close(dropped[~out], plain[~out] / 0.6)
    assert 0.72 < (last == 0).flatten(1).all(1).float().mean() < 0.88
    torch.testing.assert_close(first, network.blocks[0].mlp(x))
    # attention and MLP are drawn apart
    assert not torch.equal((attention == 0).flatten(1).all(1), (mlp == 0).flatten(1).all(1))


def test_the_mean_over_draws_is_the_branch_itself():
    network = model(dropout=False).train()
    x = torch.randn(1, 5, 16).expand(4000, -1, -1)
    with stochastic_depth(network, 0.5):
        torch.manual_seed(1)
        mean = network.blocks[2].mlp(x).mean(0)
    wanted = network.blocks[2].mlp(x[:1])[0]
    torch.testing.assert_close(mean, wanted, rtol=0.1, atol=1e-4)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ConfigError, match=r"stochastic depth must lie in 0 … 1"), stochastic_depth(model(), rate):
        pass


def test_mixup_blends_clips_and_labels_by_one_share():
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    torch.manual_seed(3)
    pixels, wanted = mixup(PIXELS, labels, 3, 0.4)
    torch.testing.assert_close(wanted.sum(1), torch.ones(6))
    torch.manual_seed(3)
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    order = torch.randperm(6)
    for index, other in enumerate(order.tolist()):
        torch.testing.assert_close(pixels[index], share * PIXELS[index] + (1 - share) * PIXELS[other])
        expected = torch.zeros(3)
        expected[labels[index]] += share
        expected[labels[other]] += 1 - share
        torch.testing.assert_close(wanted[index], expected)


def test_mixup_wants_a_positive_alpha():
    with pytest.raises(InputError, match=r"positive alpha, got 0"):
        mixup(PIXELS, torch.zeros(6, dtype=torch.long), 3, 0)
