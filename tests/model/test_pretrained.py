"""Round trips with transformers 4.56.2, and what happens where a checkpoint does not fit."""

import json
import re
import weakref

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.checkpoints.version_5 import version_5
from tests.model.tiny import TINY, clips, pair
from tests.peers import in_memory, needs_transformers_4
from vivit_lab.checkpoints import files, kinetics400_labels
from vivit_lab.checkpoints.files import TensorEntry, TensorSource
from vivit_lab.errors import BackendError, CheckpointError, CheckpointWarning, ConfigError, InputError, KeyMismatchError
from vivit_lab.families import VivitForVideoClassification, VivitModel, load_model
from vivit_lab.model import VivitConfig
from vivit_lab.model.build import build_model

pytestmark = pytest.mark.peer

KINDS = {True: (VivitForVideoClassification, transformers.VivitForVideoClassification),
         False: (VivitModel, transformers.VivitModel)}  # fmt: skip
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def output(model, pixel_values):
    with torch.no_grad():
        result = model(pixel_values)
    return result.logits if hasattr(result, "logits") else result.pooler_output


def same_weights(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def tiny(tmp_path):
    """A saved tiny classifier: the model and its directory."""
    model, _ = pair()
    model.save_pretrained(tmp_path / "tiny")
    return model, tmp_path / "tiny"


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classifier", KINDS)
def test_transformers_loads_what_we_save(tmp_path, classifier, dtype, shard):
    ours, peer = pair(classifier)
    ours.to(dtype).save_pretrained(tmp_path, max_shard_size=shard)
    _, peer_class = KINDS[classifier]
    loaded, report = peer_class.from_pretrained(
        tmp_path, dtype="auto", attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert not report["unexpected_keys"]
    assert loaded.dtype == dtype
    assert same_weights(loaded, peer.to(dtype))
    if dtype == torch.float32:
        x = clips()
        assert torch.equal(output(loaded, x), output(peer, x))


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classifier", KINDS)
def test_we_load_what_transformers_saves(tmp_path, classifier, dtype, shard):
    ours, peer = pair(classifier)
    peer.to(dtype).save_pretrained(tmp_path, max_shard_size=shard)
    loaded = KINDS[classifier][0].from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype == dtype
    assert same_weights(loaded, ours.to(dtype))
    assert not loaded.training
    assert loaded.name_or_path == str(tmp_path)


@needs_transformers_4
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_we_load_a_pickled_checkpoint(tmp_path, shard):
    ours, peer = pair()
    peer.save_pretrained(tmp_path, safe_serialization=False, max_shard_size=shard)
    assert not list(tmp_path.glob("*.safetensors"))
    assert same_weights(VivitForVideoClassification.from_pretrained(tmp_path), ours)


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize("classifier", KINDS)
def test_we_load_the_names_of_transformers_5(tmp_path, classifier, prefixed):
    ours, peer = pair(classifier)
    peer.save_pretrained(tmp_path)
    renamed = {}
    for name, value in peer.state_dict().items():
        bare = version_5(name.removeprefix("vivit."))
        renamed[f"vivit.{bare}" if prefixed and not bare.startswith("classifier") else bare] = value.contiguous()
    assert any(".attention.q_proj." in name for name in renamed)
    save_file(renamed, tmp_path / "model.safetensors")
    assert same_weights(KINDS[classifier][0].from_pretrained(tmp_path), ours)


def test_our_own_state_dict_is_a_checkpoint_too(tiny):
    model, folder = tiny
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert same_weights(VivitForVideoClassification.from_pretrained(folder), model)


def test_saved_files_are_named_as_transformers_names_them(tiny):
    _, folder = tiny
    _, peer = pair()
    assert set(map(in_memory, load_file(folder / "model.safetensors"))) == set(peer.state_dict())
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["VivitForVideoClassification"]
    assert config["torch_dtype"] == "float32"
    assert config["model_type"] == "vivit"
    assert transformers.AutoModelForVideoClassification.from_pretrained(folder).num_labels == 5


def test_settings_survive_there_and_back(tmp_path):
    names = {0: "sit", 1: "run", 2: "jump"}
    config = VivitConfig(**{**TINY, "hidden_act": "relu", "qkv_bias": False}, id2label=names)
    VivitForVideoClassification(config).save_pretrained(tmp_path / "a")
    peer = transformers.VivitForVideoClassification.from_pretrained(tmp_path / "a")
    assert peer.config.id2label == names
    peer.save_pretrained(tmp_path / "b")
    back = VivitForVideoClassification.from_pretrained(tmp_path / "b")
    assert back.config.replace(extra={}) == config
    assert back.config.label2id["jump"] == 2
    back.save_pretrained(tmp_path / "c")
    assert "_name_or_path" not in json.loads((tmp_path / "c" / "config.json").read_text())


def test_a_model_without_classes_round_trips(tmp_path):
    ours, _ = pair(num_labels=0)
    ours.save_pretrained(tmp_path)
    assert same_weights(VivitForVideoClassification.from_pretrained(tmp_path), ours)
    assert transformers.VivitForVideoClassification.from_pretrained(tmp_path).config.num_labels == 0


@pytest.mark.parametrize("wanted", ["float16", torch.float16, "fp16", "torch.float16"])
def test_the_dtype_is_converted_on_the_way(tiny, wanted):
    model, folder = tiny
    assert same_weights(VivitForVideoClassification.from_pretrained(folder, dtype=wanted), model.half())


def test_the_dtype_is_the_default_or_the_checkpoints(tiny):
    model, folder = tiny
    model.bfloat16().save_pretrained(folder)
    load = VivitForVideoClassification.from_pretrained
    assert load(folder).dtype == torch.float32
    assert load(folder, torch_dtype="auto").dtype == torch.bfloat16
    config = folder / "config.json"
    config.write_text(
        json.dumps({key: value for key, value in json.loads(config.read_text()).items() if "dtype" not in key})
    )
    assert load(folder, dtype="auto").dtype == torch.bfloat16


def test_the_device_is_where_it_is_asked_for(tiny):
    _, folder = tiny
    load = VivitForVideoClassification.from_pretrained
    for options in ({"device": "meta"}, {"device_map": "meta"}, {"device_map": {"": torch.device("meta")}}):
        assert {value.device.type for value in load(folder, **options).parameters()} == {"meta"}
    with pytest.raises(BackendError, match="device 'cuda:77' cannot be used here"):
        load(folder, device="cuda:77")
    for split in ("auto", {"vivit": 0, "classifier": 1}):
        with pytest.raises(InputError, match="would split the model; wanted one device"):
            load(folder, device_map=split)


def test_two_names_of_one_argument_may_not_disagree(tiny):
    _, folder = tiny
    with pytest.raises(InputError, match=r"dtype='float16' and torch_dtype='float32' are two names"):
        VivitForVideoClassification.from_pretrained(folder, dtype="float16", torch_dtype="float32")
    with pytest.raises(ConfigError, match="dtype='int8' is not a dtype of a model"):
        VivitForVideoClassification.from_pretrained(folder, dtype="int8")


def test_a_bare_checkpoint_gets_a_new_classifier(tmp_path):
    bare, _ = pair(classifier=False)
    bare.save_pretrained(tmp_path)
    with pytest.warns(
        CheckpointWarning, match=r"newly initialised: classifier\.weight, classifier\.bias.*not used: pooler"
    ):
        model = VivitForVideoClassification.from_pretrained(tmp_path, num_labels=7)
    assert model.classifier.weight.shape == (7, 48)
    assert 0.1 < model.classifier.weight.detach().std().item() < 0.3  # initializer_range 0.2
    assert not model.classifier.bias.any()
    assert torch.equal(model.ln_final.weight, bare.ln_final.weight)


def test_a_classifier_checkpoint_gets_a_new_pooler_or_none(tiny):
    model, folder = tiny
    with pytest.warns(CheckpointWarning, match=r"newly initialised: pooler.*not used: classifier"):
        loaded = VivitModel.from_pretrained(folder)
    assert loaded.pooler is not None
    with pytest.warns(CheckpointWarning, match="not used: classifier") as caught:
        loaded = VivitModel.from_pretrained(folder, add_pooling_layer=False)
    assert loaded.pooler is None
    assert "newly initialised" not in str(caught[0].message)
    assert caught[0].filename == __file__
    assert torch.equal(loaded.ln_final.weight, model.ln_final.weight)


def test_new_classes_want_a_word(tiny):
    model, folder = tiny
    with pytest.raises(KeyMismatchError, match=r"classifier\.weight \(checkpoint \(5, 48\), model \(3, 48\)\)"):
        VivitForVideoClassification.from_pretrained(folder, num_labels=3)
    names = {0: "a", 1: "b", 2: "c"}
    with pytest.warns(CheckpointWarning, match="another shape"):
        loaded = VivitForVideoClassification.from_pretrained(
            folder, id2label=names, label2id={"a": 0, "b": 1, "c": 2}, ignore_mismatched_sizes=True
        )
    assert loaded.config.id2label == names
    assert torch.equal(loaded.blocks[1].mlp.fc1.weight, model.blocks[1].mlp.fc1.weight)


def test_names_alone_may_change(tiny):
    _, folder = tiny
    labels = {name: index for index, name in enumerate("vwxyz")}
    loaded = VivitForVideoClassification.from_pretrained(folder, label2id=labels)
    assert loaded.config.id2label[4] == "z"


def test_overrides_are_fields_of_the_configuration(tiny):
    model, folder = tiny
    load = VivitForVideoClassification.from_pretrained
    loaded = load(folder, attn_implementation="eager", hidden_dropout_prob=0.5)
    assert loaded.attn_implementation == "eager"
    assert loaded.config.hidden_dropout_prob == 0.5
    assert load(folder).attn_implementation == "sdpa"
    with pytest.raises(ConfigError, match=r"'hiden_act' \(did you mean 'hidden_act'\?\)"):
        load(folder, hiden_act="gelu")
    with pytest.raises(ConfigError, match="attn_implementation='fast' is not known"):
        load(folder, attn_implementation="fast")
    (folder / "config.json").unlink()
    assert same_weights(load(folder, config=model.config), model)


def test_another_size_of_model_lists_what_differs(tiny):
    _, folder = tiny
    with pytest.raises(KeyMismatchError) as caught:
        VivitForVideoClassification.from_pretrained(folder, num_hidden_layers=4, image_size=64)
    text = str(caught.value)
    assert f"{folder} does not fit this VivitForVideoClassification" in text
    assert "missing (16): encoder.layer.3.layernorm_before.weight" in text
    assert "embeddings.position_embeddings [embed.position] (checkpoint (1, 9, 48), model (1, 33, 48))" in text
    with pytest.raises(KeyMismatchError, match=r"unexpected \(16\): vivit\.encoder\.layer\.2\."):
        VivitForVideoClassification.from_pretrained(folder, num_hidden_layers=2)


@pytest.mark.parametrize("form", ["LABEL_n", "number", "silent"])
def test_a_checkpoint_of_400_nameless_classes_gets_kinetics_names(tmp_path, form):
    ours, peer = pair(num_labels=400)
    peer.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    if form != "LABEL_n":
        config = {key: value for key, value in config.items() if key not in ("id2label", "label2id")}
    if form == "number":
        config["num_labels"] = 400
    path.write_text(json.dumps(config))
    loaded = VivitForVideoClassification.from_pretrained(tmp_path)
    assert tuple(loaded.config.id2label.values()) == kinetics400_labels()
    assert same_weights(loaded, ours)


def test_400_new_classes_stay_nameless(tiny):
    _, folder = tiny
    with pytest.warns(CheckpointWarning, match="another shape"):
        loaded = VivitForVideoClassification.from_pretrained(folder, num_labels=400, ignore_mismatched_sizes=True)
    assert loaded.config.id2label[0] == "LABEL_0"


def test_a_quantised_checkpoint_is_refused(tiny):
    _, folder = tiny
    tensors = load_file(folder / "model.safetensors")
    name = "vivit.encoder.layer.0.output.dense.weight"
    save_file({**tensors, name: tensors[name].to(torch.int8)}, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=re.escape(name) + r" is stored as torch\.int8, so this checkpoint is quantised"
    ):
        VivitForVideoClassification.from_pretrained(folder)


def test_no_more_than_one_tensor_of_the_checkpoint_is_in_memory():
    config = VivitConfig(**TINY)
    tensors = VivitForVideoClassification(config).state_dict()
    alive = []

    def reader(value):
        def read():
            assert [ref for ref in alive if ref() is not None] == [], "the tensor before is still there"
            fresh = value.clone()
            alive.append(weakref.ref(fresh))
            return fresh

        return read

    entries = {name: TensorEntry(tuple(value.shape), value.dtype, reader(value)) for name, value in tensors.items()}
    model, _ = build_model(
        VivitForVideoClassification,
        config,
        TensorSource(entries),
        origin="here",
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    assert len(alive) == len(tensors)
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())


def test_loading_leaves_the_random_numbers_alone(tiny):
    _, folder = tiny
    before = torch.get_rng_state()
    VivitForVideoClassification.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_do_not_hang_on_the_file(tiny):
    model, folder = tiny
    loaded = VivitForVideoClassification.from_pretrained(folder)
    other, _ = pair()
    other.save_pretrained(folder)
    assert same_weights(loaded, model)
    assert all(value.requires_grad for value in loaded.parameters())


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
def test_the_progress_bar_is_shown_on_request(tiny, capsys, progress, shown):
    _, folder = tiny
    VivitForVideoClassification.from_pretrained(folder, progress=progress)
    assert ("Loading weights" in capsys.readouterr().err) == shown


@pytest.mark.parametrize("option", ["low_cpu_mem_usage", "trust_remote_code", "force_download"])
def test_loader_arguments_that_change_nothing_are_taken(tiny, option):
    model, folder = tiny
    assert same_weights(VivitForVideoClassification.from_pretrained(folder, **{option: True}), model)


NOTHING = {"subfolder": "", "variant": None, "output_loading_info": False, "proxies": None, "use_safetensors": None}


def test_loader_arguments_that_ask_for_nothing_are_taken(tiny):
    model, folder = tiny
    assert same_weights(load_model(folder, **NOTHING), model)


@pytest.mark.parametrize("option", [*(set(NOTHING) - {"use_safetensors"}), "use_auth_token", "load_in_8bit", "from_tf"])
def test_loader_arguments_that_are_not_supported_are_answered_by_name(tiny, option):
    _, folder = tiny
    with pytest.raises(InputError, match=rf"^{option} is not supported: .* \(got {option}='x'\)"):
        VivitForVideoClassification.from_pretrained(folder, **{option: "x"})


def test_safetensors_can_be_insisted_on_or_left_aside(tiny):
    model, folder = tiny
    other = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    torch.save(other, folder / "pytorch_model.bin")
    from_pretrained = VivitForVideoClassification.from_pretrained
    assert same_weights(from_pretrained(folder, use_safetensors=True), model)
    assert not any(value.any() for value in from_pretrained(folder, use_safetensors=False).parameters())


def test_a_configuration_may_come_in_the_forms_transformers_knows(tiny):
    model, folder = tiny
    peer = transformers.VivitConfig.from_pretrained(folder)
    peer.layer_norm_eps = 0.25
    settings = peer.to_dict()
    path = folder.parent / "other.json"
    path.write_text(json.dumps(settings))
    peer.save_pretrained(folder.parent / "other")
    (folder / "config.json").unlink()  # it is not looked at
    for given in (peer, settings, path, str(path), folder.parent / "other"):
        loaded = VivitForVideoClassification.from_pretrained(folder, config=given)
        assert loaded.config.layer_norm_eps == 0.25
        assert same_weights(loaded, model)
    for wrong in (3, [settings], transformers.VivitConfig):
        with pytest.raises(InputError, match="config must be a VivitConfig, a transformers configuration, a dict"):
            VivitForVideoClassification.from_pretrained(folder, config=wrong)
    with pytest.raises(ConfigError, match="wanted a ViViT's config"):
        VivitForVideoClassification.from_pretrained(folder, config=transformers.ViTConfig())


@pytest.mark.parametrize("classifier", KINDS)
def test_parameters_are_counted_as_transformers_counts_them(classifier):
    model, peer = pair(classifier)
    assert model.num_parameters() == peer.num_parameters()
    model.ln_final.requires_grad_(False)
    peer.get_submodule("vivit.layernorm" if classifier else "layernorm").requires_grad_(False)
    assert model.num_parameters(only_trainable=True) == peer.num_parameters(only_trainable=True)
    assert model.num_parameters() - model.num_parameters(only_trainable=True) == 2 * 48


def test_saving_takes_the_arguments_of_transformers(tmp_path):
    model, _ = pair()
    model.save_pretrained(tmp_path / "a", safe_serialization=True, push_to_hub=False)
    assert same_weights(load_model(tmp_path / "a"), model)
    with pytest.raises(InputError, match="safe_serialization=False would write a pickle"):
        model.save_pretrained(tmp_path / "b", safe_serialization=False)
    with pytest.raises(
        InputError, match=r"push_to_hub=True is not supported.*huggingface_hub\.HfApi\(\)\.upload_folder"
    ):
        model.save_pretrained(tmp_path / "b", push_to_hub=True)
    assert not (tmp_path / "b").exists()


def test_a_model_known_by_name_alone_opens_its_weights_once(tiny, monkeypatch):
    model, folder = tiny
    opened = []
    real = files.open_files
    monkeypatch.setattr(files, "open_files", lambda paths: opened.append(paths) or real(paths))
    assert same_weights(load_model(folder), model)
    assert opened == [[folder / "model.safetensors"]]
    with pytest.warns(CheckpointWarning, match="another shape") as caught:
        load_model(folder, num_labels=3, ignore_mismatched_sizes=True)
    assert caught[0].filename == __file__


def test_a_bare_model_known_by_name_alone_has_the_pooler_of_its_checkpoint(tmp_path):
    for pooler in (True, False):
        VivitModel(VivitConfig(**TINY), add_pooling_layer=pooler).save_pretrained(tmp_path)
        loaded = load_model(tmp_path)
        assert isinstance(loaded, VivitModel)
        assert (loaded.pooler is not None) == pooler
