"""Targets give the numbers they name, and keep the class of the clean clip."""

import pytest
import torch
from torch.nn import functional

from tests.attribution.naive import random_model
from tests.model.tiny import clips
from vivit_lab.errors import InputError
from vivit_lab.families import VivitModel
from vivit_lab.model import VideoClassifierOutput
from vivit_lab.records import ClassLogit, CosineSimilarity, LogitDifference, Probability, record_gradients
from vivit_lab.records.targets import BoundTarget, bind_target


@pytest.fixture
def model():
    return random_model(id2label={0: "run", 1: "walk", 2: "jump"}, num_labels=3)


def output_of(*rows):
    return VideoClassifierOutput(logits=torch.tensor(rows))


OUTPUT = output_of([1.0, 3.0, 2.0], [5.0, 4.0, 6.0])
CASES = [
    (None, [3.0, 6.0], ["class 1 (walk), predicted", "class 2 (jump), predicted"], "logit"),
    (1, [3.0, 4.0], ["class 1 (walk)"] * 2, "logit"),
    ([2, 0], [2.0, 5.0], ["class 2 (jump)", "class 0 (run)"], "logit"),
    (torch.tensor([2, 2]), [2.0, 6.0], ["class 2 (jump)"] * 2, "logit"),
    (ClassLogit(), [3.0, 6.0], ["class 1 (walk), predicted", "class 2 (jump), predicted"], "logit"),
    (LogitDifference(0, 1), [-2.0, 1.0], ["class 0 (run), against class 1 (walk)"] * 2, "logit difference"),
    (LogitDifference(0), [-2.0, -1.0], ["class 0 (run), against class 1 (walk), the strongest other",
     "class 0 (run), against class 2 (jump), the strongest other"], "logit difference"),
    (LogitDifference(), [1.0, 1.0], ["class 1 (walk), predicted, against class 2 (jump), the strongest other",
     "class 2 (jump), predicted, against class 0 (run), the strongest other"], "logit difference"),
    (lambda output: output.logits.sum(dim=-1), [6.0, 15.0], ["<lambda>(output)"] * 2, "target"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "scores", "names", "unit"), CASES)
def test_a_target_is_what_it_says(model, target, scores, names, unit):
    bound = bind_target(target, OUTPUT, model.config)
    assert (bound.names, bound.unit, bound.num_clips) == (names, unit, 2)
    assert bound.name == (names[0] if names[0] == names[1] else f"clip by clip: {names[0]}; {names[1]}")
    torch.testing.assert_close(bound(OUTPUT), torch.tensor(scores))
    assert bind_target(bound, OUTPUT, model.config) is bound


def test_one_predicted_class_says_that_it_is_predicted(model):
    same = output_of([0.0, 1.0, 0.5], [0.0, 2.0, 0.5])
    assert bind_target(None, same, model.config).name == "class 1 (walk), predicted"
    assert bind_target(LogitDifference(), same, model.config).name == (
        "class 1 (walk), predicted, against class 2 (jump), the strongest other"
    )
    many = bind_target(None, output_of(*torch.eye(3).repeat(4, 1).tolist()), model.config)
    assert many.name.endswith("class 1 (walk), predicted and 4 more")
    assert len(many.names) == 12


def test_probabilities(model):
    bound = bind_target(Probability(2), OUTPUT, model.config)
    assert bound.name == "probability of class 2 (jump)"
    torch.testing.assert_close(bound(OUTPUT), OUTPUT.logits.softmax(-1)[:, 2])
    several = model.config.replace(problem_type="multi_label_classification")
    torch.testing.assert_close(bind_target(Probability(2), OUTPUT, several)(OUTPUT), OUTPUT.logits.sigmoid()[:, 2])
    assert bind_target(2, OUTPUT, model.config, default=Probability).unit == "probability"
    assert bind_target(ClassLogit(2), OUTPUT, model.config, default=Probability).unit == "logit"


