"""From a file to pictures, in one call."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model.tiny import TINY
from vivit_lab.attribution import (
    AttentionGradient,
    AttentionRollout,
    AttributionMap,
    CheferRelevance,
    Occlusion,
    RawAttention,
)
from vivit_lab.errors import CheckpointNotFoundError, ConfigError, InputError
from vivit_lab.explain import METHODS, explain_video, load_pair, make_method, top_labels
from vivit_lab.families import VivitForVideoClassification, VivitModel, load_model
from vivit_lab.model import VivitConfig
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.records import ClassLogit, CosineSimilarity, record_attention
from vivit_lab.video import read_clip

SHORT = {"transition": {"steps": "2"}, "integrated_gradients": {"steps": "2"}, "smooth_grad": {"samples": "2"},
         "rise": {"masks": "2"}}  # fmt: skip


def test_one_call_writes_movie_sheet_and_map(checkpoint, video, tmp_path):
    model, processor = load_pair(str(checkpoint))
    method = AttentionRollout(start_layer=1)
    result = explain_video(
        video, model, processor, method, out=tmp_path / "new", stride=3, start=2, sheet=True, save_map=True
    )
    assert result.clip.indices.tolist() == [2, 5, 8, 11]
    assert {kind: path.name for kind, path in result.files.items()} == {
        "movie": "moving_attention_rollout.mp4",
        "sheet": "moving_attention_rollout.png",
        "map": "moving_attention_rollout.safetensors",
    }
    want = method(record_attention(model, read_clip(video, 4, 3, 2, processor=processor)))
    saved = AttributionMap.load(result.files["map"])
    torch.testing.assert_close(saved.relevance, want.relevance)
    assert saved.frame_indices == [[2, 5, 8, 11]]
    assert saved.model_id == str(checkpoint)
    movie = read_clip(result.files["movie"])
    np.testing.assert_allclose(movie.seconds, result.clip.seconds - result.clip.seconds[0], atol=1e-4)
    with Image.open(result.files["sheet"]) as page:
        assert page.width > 300


def test_queries_and_a_path_for_the_movie(checkpoint, video, tmp_path):
    model, processor = load_pair(str(checkpoint))
    result = explain_video(
        video, model, processor, RawAttention(), out=tmp_path / "a.mkv", queries=[(0, 1, 1), (1, 0, 0)],
        percentile=None, movie={"layout": "heat", "colorbar": False},
    )  # fmt: skip
    assert result.files == {"movie": tmp_path / "a.mkv"}
    assert result.map.target == "mean of tokens (t=0, y=1, x=1), (t=1, y=0, x=0)"
    with pytest.raises(InputError, match=r"a query is a place \(t, y, x\) on the token grid, got \(1, 2\)"):
        explain_video(video, model, processor, out=tmp_path, queries=[(1, 2)])


def test_a_checkpoint_is_loaded_as_what_it_is(checkpoint, tmp_path):
    assert isinstance(load_model(checkpoint), VivitForVideoClassification)
    for pooler in (True, False):
        VivitModel(VivitConfig(**TINY), add_pooling_layer=pooler).save_pretrained(tmp_path)
        model = load_model(tmp_path, dtype="bfloat16", device="cpu")
        assert isinstance(model, VivitModel)
        assert (model.pooler is not None) == pooler
        assert model.dtype == torch.bfloat16
    model, processor = load_pair(str(checkpoint), device="auto")
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert processor.value_range == (-1, 1)


def test_a_model_without_its_processor_or_with_one_of_no_whole_tubelets_is_refused(checkpoint, tmp_path):
    VivitModel(VivitConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match=r"has a model but no preprocessor_config\.json"):
        load_pair(str(tmp_path))
    odd = VivitImageProcessor.trained_range(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 40})
    odd.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"makes pixels that the model cannot be given: width=40 .*; correct"):
        load_pair(str(tmp_path))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_a_video(checkpoint, video, tmp_path, name):
    model, processor = load_pair(str(checkpoint))
    method = make_method(name, SHORT.get(name))
    result = explain_video(video, model, processor, method, out=tmp_path, sheet=True, movie={"colorbar": True})
    want = method(model, read_clip(video, 4, 1, processor=processor))
    torch.testing.assert_close(result.map.relevance, want.relevance)
    assert result.map.metadata() == want.metadata()
    assert (result.record is None) == (name not in ("raw", "rollout"))
    assert all(path.stat().st_size > 500 for path in result.files.values())


def test_a_class_by_index_by_label_or_as_a_target(checkpoint, video, tmp_path):
    model, processor = load_pair(str(checkpoint))
    maps = [
        explain_video(video, model, processor, CheferRelevance(), out=tmp_path, target=target).map
        for target in (2, "2", "label_2", ClassLogit(2))
    ]
    assert [heat.target for heat in maps] == ["class 2 (LABEL_2)"] * 4
    for heat in maps[1:]:
        torch.testing.assert_close(heat.relevance, maps[0].relevance)
    predicted = explain_video(video, model, processor, CheferRelevance(), out=tmp_path).map
    assert predicted.target.endswith(", predicted")
    with pytest.raises(InputError, match="no class 'dog'"):
        explain_video(video, model, processor, CheferRelevance(), out=tmp_path, target="dog")


def test_queries_and_progress_go_to_methods_that_take_them(checkpoint, video, tmp_path, capsys):
    model, processor = load_pair(str(checkpoint))
    heat = explain_video(video, model, processor, CheferRelevance(), out=tmp_path, target=1, queries=[(0, 1, 1)]).map
    assert heat.target == "class 1 (LABEL_1); read from token (t=0, y=1, x=1)"
    explain_video(video, model, processor, Occlusion(), out=tmp_path, progress=True)
    assert "Occlusion" in capsys.readouterr().err
    with pytest.raises(InputError, match="Occlusion explains the clip as a whole and takes no queries; those that do"):
        explain_video(video, model, processor, Occlusion(), out=tmp_path, queries=[(0, 1, 1)])


def test_what_cannot_be_explained_is_refused_before_the_video_is_read(tmp_path):
    bare, processor = VivitModel(VivitConfig(**TINY)), VivitImageProcessor.trained_range()
    for method in (CheferRelevance(), Occlusion()):
        for target in (None, 3, "dog"):
            with pytest.raises(InputError, match=r"explains a class, but .* has no classifier: .*raw, rollout, value_"):
                explain_video("nowhere.mp4", bare, processor, method, out=tmp_path, target=target)
    for target in (3, "dog"):
        with pytest.raises(InputError, match=f"does not depend on the class, and target={target!r} would be ignored"):
            explain_video("nowhere.mp4", bare, processor, RawAttention(), out=tmp_path, target=target)


def test_a_target_that_is_no_class_needs_no_classifier(checkpoint, video, tmp_path):
    torch.manual_seed(0)
    bare, processor = VivitModel(VivitConfig(**TINY)), load_pair(str(checkpoint))[1]
    target = CosineSimilarity(torch.randn(48))
    heat = explain_video(video, bare, processor, AttentionGradient(positive=False), out=tmp_path, target=target).map
    assert heat.target.startswith("cosine similarity")
    assert heat.signed


def test_another_callable_is_a_method_too(checkpoint, video, tmp_path):
    model, processor = load_pair(str(checkpoint))

    def uniform(model, clip, target):
        return AttributionMap(torch.ones(1, 2, 2, 2), model.config.grid, "uniform")

    assert explain_video(video, model, processor, uniform, out=tmp_path).map.method == "uniform"


def test_top_labels_are_sorted_and_sum_to_one():
    logits = torch.tensor([0.0, 3.0, 1.0])
    config = VivitConfig(id2label={0: "a", 1: "b", 2: "c"})
    best = top_labels(logits, config)
    assert [row["label"] for row in best] == ["b", "c", "a"]
    assert sum(row["probability"] for row in best) == pytest.approx(1)
    assert top_labels(logits, config, 1) == [
        {"label": "b", "index": 1, "logit": 3.0, "probability": pytest.approx(float(logits.softmax(0)[1]))}
    ]
    several = top_labels(logits, config.replace(problem_type="multi_label_classification"))
    assert [row["probability"] for row in several] == pytest.approx([0.9526, 0.7311, 0.5], abs=1e-4)
    assert "probability" not in top_labels(logits, config.replace(problem_type="regression"))[0]
    assert "probability" not in top_labels(logits[:1], VivitConfig(num_labels=1))[0]


def test_the_video_itself_is_never_replaced(checkpoint, video, tmp_path):
    model, processor = load_pair(str(checkpoint))
    copy = tmp_path / "mine.mp4"
    copy.write_bytes(video.read_bytes())
    with pytest.raises(InputError, match="is the video itself, which would be lost"):
        explain_video(copy, model, processor, AttentionRollout(), out=copy)
    assert copy.read_bytes() == video.read_bytes()
    with pytest.raises(InputError, match=r"neither a directory nor a movie to write \(\.mp4"):
        explain_video(copy, model, processor, AttentionRollout(), out=tmp_path / "a.gif")
