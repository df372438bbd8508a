import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.model.tiny import clips
from vivit_lab.errors import InputError
from vivit_lab.evaluation import PlantedClips
from vivit_lab.grid import TokenGrid
from vivit_lab.heads import clip_set
from vivit_lab.planted import PlantedConfig, PlantedDataset
from vivit_lab.video import Clip

PIXELS, LABELS = clips(5), torch.arange(5)


def read(found, size=2):
    batches = list(found.batches(size))
    labels = [batch.labels for batch in batches]
    whole = torch.cat([batch.pixel_values for batch in batches])
    return whole, None if labels[0] is None else torch.cat(labels)


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (PIXELS, False),
        ((PIXELS, LABELS), True),
        (TensorDataset(PIXELS, LABELS), True),
        (DataLoader(TensorDataset(PIXELS, LABELS), 3), True),
        ([(PIXELS[:3], LABELS[:3]), (PIXELS[3:], LABELS[3:])], True),
        (clip_set((PIXELS, LABELS)), True),
    ],
)
def test_clips_are_the_same_however_they_come(data, known):
    found = clip_set(data)
    pixels, labels = read(found)
    assert len(found) == 5
    assert torch.equal(pixels, PIXELS)
    assert torch.equal(labels, LABELS) if known else labels is None
    part = found.take([4, 1])
    assert torch.equal(read(part)[0], PIXELS[[4, 1]])
    assert [batch.places for batch in part.batches(8)] == [[0, 1]]
    relabelled = clip_set(part, [7, 8])
    assert read(relabelled)[1].tolist() == [7, 8]
    assert found.digests()[1] == part.digests()[1]
    assert len(set(found.digests())) == 5


def test_planted_clips_and_datasets_are_drawn_when_asked_for():
    config = PlantedConfig(split="test", level=0)
    dataset = clip_set(PlantedDataset(config, 4))
    evaluation = clip_set(PlantedClips(config, 4, TokenGrid.from_video(16, 48, 48, (2, 8, 8))))
    assert torch.equal(read(dataset)[0], read(evaluation)[0])
    assert torch.equal(read(dataset)[1], read(evaluation)[1])
    assert evaluation.description["kind"] == "planted"
    item, label = dataset.as_dataset()[3]
    assert torch.equal(item, read(dataset)[0][3])
    assert label == int(read(dataset)[1][3])
    assert len(dataset.as_dataset()) == 4


def test_what_is_no_clips_is_refused():
    for data, message in (
        (3, "wanted clips: .*; got int"),
        ([], "got list"),
        (PIXELS[0], r"\(clips, frames, channels, height, width\), got \(4, 3, 32, 32\)"),
        (PIXELS[:0], "wanted at least one clip"),
        ((PIXELS, LABELS[:2]), "one label for each of 5 clips, got 2"),
        (Clip.from_frames((PIXELS[0].movedim(1, -1) * 0).byte().numpy(), 8.0), "has no pixel values yet"),
    ):
        with pytest.raises(InputError, match=message):
            clip_set(data)
    with pytest.raises(InputError, match=r"one label for each of 5 clips, got \(2,\)"):
        clip_set(PIXELS, [1, 2])
    with pytest.raises(InputError, match="training wants clips with labels"):
        clip_set(PIXELS).as_dataset()[0]