def test_the_class_stays_that_of_the_clean_clip(model):
    bound = bind_target(None, OUTPUT, model.config)
    perturbed = output_of([9.0, 1.0, 0.0], [9.0, 2.0, 0.0], [9.0, 3.0, 7.0])
    assert bound(perturbed, [0, 0, 1]).tolist() == [1.0, 2.0, 7.0]
    with pytest.raises(InputError, match="bound to 2 clips, the output has 3"):
        bound(perturbed)


def test_cosine_similarity_to_an_embedding():
    model, pixels, embedding = random_model(VivitModel), clips(), torch.randn(48)
    output = model(pixels)
    for of, features in (("auto", output.pooler_output), ("cls", output.last_hidden_state[:, 0])):
        bound = bind_target(CosineSimilarity(embedding, of), output, model.config)
        want = torch.stack([functional.cosine_similarity(row, embedding, dim=0) for row in features])
        torch.testing.assert_close(bound(output), want)
    each = bind_target(CosineSimilarity(torch.stack((embedding, -embedding))), output, model.config)
    want = functional.cosine_similarity(output.pooler_output[[1, 0]], torch.stack((-embedding, embedding)))
    swapped = type(output)(pooler_output=output.pooler_output[[1, 0]])
    torch.testing.assert_close(each(swapped, [1, 0]), want)
    bare = random_model(VivitModel)
    bare.pooler = None
    record = record_gradients(bare, pixels, CosineSimilarity(embedding))
    assert record.target == "cosine similarity of the CLS token to an embedding"
    headless = random_model(num_labels=0)
    record = record_gradients(headless, pixels, CosineSimilarity(embedding))
    want = functional.cosine_similarity(headless(pixels).logits, embedding.expand(2, -1), dim=-1)
    torch.testing.assert_close(record.scores, want.detach())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, r"must be one of the model's classes 0\.\.2, or one for each of the 2 clips; got 3"),
        (-1, "got -1"),
        (True, "got True"),
        ([0, 1, 2], r"got \[0, 1, 2\]"),
        ("run", "a target is one of the model's classes .*, a Target or a function; got 'run'"),
        (1.5, "a Target or a function; got 1.5"),
        (LogitDifference(1, 1), "wants two different classes, got class 1 .walk. and class 1"),
        (CosineSimilarity(torch.ones(48)), "the model's output has no embedding of='auto'"),
    ],
)
def test_wrong_targets_are_refused(model, target, message):
    with pytest.raises(InputError, match=message):
        bind_target(target, OUTPUT, model.config)


def test_what_does_not_fit_the_model_is_refused(model):
    single = random_model(num_labels=1)
    with pytest.raises(InputError, match="wants two classes, the model has one"):
        record_gradients(single, clips(), LogitDifference())
    for bare in (random_model(VivitModel), random_model(num_labels=0)):
        for target in (None, 0, Probability(), LogitDifference()):
            with pytest.raises(InputError, match=r"no classifier.*CosineSimilarity\(embedding\)"):
                record_gradients(bare, clips(), target)
    with pytest.raises(InputError, match=r"embedding must be \(48,\) or \(2 clips, 48\), got \(3, 48\)"):
        record_gradients(random_model(VivitModel), clips(), CosineSimilarity(torch.ones(3, 48)))
    with pytest.raises(InputError, match="of='mean' is not known; choose one of auto, pooler, cls"):
        CosineSimilarity(torch.ones(48), of="mean")
    with pytest.raises(InputError, match=r"embedding must be a tensor"):
        CosineSimilarity(torch.ones(1, 1, 48))
    for function, got in ((lambda output: output.logits, r"\(2, 3\)"), (lambda output: 1.0, "float")):
        with pytest.raises(InputError, match=rf"one number a clip, a tensor \(2,\); got {got}"):
            record_gradients(model, clips(), function)


def test_a_class_for_each_clip_is_that_class_alone(model):
    pixels = clips()
    both = record_gradients(model, pixels, [2, 0])
    for clip, target in enumerate((2, 0)):
        alone = record_gradients(model, pixels[clip : clip + 1], target)
        torch.testing.assert_close(both.gradient_rows(0, [0, 3])[clip], alone.gradient_rows(0, [0, 3])[0])
    assert isinstance(bind_target(None, OUTPUT, model.config), BoundTarget)
