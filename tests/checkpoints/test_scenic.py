"""JAX checkpoints: flax's files in all their layouts, what the shapes tell, and what is refused."""

import json
import re
from pathlib import Path

import ml_dtypes
import msgpack
import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.model.naive_variants import VARIANTS, naive_logits, random_tree
from tests.model.tiny import pair
from tests.model.variants import asked_fields, channels_last, random_clips
from vivit_lab.checkpoints import kinetics400_labels
from vivit_lab.checkpoints.scenic import flatten_tree, read_msgpack, read_parameters
from vivit_lab.cli import main
from vivit_lab.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    InputError,
    KeyMismatchError,
    MissingExtraError,
)
from vivit_lab.explain import load_pair
from vivit_lab.families import from_scenic


def tree_of(variant, **sizes):
    return random_tree(variant, np.random.default_rng(0), **{"t": 3, **sizes})


def nested(leaves):
    """Path → leaf as a nested tree."""
    tree = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[name] = leaf
    return tree


def packed(tree, chunk=None):
    """What flax's ``msgpack_serialize`` writes, from its documented format; large arrays in chunks of ``chunk``."""

    def encode(value):
        if isinstance(value, np.ndarray):
            parts = (value.shape, value.dtype.name, value.tobytes())
            return msgpack.ExtType(1, msgpack.packb(parts, use_bin_type=True))
        if isinstance(value, np.generic):
            parts = ((), value.dtype.name, value.tobytes())
            return msgpack.ExtType(3, msgpack.packb(parts, use_bin_type=True))
        return msgpack.ExtType(2, msgpack.packb((value.real, value.imag)))

    def chunked(value):
        if isinstance(value, dict):
            return {name: chunked(branch) for name, branch in value.items()}
        if chunk and isinstance(value, np.ndarray) and value.size > chunk:
            flat = value.reshape(-1)
            parts = [flat[start : start + chunk] for start in range(0, flat.size, chunk)]
            return {
                "__msgpack_chunked_array__": True,
                "shape": {str(i): size for i, size in enumerate(value.shape)},
                "chunks": {str(i): part for i, part in enumerate(parts)},
            }
        return value

    return msgpack.packb(chunked(tree), default=encode, strict_types=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_published_jax_code_gave_these_logits(variant):
    path = ROOT.parent / "shared" / "reference" / "scenic_reference.npz"
    if not path.exists():
        pytest.skip("the numeric reference is not beside the checkout")
    with np.load(path) as archive:
        tree = {name.removeprefix(f"{variant}|"): archive[name] for name in archive if name.startswith(f"{variant}|p")}
        pixels = torch.from_numpy(archive["input"]).permute(0, 1, 4, 2, 3)
        want = archive[f"{variant}|logits"]
        order = json.loads(bytes(archive["meta"]))["fsa_attention_order"]
    fields = asked_fields(variant, pixels.shape[1])
    model = from_scenic(tree, **({**fields, "attention_order": order} if "attention_order" in fields else fields))
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            got = model(pixels).logits.numpy()
        assert np.abs(got - want).max() <= 1e-5


LAYOUTS = {
    "bare": lambda tree: tree,
    "params": lambda tree: {"params": tree},
    "target": lambda tree: {"target": tree},
    "optimizer": lambda tree: {
        "optimizer": {"target": tree, "state": {"step": np.int32(7), "param_states": tree}},
        "global_step": np.int64(3),
        "rng": np.zeros(2, np.uint32),
    },
    "optimizer, older": lambda tree: {"optimizer": {"target": {"params": tree}}, "model_state": {}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chunk", [None, 50])
def test_a_train_state_of_any_release_gives_its_parameters(layout, chunk, tmp_path):
    tree = tree_of("factorized_encoder")
    contents = packed(LAYOUTS[layout](nested(tree)), chunk)
    (tmp_path / "checkpoint").write_bytes(contents)
    for source in (tmp_path / "checkpoint", str(tmp_path)):
        found = read_parameters(source)
        assert set(found) == set(tree)
        for name, leaf in tree.items():
            np.testing.assert_array_equal(found[name], leaf)


def test_the_last_step_of_a_directory_is_taken(tmp_path):
    for step in (9, 10):
        (tmp_path / f"checkpoint_{step}").write_bytes(packed({"params": {"a": np.full(2, step, np.float32)}}))
    assert read_parameters(tmp_path)["a"].tolist() == [10, 10]


def test_archives_and_trees_are_read_alike(tmp_path):
    tree = tree_of("spacetime")
    for separator in "|/":
        np.savez(tmp_path / "x.npz", **{f"params/{name}".replace("/", separator): leaf for name, leaf in tree.items()})
        found = read_parameters(tmp_path / "x.npz")
        assert set(found) == set(tree)
    assert set(read_parameters(nested(tree))) == set(tree)
    assert flatten_tree({"a": {"b|c": 1}, "d": 2}) == {"a/b/c": 1, "d": 2}


def test_every_type_of_flax_is_read():
    half = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    tree = {
        "h": half,
        "z": 3 + 4j,
        "s": np.float32(2.5),
        "n": {"i": 3, "none": None, "text": "x"},
        "e": np.zeros((0, 2)),
    }
    found = read_msgpack(packed(tree), "here")
    assert found["h"].dtype == half.dtype
    np.testing.assert_array_equal(found["h"], half)
    assert (found["z"], found["s"], found["n"]) == (3 + 4j, 2.5, tree["n"])
    assert found["e"].shape == (0, 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_parameters_become_floats(variant):
    tree = tree_of(variant)
    fields = asked_fields(variant, 6)
    half = {name: leaf.astype(ml_dtypes.bfloat16) for name, leaf in tree.items()}
    model = from_scenic(half, **fields)
    assert model.dtype == torch.float32
    rounded = {name: leaf.astype(np.float32) for name, leaf in half.items()}
    pixels = random_clips(1)
    assert torch.equal(model(pixels).logits, from_scenic(rounded, **fields).eval()(pixels).logits)
    assert from_scenic(tree, dtype="bfloat16", **fields).dtype == torch.bfloat16


def test_damage_is_named(tmp_path, monkeypatch):
    with pytest.raises(CheckpointNotFoundError, match="there is no JAX checkpoint"):
        from_scenic(tmp_path / "nothing")
    with pytest.raises(CheckpointNotFoundError, match="no file named checkpoint"):
        from_scenic(tmp_path)
    path = tmp_path / "checkpoint"
    whole = packed({"params": nested(tree_of("spacetime"))})
    for contents in (whole[:-20], b"\x93\x01", b"\xc1", packed({"a": np.zeros(2)})[:-3]):
        path.write_bytes(contents)
        with pytest.raises(CheckpointError, match="is not a whole msgpack file"):
            from_scenic(path)
    path.write_bytes(msgpack.packb({"a": msgpack.ExtType(9, b"x")}))
    with pytest.raises(CheckpointError, match="extension type 9"):
        from_scenic(path)
    path.write_bytes(msgpack.packb([1, 2]))
    with pytest.raises(CheckpointError, match="holds a list; wanted a tree"):
        from_scenic(path)
    path.write_bytes(msgpack.packb({}))
    with pytest.raises(CheckpointError, match="holds no parameters"):
        from_scenic(path)
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(CheckpointError, match=r"not a whole \.npz"):
        from_scenic(tmp_path / "x.npz")
    with pytest.raises(InputError, match="a of the tree is no array of real numbers"):
        from_scenic({"a": "text"})
    path.write_bytes(whole)
    monkeypatch.setitem(__import__("sys").modules, "msgpack", None)
    with pytest.raises(MissingExtraError, match=r"vivit-lab\[scenic\]"):
        from_scenic(path)


def test_bfloat16_names_the_extra_that_reads_it(monkeypatch):
    contents = packed({"a": np.zeros(2, ml_dtypes.bfloat16)})
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(MissingExtraError, match=r"bfloat16 needs ml_dtypes.*\[scenic\]"):
        read_msgpack(contents, "here")


def test_what_the_shapes_tell_need_not_be_given():
    model = from_scenic(tree_of("factorized_encoder", h=3, w=3, tubelet=(2, 4, 4), temporal=3, layers=1, heads=2))
    config = model.config
    assert (config.num_frames, config.image_size, config.tubelet_size) == (6, 12, (2, 4, 4))
    assert (config.num_hidden_layers, config.num_temporal_layers, config.num_attention_heads) == (1, 3, 2)
    assert (config.hidden_size, config.intermediate_size, config.num_labels) == (12, 20, 5)
    assert config.hidden_act == "gelu_fast"
    named = from_scenic(tree_of("factorized_encoder", classes=400)).config
    assert named.id2label[116] == kinetics400_labels()[116]
    own = from_scenic(tree_of("factorized_encoder"), id2label={i: f"c{i}" for i in range(5)}).config
    assert own.id2label[3] == "c3"


ASKED = [
    ("spacetime", {}, r"12 positions may be 3 frames of 8².*pass num_frames or image_size", (1, 4, 4)),
    ("spacetime", {"num_frames": 5}, r"got 5 frames", (1, 4, 4)),
    ("factorized_self_attention_block", {"num_frames": 3}, "pass attention_order='time_space'", (1, 4, 4)),
    ("factorized_dot_product_attention", {"num_frames": 3}, "pass variant='factorized_dot_product", (1, 4, 4)),
    ("spacetime", {"num_frames": 3}, "make no square grid", (1, 4, 2)),
]


@pytest.mark.parametrize(("variant", "fields", "message", "tubelet"), ASKED)
def test_what_they_do_not_tell_is_asked_for(variant, fields, message, tubelet):
    with pytest.raises(ConfigError, match=message):
        from_scenic(tree_of(variant, tubelet=tubelet), **fields)


def test_a_baseline_is_known_by_its_names_but_not_its_frames():
    tree = tree_of("factorized_encoder", baseline=True)
    with pytest.raises(ConfigError, match="pass num_frames"):
        from_scenic(tree)
    model = from_scenic(tree, num_frames=6)
    assert model.config.spatial_only_baseline
    clip = random_clips(1)
    want, _ = naive_logits("factorized_encoder", tree, channels_last(clip[0]), baseline=True)
    np.testing.assert_allclose(model(clip).logits[0].detach().numpy(), want, atol=1e-5)


def test_contradictions_and_strangers_are_refused():
    tree = tree_of("factorized_encoder")
    with pytest.raises(ConfigError, match="num_hidden_layers=3, but they tell 2"):
        from_scenic(tree, num_hidden_layers=3)
    with pytest.raises(ConfigError, match="not a field of a ViViT configuration: 'num_frame'"):
        from_scenic(tree, num_frame=6)
    extra = {**tree, "Transformer/encoderblock_0/Adapter/kernel": np.zeros((2, 2)), "stray": np.zeros(2)}
    with pytest.raises(KeyMismatchError, match=r"2 parameters .*Transformer/encoderblock_0/Adapter/kernel, stray"):
        from_scenic(extra)
    fewer = {name: leaf for name, leaf in tree.items() if "LayerNorm_1/scale" not in name}
    with pytest.raises(KeyMismatchError, match=r"missing \(4\)"):
        from_scenic(fewer)
    for name in ("embedding/kernel", "SpatialTransformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"):
        with pytest.raises(ConfigError, match=f"no {re.escape('/'.join(name.split('/')[-2:]))}"):
            from_scenic({path: leaf for path, leaf in tree.items() if path != name})
    with pytest.raises(ConfigError, match="no Transformer/encoderblock_0"):
        from_scenic({"embedding/kernel": tree["embedding/kernel"], "cls": np.zeros((1, 1, 12))})


def test_two_classifiers_stand_side_by_side():
    """As for EPIC-KITCHENS: in the order of their names, told apart again by the model."""
    tree = tree_of("factorized_encoder")
    heads = {"verb": (3, 0), "noun": (4, 1)}
    for name in ("kernel", "bias"):
        tree.pop(f"output_projection/{name}")
    rng = np.random.default_rng(1)
    for head, (count, _) in heads.items():
        tree[f"output_projection_{head}/kernel"] = rng.normal(size=(12, count)).astype(np.float32)
        tree[f"output_projection_{head}/bias"] = rng.normal(size=count).astype(np.float32)
    model = from_scenic(tree)
    assert model.config.label_groups == {"noun": 4, "verb": 3}
    assert model.config.id2label[5] == "verb_1"
    pixels = random_clips(1)
    parts = model.split_logits(model(pixels).logits)
    for head in heads:
        alone = {path: leaf for path, leaf in tree.items() if not path.startswith("output_projection")}
        for name in ("kernel", "bias"):
            alone[f"output_projection/{name}"] = tree[f"output_projection_{head}/{name}"]
        want, _ = naive_logits("factorized_encoder", alone, channels_last(pixels[0]))
        np.testing.assert_allclose(parts[head][0].detach().numpy(), want, atol=1e-5)
    turned = from_scenic(tree, label_groups={"verb": 3, "noun": 4})  # the weights follow the order that was asked for
    other = turned.split_logits(turned(pixels).logits)
    assert list(other) == ["verb", "noun"]
    assert turned.config.id2label[0] == "verb_0"
    for head in heads:
        torch.testing.assert_close(other[head], parts[head])
    for wrong in ({"noun": 3, "verb": 4}, {"object": 4, "action": 3}):
        with pytest.raises(ConfigError, match=r"contradict what was given: label_groups=.*'noun': 4, 'verb': 3"):
            from_scenic(tree, label_groups=wrong)


def test_one_classifier_may_hold_several_groups_as_the_published_one_of_epic_kitchens():
    joined = from_scenic(tree_of("factorized_encoder"), label_groups={"noun": 3, "verb": 2})
    logits = joined(random_clips(1)).logits
    parts = joined.split_logits(logits)
    assert list(parts) == ["noun", "verb"]
    assert torch.equal(torch.cat(list(parts.values()), -1), logits)
    assert list(joined.config.id2label.values()) == ["noun_0", "noun_1", "noun_2", "verb_0", "verb_1"]
    with pytest.raises(ConfigError, match="must add up to num_labels=5"):
        from_scenic(tree_of("factorized_encoder"), label_groups={"noun": 3, "verb": 3})


def test_a_lone_named_classifier_is_read_by_its_name():
    tree = tree_of("factorized_encoder")
    named = {name.replace("output_projection/", "output_projection_noun/"): leaf for name, leaf in tree.items()}
    model, pixels = from_scenic(named), random_clips(1)
    assert model.config.label_groups == {"noun": 5}
    torch.testing.assert_close(model(pixels).logits, from_scenic(tree)(pixels).logits)
    named.pop("output_projection_noun/bias")
    with pytest.raises(ConfigError, match="output_projection_noun of this tree has no kernel or no bias"):
        from_scenic(named)


@pytest.mark.parametrize("variant", VARIANTS)
def test_positions_that_are_computed_and_heads_that_differ_are_refused(variant):
    tree, fields = tree_of(variant), asked_fields(variant, 6)
    bare = {name: leaf for name, leaf in tree.items() if "posembed_input" not in name}
    with pytest.raises(ConfigError, match=r"has no \w*Transformer/posembed_input/pos_embedding: wanted learned"):
        from_scenic(bare, **fields)
    last = [name for name in tree if name.endswith("/query/kernel")][-1]
    width = tree[last].shape[0]
    other = {**tree, last: tree[last].reshape(width, 2, -1)}  # the same numbers, for fewer and wider heads
    with pytest.raises(ConfigError, match=r"as many heads, and those of this tree differ \(.*: [24], .*: [24]\)"):
        from_scenic(other, **fields)


@pytest.mark.peer
def test_the_spacetime_model_is_written_for_transformers(tmp_path):
    import transformers

    ours, _ = pair()
    model = from_scenic(tree_of("spacetime"), num_frames=6)
    model.save_pretrained(tmp_path)
    peer = transformers.VivitForVideoClassification.from_pretrained(tmp_path).eval()
    pixels = random_clips()
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).logits, peer(pixels).logits, rtol=1e-5, atol=1e-5)
    assert type(ours) is type(model)


@pytest.mark.parametrize("variant", VARIANTS)
def test_convert_and_render_from_the_command_line(variant, tmp_path, video, capsys):
    path = tmp_path / "checkpoint"
    path.write_bytes(packed({"optimizer": {"target": nested(tree_of(variant))}}))
    options = {"num_frames": "--frames", "variant": "--variant", "attention_order": "--order"}
    asked = [str(word) for name, value in asked_fields(variant, 6).items() for word in (options[name], value)]
    out = tmp_path / "model"
    assert main(["convert", str(path), "--out", str(out), *asked]) == 0
    assert f"{variant}: 6 frames of 8×8, 5 classes" in capsys.readouterr().out
    model, processor = load_pair(str(out))
    assert model.config.variant == variant
    assert processor.value_range == (-1.0, 1.0)
    for method in ("rollout", "chefer", "input_x_gradient"):
        code = main(["render", str(video), "-m", str(out), "--method", method, "--out", str(tmp_path), "--sheet"])
        assert code == 0, capsys.readouterr().err
    assert len(list(tmp_path.glob("moving_*.mp4"))) == len(list(tmp_path.glob("moving_*.png"))) == 3
    assert main(["info", str(out), "--json"]) == 0


def test_convert_tells_json_and_groups_and_errors(tmp_path, capsys):
    path = tmp_path / "checkpoint"
    path.write_bytes(packed(nested(tree_of("factorized_encoder"))))
    out = tmp_path / "model"
    assert main(["convert", str(path), "--out", str(out), "--groups", "verb=2,noun=3", "--size", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["variant"] == "factorized_encoder"
    assert told["macs"] > 0
    assert all(Path(file).exists() for file in told["files"])
    assert json.loads((out / "config.json").read_text())["label_groups"] == {"verb": 2, "noun": 3}
    assert main(["convert", str(path), "--out", str(out), "--groups", "verb"]) == 1
    assert "--groups wants" in capsys.readouterr().err
    assert main(["convert", str(path), "--out", str(out), "--frames", "4"]) == 1
    assert "num_frames=4, but they tell 6" in capsys.readouterr().err
