"""What is said of the bundled heads: the README shows the stored study, and the study is of the bundled weights."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.golden.make_head_study import ABLATION, BEGIN, DIGITS, END, SCRIPT, markdown, replaced, roles_of
from vivit_lab.checkpoints import bundled_model_path
from vivit_lab.checkpoints.hub import verify_bundled
from vivit_lab.explain import load_pair
from vivit_lab.heads.roles import ROLES
from vivit_lab.planted import PlantedConfig
from vivit_lab.planted.clip import planted_batch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def stored():
    return json.loads(verify_bundled("reports/planted_heads.json").read_text(encoding="utf-8"))


def test_the_readme_shows_it(stored):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(f"{re.escape(BEGIN)}(.*?){re.escape(END)}", text, re.DOTALL)
    assert found
    assert found[1].strip() == markdown(stored).strip(), f"run {SCRIPT}"
    assert SCRIPT in text


def test_it_is_of_the_bundled_weights(stored):
    weights = (bundled_model_path("planted") / "model.safetensors").read_bytes()
    assert stored["weights_sha256"] == hashlib.sha256(weights).hexdigest(), f"the weights have changed: run {SCRIPT}"


def test_it_is_of_every_head_on_enough_clips(stored):
    model, _ = load_pair("planted")
    shape = (len(model.blocks), model.config.num_attention_heads)
    assert stored["clips"] >= 128
    assert stored["right"] > 0.8 * stored["clips"]
    assert torch.tensor(stored["effect"]).shape == torch.tensor(stored["temporal"]).shape == (stored["clips"], *shape)
    roles = roles_of(stored)
    assert sum(len(roles.heads(role)) for role in ROLES) == shape[0] * shape[1]
    assert roles.heads("motion")  # a task of motion alone, and a model that does it
    strongest = max(roles.rows(), key=lambda row: row["temporal_mean"])
    assert strongest["role"] == "motion"
    assert strongest["temporal_low"] > 0 > strongest["effect_high"]


def test_effects_of_its_first_clips_come_out_again(stored):
    model, _ = load_pair("planted")
    config = PlantedConfig(split=stored["split"], level=stored["level"])
    pixels, labels, _ = planted_batch(config, range(stored["clips"]))
    last = len(model.blocks) - 1  # the cheapest layer: a pass may start there
    again = replace(ABLATION, layers=[last])(model, pixels[:4], labels[:4], reference=pixels)
    found = again.effect.reshape(4, -1)
    wanted = torch.tensor(stored["effect"], dtype=torch.float64)[:4, last]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2 * 10.0**-DIGITS)


def test_a_table_takes_the_place_of_the_one_before():
    text = f"above\n{BEGIN}old\n{END}\nbelow"
    assert replaced(text, "new") == f"above\n{BEGIN}new\n{END}\nbelow"
    assert replaced(replaced(text, "new"), "new") == replaced(text, "new")
