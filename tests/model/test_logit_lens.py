"""The lens is the classifier after the final LayerNorm, at every layer and token."""

import sys

import pytest
import torch

from tests.model.test_hooked import make
from tests.model.tiny import clips
from vivit_lab.errors import InputError, MissingExtraError
from vivit_lab.model.cache import readout_weights
from vivit_lab.records import logit_lens


@pytest.mark.parametrize("classifier", ["token", "gap"])
def test_the_lens_is_the_models_own_readout(classifier):
    model, pixels = make(classifier=classifier), clips()
    lens = logit_lens(model, pixels)
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True)
        _, cache = model.run_with_cache(pixels)
        for place, stream in enumerate([*(cache["resid_pre", layer] for layer in range(3)), cache["resid_post", 2]]):
            want = model.classifier(model.ln_final(stream))
            torch.testing.assert_close(lens.values[place], want)
            summary = want[:, 0] if classifier == "token" else want.mean(1)
            torch.testing.assert_close(lens.pooled[place], summary, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lens.pooled[-1], output.logits, rtol=1e-4, atol=1e-5)
    assert lens.labels == ["0_pre", "1_pre", "2_pre", "final_post"]
    assert len(logit_lens(model, pixels, incl_mid=True).labels) == 7
    weights = readout_weights(model, lens.values.shape[2], lens.grid)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def test_strips_and_classes():
    model, pixels = make(), clips()
    lens, some = logit_lens(model, pixels), logit_lens(model, pixels, classes=[4, 1])
    assert torch.equal(some.values, lens.values[..., [4, 1]])
    assert some.names == ["LABEL_4", "LABEL_1"]
    assert torch.equal(some.of("LABEL_1"), lens.of(1))
    grid = lens.tubelets(3)
    assert grid.shape == (4, 2, 2, 2, 2)
    assert torch.equal(grid[:, :, 1, 0, 1], lens.values[:, :, lens.grid.token(1, 0, 1), 3])
    torch.testing.assert_close(lens.strip(3), grid.mean((-1, -2)))
    mask = torch.rand(3, 4)
    torch.testing.assert_close(
        logit_lens(model, pixels, head_mask=mask).pooled[-1], model(pixels, head_mask=mask).logits
    )
    with pytest.raises(InputError, match=r"class 2 is not in the lens of 4, 1"):
        some.of(2)
    table = lens.to_pandas()
    assert len(table) == 2 * 4 * 5
    last = table[(table["clip"] == 1) & (table["layer"] == "final_post") & (table["class"] == 2)]["logit"].item()
    assert last == pytest.approx(float(lens.pooled[-1, 1, 2]))
    assert repr(lens) == "LogitLens(2 clips, 4 places in the stream, 9 tokens, 5 classes)"
    page = lens._repr_html_()
    assert page.count("<figure") == 5
    assert "LABEL_3" in page


def test_a_lens_of_some_tokens(monkeypatch):
    model = make()
    _, cache = model.run_with_cache(clips())
    cut = cache.at(t=1).logit_lens()
    assert torch.equal(cut.values, cache.logit_lens().values[:, :, 5:])
    assert cut.pooled is None
    assert "<figure" not in cut._repr_html_()
    with pytest.raises(InputError, match="does not hold all tokens of a known grid"):
        cut.strip(0)
    with pytest.raises(InputError, match="there are no pooled logits"):
        cut.to_pandas()
    assert cache.clip(0).logit_lens().values.shape == (4, 1, 9, 5)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"tables need pandas: pip install 'vivit-lab\[lab\]'"):
        cut.to_pandas()
