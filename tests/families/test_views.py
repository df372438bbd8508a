"""Several views of a clip: the mean of their logits."""

import pytest
import torch

from tests.model.variants import random_clips, variant_model
from vivit_lab.errors import InputError
from vivit_lab.families import predict_views
from vivit_lab.processing import VivitImageProcessor
from vivit_lab.video import read_clip, read_views


def test_views_are_averaged_as_logits():
    model, _ = variant_model("factorized_encoder")
    views = torch.stack([random_clips(2), random_clips(2), random_clips(2)], dim=1)  # (batch, view, …)
    want = torch.stack([model(views[:, view]).logits for view in range(3)]).mean(0)
    got = predict_views(model, views)
    torch.testing.assert_close(got, want)
    assert not got.requires_grad
    torch.testing.assert_close(predict_views(model, views[1]), want[1], rtol=1e-5, atol=1e-6)
    larger = torch.randn(2, 4, 3, 12, 12)
    both = torch.stack([model(view[None], interpolate_pos_encoding=True).logits[0] for view in larger]).mean(0)
    torch.testing.assert_close(predict_views(model, larger, interpolate_pos_encoding=True), both)


def test_views_of_a_video_are_read_and_prepared(video):
    model, _ = variant_model("spacetime")
    processor = VivitImageProcessor.trained_range(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    clips = read_views(video, 6, 2, 4, processor=processor)
    assert clips[0].indices.tolist() == [0, 2, 4, 6, 8, 10]
    assert clips[-1].indices.tolist() == [9, 11, 13, 15, 17, 19]
    assert len(clips) == 4
    want = torch.stack([model(clip.pixel_values).logits[0] for clip in clips]).mean(0)
    torch.testing.assert_close(predict_views(model, clips), want)
    bare = read_views(video, 6)
    assert torch.equal(torch.from_numpy(bare[0].frames), torch.from_numpy(read_clip(video, 6, 2).frames))
    with pytest.raises(InputError, match="each prepared"):
        predict_views(model, bare)
    with pytest.raises(InputError, match="at least one view"):
        predict_views(model, [])
    with pytest.raises(InputError, match=r"views must be \(view, frame"):
        predict_views(model, torch.zeros(6, 3, 8, 8))
