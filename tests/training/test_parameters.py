from dataclasses import replace

import pytest
import torch

from tests.training.tiny_run import PLAIN, SHAPE, Clips, model
from vivit_lab.errors import ConfigError
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.training import train
from vivit_lab.training.loop import layers_of, make_optimizer, parameter_groups, prepared, stacks_of, stochastic_depth

VARIANTS = {
    "spacetime": ("token", [3], 1),
    "factorized_encoder": ("token", [3, 2], 1),
    "factorized_self_attention_block": ("gap", [3], 2),
    "factorized_dot_product_attention": ("gap", [3], 1),
}


def variant(name):
    more = {"num_temporal_layers": 2} if name == "factorized_encoder" else {}
    shape = SHAPE.replace(variant=name, classifier=VARIANTS[name][0], hidden_dropout_prob=0.0, **more)
    torch.manual_seed(0)
    return VivitForVideoClassification(shape.replace(attention_probs_dropout_prob=0.0))


@pytest.mark.parametrize("name", VARIANTS)
def test_layers_are_the_papers(name):
    network = variant(name)
    _, counts, each = VARIANTS[name]
    assert [len(stack) for stack in stacks_of(network)] == counts
    assert {len(layer) for layer in layers_of(network)} == {each}
    assert [block for layer in layers_of(network) for block in layer] == list(network.blocks)


@pytest.mark.parametrize("name", VARIANTS)
def test_groups_hold_each_parameter_once_and_rates_fall_with_depth(name):
    network = variant(name)
    groups = parameter_groups(network, 0.1, 0.5)
    held = [value for group in groups for value in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, network.parameters()))
    scale = {id(value): group["scale"] for group in groups for value in group["params"]}
    top = len(layers_of(network)) + 1
    assert scale[id(network.classifier.weight)] == scale[id(network.ln_final.bias)] == 1
    assert scale[id(network.embed.projection.weight)] == 0.5**top
    for layer, blocks in enumerate(layers_of(network), start=1):
        assert {scale[id(value)] for block in blocks for value in block.parameters()} == {0.5 ** (top - layer)}


def test_a_step_of_a_lower_layer_is_smaller_by_its_share(tmp_path):
    config = replace(PLAIN, steps=1, warmup_steps=0, optimizer="sgd", momentum=0.0, learning_rate=0.1, weight_decay=0.0)
    moves = []
    for decay in (1.0, 0.5):
        network = model(dropout=False)
        before = {name: value.clone() for name, value in network.named_parameters()}
        run = replace(config, layer_decay=decay, max_grad_norm=None)
        train(network, Clips(), run, tmp_path / str(decay), progress=False)
        moves.append({name: value.detach() - before[name] for name, value in network.named_parameters()})
    for name, share in (("classifier.weight", 1), ("blocks.2.mlp.fc1.weight", 0.5), ("embed.position", 0.5**4)):
        torch.testing.assert_close(moves[1][name], share * moves[0][name], rtol=1e-3, atol=1e-7)


def test_sgd_is_what_it_says():
    config = replace(PLAIN, optimizer="sgd", momentum=0.7)
    optimizer = make_optimizer(model(), config)
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.7}
    assert sorted({group["weight_decay"] for group in optimizer.param_groups}) == [0.0, config.weight_decay]


@pytest.mark.parametrize(
    ("frozen", "moving"),
    [
        ({"freeze_backbone": True}, ("classifier",)),
        ({"freeze_embeddings": True}, ("classifier", "ln_final", "blocks.0", "blocks.1", "blocks.2")),
        ({"freeze_layers": 2}, ("classifier", "ln_final", "blocks.2", "embed")),
        ({"freeze_embeddings": True, "freeze_layers": 3}, ("classifier", "ln_final")),
    ],
)
def test_what_is_frozen_stays_bit_for_bit_and_all_else_moves(tmp_path, frozen, moving):
    network = model()
    before = {name: value.clone() for name, value in network.named_parameters()}
    train(network, Clips(), replace(PLAIN, steps=3, **frozen), tmp_path, progress=False)
    for name, value in network.named_parameters():
        assert torch.equal(value, before[name]) is not name.startswith(moving), name
        assert value.requires_grad


def test_frozen_layers_of_model_3_are_pairs():
    network = variant("factorized_self_attention_block")
    with prepared(network, replace(PLAIN, freeze_layers=2)):
        free = [any(value.requires_grad for value in block.parameters()) for block in network.blocks]
    assert free == [False] * 4 + [True] * 2


def test_nothing_is_left_behind_also_after_an_error():
    network = model()
    network.classifier.bias.requires_grad_(False)
    with prepared(network, replace(PLAIN, gradient_checkpointing=True)):
        assert network.gradient_checkpointing
    with pytest.raises(ZeroDivisionError), prepared(network, replace(PLAIN, freeze_layers=1)):
        raise ZeroDivisionError
    assert not network.gradient_checkpointing
    assert [name for name, value in network.named_parameters() if not value.requires_grad] == ["classifier.bias"]


def test_more_than_there_is_cannot_be_frozen():
    with pytest.raises(ConfigError, match=r"freeze_layers=4, but the model has 3 layers"):
        prepared(model(), replace(PLAIN, freeze_layers=4)).__enter__()
    headless = VivitForVideoClassification(SHAPE.replace(num_labels=0))
    with pytest.raises(ConfigError, match=r"every parameter is frozen"):
        prepared(headless, replace(PLAIN, freeze_backbone=True)).__enter__()


def test_gradient_checkpointing_changes_nothing_that_is_learned(tmp_path):
    config = replace(PLAIN, steps=4, stochastic_depth=0.4)  # dropout is on: its draws must repeat too
    plain, saving = model(), model()
    train(plain, Clips(), config, tmp_path / "plain", progress=False)
    train(saving, Clips(), replace(config, gradient_checkpointing=True), tmp_path / "saving", progress=False)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(saving.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_stochastic_depth_drops_branches_of_every_variant_at_the_papers_rates(name):
    network = variant(name).train()
    kept: dict[str, float] = {}
    hooks = []
    pixels = Clips().pixels[:1].expand(200, -1, -1, -1, -1)
    with stochastic_depth(network, 0.8, rescale=False), torch.no_grad():
        for stack, layers in enumerate(stacks_of(network)):
            for layer, blocks in enumerate(layers):
                for block in blocks:
                    for part in {"attn", "mlp"} & {child for child, _ in block.named_children()}:
                        label = f"{stack} {layer}"
                        hooks.append(block.get_submodule(part).register_forward_hook(_share_kept(kept, label)))
        network(pixels)
    assert len(kept) == sum(VARIANTS[name][1])
    for stack, count in enumerate(VARIANTS[name][1]):
        for layer in range(count):
            assert kept[f"{stack} {layer}"] == pytest.approx(1 - 0.8 * layer / (count - 1), abs=0.12)


def _share_kept(kept, label):
    def look(_module, _inputs, output):
        branch = output[0] if isinstance(output, tuple) else output
        share = float((branch != 0).flatten(1).any(1).float().mean())
        kept[label] = min(share, kept.get(label, 1.0))

    return look


def test_without_rescaling_what_is_kept_is_the_branch_itself():
    network = model(dropout=False).train()
    x = torch.randn(64, 5, 16)
    plain = network.blocks[2].mlp(x)
    with stochastic_depth(network, 0.5, rescale=False):
        dropped = network.blocks[2].mlp(x)
    out = (dropped == 0).flatten(1).all(1)
    assert 10 < int(out.sum()) < 54
    assert torch.equal(dropped[~out], plain[~out])
