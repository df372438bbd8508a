import pytest
import torch

from tests.training.test_parameters import VARIANTS, variant
from tests.training.tiny_run import SHAPE, Clips, model
from tests.training.videos import PROCESSOR
from vivit_lab.errors import ConfigError, InputError
from vivit_lab.families import VivitForVideoClassification, VivitModel
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.training.finetuning import adapt_model, adapt_processor

NAMES = ["LABEL_0", "LABEL_1", "LABEL_2"]
PIXELS = Clips().pixels[:2]


def filled(network):
    """Positions and biases begin at 0: give each entry a value of its own."""
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.05 * torch.randn_like(value))
    return network.eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_with_the_same_classes_and_sizes_it_is_a_copy(name):
    network = filled(variant(name))
    copy, changes = adapt_model(network, NAMES)
    assert changes == []
    torch.testing.assert_close(copy(PIXELS).logits, network(PIXELS).logits, rtol=0, atol=0)
    with torch.no_grad():
        copy.classifier.bias += 1
    assert not torch.equal(copy.classifier.bias, network.classifier.bias)


def test_the_order_of_known_classes_is_the_models():
    copy, changes = adapt_model(filled(model()), NAMES[::-1])
    assert changes == []
    assert list(copy.config.id2label.values()) == NAMES


def test_other_classes_get_a_new_head_and_all_else_stays():
    network = filled(model())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    new, changes = adapt_model(network, ["a", "b"], seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert changes == ["classifier drawn anew for 2 classes (instead of 3)"]
    assert new.config.id2label == {0: "a", 1: "b"}
    assert new(PIXELS).logits.shape == (2, 2)
    for key, value in network.state_dict().items():
        assert key.startswith("classifier") or torch.equal(new.state_dict()[key], value)
    assert torch.equal(adapt_model(network, ["a", "b"], seed=1)[0].classifier.weight, new.classifier.weight)
    assert not torch.equal(adapt_model(network, ["a", "b"], seed=2)[0].classifier.weight, new.classifier.weight)


def test_a_model_of_two_heads_gets_one():
    network = filled(VivitForVideoClassification(SHAPE.replace(label_groups={"noun": 1, "verb": 2})))
    new, changes = adapt_model(network, ["a", "b"])
    assert new.config.label_groups is None
    assert changes == [
        "classifier drawn anew for 2 classes (instead of 3)",
        "label_groups dropped: one classifier in place of noun and verb",
    ]
    same, changes = adapt_model(network, NAMES)
    assert (same.config.label_groups, changes) == (network.config.label_groups, [])


def test_a_bare_model_gets_a_head_and_loses_its_pooler():
    bare = filled(VivitModel(SHAPE))
    new, changes = adapt_model(bare, ["a", "b"])
    assert changes == ["classifier drawn anew for 2 classes (there was none)", "pooler left out"]
    assert isinstance(new, VivitForVideoClassification)
    torch.testing.assert_close(new.blocks[0].attn.q.weight, bare.blocks[0].attn.q.weight)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("sizes", [{"num_frames": 8}, {"image_size": 12}, {"num_frames": 2, "image_size": 16}])
def test_another_grid_computes_what_the_model_itself_interpolates(name, sizes):
    network = filled(variant(name))
    new, changes = adapt_model(network, NAMES, **sizes)
    assert changes
    assert all(" interpolated from 2×2×2 to " in change for change in changes)
    frames, size = new.config.num_frames, new.config.image_size
    pixels = torch.randn(2, frames, 3, size, size)
    want = network(pixels, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(new(pixels).logits, want, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(InputError, match=r"wanted at least two different class names, got \['a'\]"):
        adapt_model(model(), ["a"])
    with pytest.raises(InputError, match=r"wanted at least two different class names"):
        adapt_model(model(), ["a", "a"])
    with pytest.raises(ConfigError, match=r"num_frames|frames=3"):
        adapt_model(model(), NAMES, num_frames=3)


def test_a_processor_keeps_its_share_of_the_frame():
    assert adapt_processor(PROCESSOR, 8) is PROCESSOR
    twice = adapt_processor(PROCESSOR, 16)
    assert (twice.size, twice.crop_size) == ({"shortest_edge": 20}, {"height": 16, "width": 16})
    boxes = [processor.geometry(40, 60).visible for processor in (PROCESSOR, twice)]
    assert [(box[2] - box[0], box[3] - box[1]) for box in boxes] == [(32, 32), (32, 32)]
    squash = VivitImageProcessor.trained_range(size={"height": 8, "width": 8}, do_center_crop=False)
    assert adapt_processor(squash, 16).geometry(40, 60).visible == (0, 0, 40, 60)
