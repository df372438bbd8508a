"""The measures on the factorised variants: tubelets are painted over, and never dropped out of their groups."""

import pytest
import torch

from tests.faithfulness.laws_perturb import UNITS, wide_clips, wide_model
from vivit_lab.attribution import AttentionRollout, CheferRelevance
from vivit_lab.errors import InputError
from vivit_lab.faithfulness import EvaluationPlan, Perturbation, SaCo, evaluate
from vivit_lab.faithfulness.evaluation import EvaluationBatch, EvaluationData, curve_name
from vivit_lab.faithfulness.masking import CleanClips
from vivit_lab.model.config import VARIANTS

FACTORIZED = VARIANTS[1:]


@pytest.mark.parametrize("variant", FACTORIZED)
def test_other_frame_counts_keep_their_groups(variant):
    model, pixels = wide_model(variant=variant), wide_clips()[:, :4]  # 2 times of tubelets where it was made for 4
    curves = Perturbation(steps=3, baseline="blur")(
        model, pixels, torch.randn(2, 2, 3, 2), interpolate_pos_encoding=True
    )
    want = model(pixels, interpolate_pos_encoding=True).logits.max(dim=1).values.detach()
    torch.testing.assert_close(curves.morf_score[:, 0], want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", FACTORIZED)
@pytest.mark.parametrize("kept", [12, 7])  # one is whole groups of 4 times, and would go through unseen
def test_tokens_are_not_dropped_out_of_their_groups(variant, kept):
    clips = CleanClips.of(wide_model(variant=variant), wide_clips(1))
    keep = (torch.arange(UNITS) < kept).view(1, 1, -1)
    with pytest.raises(InputError, match=rf"tokens of a {variant} stand in groups .* paint over them"):
        clips.read(keep, "drop")


def test_a_plan_paints_where_tokens_cannot_be_dropped():
    plan = EvaluationPlan(sanity_clips=3)
    assert plan.for_model(wide_model()) is plan
    blurred = plan.for_model(wide_model(variant=FACTORIZED[1]))
    names = [(curve.region, curve.baseline, curve.steps) for curve in blurred.curves]
    assert names == [("space_time", "blur", 20), ("time", "blur", 4), ("space", "blur", 6)]
    assert [curve_name(curve, number) for number, curve in enumerate(blurred.curves)] == [
        "",
        "_time_blur",
        "_space_blur",
    ]
    assert blurred.sanity_clips == 3


class Data(EvaluationData):
    """Two random clips of unknown class."""

    def __len__(self):
        return 2

    def batch(self, indices):
        torch.manual_seed(4)
        return EvaluationBatch(wide_clips()[list(indices)], [f"clip {index}" for index in indices], None, None, None)

    def describe(self):
        return {"kind": "random"}


@pytest.mark.parametrize("variant", FACTORIZED)
def test_methods_are_judged_on_every_variant(variant):
    model = wide_model(variant=variant)
    plan = EvaluationPlan((Perturbation(baseline="drop", steps=2),), SaCo(groups=4), None, None, 1).for_model(model)
    report = evaluate(model, Data(), [AttentionRollout(), CheferRelevance()], plan=plan, progress=False)
    assert report.settings["clips_judged"] == 2
    assert {"srg", "saco"} <= set(report.metrics)
    assert report.sanity["AttentionRollout"].depends_on_classifier is False
    assert report.sanity["CheferRelevance"].depends_on_classifier is True
