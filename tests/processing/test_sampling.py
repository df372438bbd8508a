"""One rule says which frames of a video a model is given, and every command and function follows it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import vivit_lab as lab
from tests.model.tiny import TINY
from vivit_lab.checkpoints import Checkpoint
from vivit_lab.cli import main
from vivit_lab.evaluation import open_data
from vivit_lab.processing import note_sampling, sampling_of
from vivit_lab.widgets.load_panel import open_clip

PLAIN = lab.VivitImageProcessor.trained_range(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})


def test_asked_for_noted_assumed():
    noted = note_sampling(PLAIN, 4, 3, 12.5)
    assert str(sampling_of(noted, 4)) == "clips are 4 frames, stride 3, as the processor's file says"
    assert str(sampling_of(noted, 4, 2)) == "clips are 4 frames, stride 2, as asked for"
    assert [sampling_of(PLAIN, frames).stride for frames in (4, 8, 16, 31, 32, 64)] == [1, 1, 1, 1, 2, 1]
    assumed = "which is usual for 32 frames, since the checkpoint does not say how it was trained"
    assert str(sampling_of(None, 32)) == f"clips are 32 frames, stride 2, {assumed}"


def test_it_is_kept_with_the_processor(tmp_path):
    note_sampling(PLAIN, 4, 3, 29.97003).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["vivit_lab_sampling"] == {"frames": 4, "stride": 3, "fps": 29.97}
    again = lab.VivitImageProcessor.from_pretrained(tmp_path)
    assert sampling_of(again, 4) == sampling_of(note_sampling(PLAIN, 4, 3, 29.97), 4)


@pytest.mark.parametrize("stride", [0, -1, True, 1.0, "2", float("nan")])
def test_a_stride_that_is_none_is_refused(stride):
    with pytest.raises(lab.errors.InputError, match=r"stride must be a positive (integer|whole number)"):
        sampling_of(PLAIN, 4, stride)
    broken = SimpleNamespace(extra={"vivit_lab_sampling": {"stride": stride}})
    with pytest.raises(lab.errors.ConfigError, match="wanted a stride of 1 or more there"):
        sampling_of(broken, 4)


def test_the_bundled_models_say_it():
    assert [sampling_of(lab.load_pair(name)[1], 16).stride for name in ("planted", "bundled")] == [1, 2]


def test_every_command_takes_the_same_frames(tmp_path, video, capsys):
    """The strides that reach the reader, from each command and function that is given none."""
    folder, out = tmp_path / "model", tmp_path / "out"
    model = lab.VivitForVideoClassification(lab.VivitConfig(**TINY, num_labels=5)).eval()
    model.save_pretrained(folder)
    note_sampling(PLAIN, 4, 3).save_pretrained(folder)
    assert Checkpoint.open(folder).sampling["stride"] == 3
    model, processor = lab.load_pair(str(folder))
    rollout = lab.AttentionRollout()
    seen = {"explain_video": lab.explain_video(video, model, processor, rollout, out=out).clip.indices}
    seen["open_clip"] = open_clip(str(video), model.config, processor).indices
    run = lab.run_bulk(lab.bulk.BulkJob(str(folder)), [str(video)], tmp_path / "run", progress=False)
    seen["bulk"] = run.clip(0).indices
    assert run.summary()["frames"] == "4, stride 3"
    assert all(np.array_equal(indices, [0, 3, 6, 9]) for indices in seen.values()), seen
    wanted = lab.read_clip(video, 4, 3, processor=processor).pixel_values
    assert open_data(video, model.config, processor).batch([0]).pixel_values.equal(wanted)
    assert main(["predict", str(video), "--model", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"]["indices"] == [0, 3, 6, 9]
    drawing = ["--method", "raw", "--map", "--out", str(out / "a.mp4")]
    assert main(["render", str(video), "--model", str(folder), *drawing]) == 0
    assert lab.AttributionMap.load(out / "a.safetensors").frame_indices == [[0, 3, 6, 9]]
    again = lab.explain_video(video, model, processor, rollout, out=out, stride=1)
    assert np.array_equal(again.clip.indices, [0, 1, 2, 3])


def test_fine_tuning_notes_what_it_did(tmp_path):
    from tests.training.test_finetune import QUICK
    from tests.training.videos import save_tiny, write_folders

    folders = write_folders(tmp_path / "videos")
    pair = lab.load_pair(str(save_tiny(tmp_path / "start")))
    result = lab.training.finetune(*pair, folders, tmp_path / "run", stride=2, **{**QUICK, "steps": 2})
    noted = Checkpoint.open(result.last).sampling
    assert noted == {"frames": result.model.config.num_frames, "stride": 2, "fps": pytest.approx(10, abs=0.01)}
