"""The benchmarks on a tiny shape: the figures are of the machine, their form and arithmetic are not."""

import json
from statistics import median

import pytest
import torch

from vivit_lab.bench import suites, tasks
from vivit_lab.bench.table import A100, a100_row, describe_machine
from vivit_lab.bench.workload import BACKENDS, Workload, attention_call, half_dtype, run_task
from vivit_lab.errors import BackendError, ConfigError, InputError
from vivit_lab.families import VivitForVideoClassification
from vivit_lab.memory import format_bytes
from vivit_lab.model import VivitConfig

TINY = VivitConfig(
    image_size=32,
    num_frames=4,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    num_labels=5,
)
LOAD = Workload(TINY)


@pytest.fixture
def here(monkeypatch):
    """Run the tasks in this process: a fresh one for each takes seconds."""

    def run(task, workload, **arguments):
        return json.loads(json.dumps(getattr(tasks, task)(Workload.from_json(workload.to_json()), **arguments)))

    monkeypatch.setattr(suites, "run_task", run)


def check_form(table):
    """What every table is: JSON, Markdown with as many cells as headings, HTML."""
    told = json.loads(json.dumps(table.to_dict()))
    assert set(told) == {"bench", "title", "columns", "machine", "settings", "rows", "published", "notes"}
    assert {"processor", "cores", "threads", "torch", "load", "device"} <= set(told["machine"])
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    assert len(lines) == len(table.rows) + 2
    assert {line.count("|") for line in lines} == {len(table.columns) + 1}
    assert table._repr_html_().count("<tr>") == len(table.rows) + 1
    return told


def test_inference_compares_eager_and_sdpa(here):
    table = suites.bench_inference(LOAD, batch_sizes=(1, 2), batches=3, progress=False)
    told = check_form(table)
    assert [(row["batch"], row["dtype"]) for row in told["rows"]] == [
        (1, "float32"),
        (2, "float32"),
        (1, "bfloat16"),
        (2, "bfloat16"),
    ]
    for row in told["rows"]:
        assert row["error"] is None
        assert {name: len(times) for name, times in row["samples"].items()} == {"eager": 3, "sdpa": 3}
        assert row["eager_seconds"] == median(row["samples"]["eager"]) > 0
        assert row["speedup_percent"] == pytest.approx(100 * (row["eager_seconds"] / row["sdpa_seconds"] - 1))
        assert ("a100_speedup_percent" in row) is (row["dtype"] == "float32")
    assert told["rows"][1]["a100_memory_saved_percent"] == 176.122
    assert [row["batch"] for row in told["published"]["rows"]] == [1, 2, 4, 8]


def test_training_compares_eager_and_sdpa(here):
    told = check_form(suites.bench_training(LOAD, steps=2, progress=False))
    (row,) = told["rows"]
    assert (row["steps"], row["batch"], row["error"]) == (2, 1, None)
    assert {"key": "steps", "title": "steps timed", "digits": 1} in told["columns"]
    assert min(row["eager_seconds"], row["sdpa_seconds"]) > 0
    assert row["a100_speedup_percent"] == 7.122


def test_what_would_not_fit_is_not_tried(here, monkeypatch):
    monkeypatch.setattr(suites, "free_bytes", lambda device: 1000)
    table = suites.bench_inference(LOAD, batch_sizes=(1,), dtypes=("float32",), batches=1, progress=False)
    (row,) = table.rows
    assert row["error"].startswith("eager wants 15.6 kB of patterns, 1 kB are free") or "of patterns" in row["error"]
    assert row["sdpa_seconds"] > 0
    assert row["speedup_percent"] is row["memory_saved_percent"] is None
    assert "batch 1: eager wants" in table.markdown()


def test_a_process_that_fails_is_a_remark(monkeypatch):
    def fail(*_arguments, **_more):
        raise BackendError("forward_peak could not be measured: killed")

    monkeypatch.setattr(suites, "run_task", fail)
    table = suites.bench_inference(LOAD, batch_sizes=(1,), dtypes=("float32",), batches=1, progress=False)
    assert table.rows[0]["error"].startswith("eager: forward_peak could not be measured: killed; sdpa: forward_peak")
    assert "-" in table.cells()[0]


@pytest.mark.parametrize("broken", ["forward_peak", "forward_seconds"])
def test_what_one_implementation_cannot_do_does_not_keep_the_other_from_its_figures(here, monkeypatch, broken):
    whole = suites.run_task

    def run(task, workload, **arguments):
        if task == broken and "eager" in (arguments.get("implementation"), *arguments.get("implementations", ())):
            raise BackendError(f"{task} could not be measured: killed")
        return whole(task, workload, **arguments)

    monkeypatch.setattr(suites, "run_task", run)
    (row,) = suites.bench_inference(LOAD, batch_sizes=(1,), dtypes=("float32",), batches=1, progress=False).rows
    assert f"{broken} could not be measured: killed" in row["error"]
    assert ("eager_seconds" in row, "sdpa_seconds" in row) == (False, True)
    assert "sdpa_peak_mb" in row
    assert row["speedup_percent"] is None


def test_a_backend_whose_memory_cannot_be_measured_does_not_cost_the_table(here, monkeypatch):
    whole = suites.run_task

    def run(task, workload, **arguments):
        if arguments.get("backend") == "math":
            raise BackendError("attention_peak could not be measured: killed")
        return whole(task, workload, **arguments)

    monkeypatch.setattr(suites, "run_task", run)
    table = suites.bench_attention(LOAD, backends=("sdpa", "math"), repeats=1, progress=False)
    assert [row["error"] for row in table.rows] == [None, "attention_peak could not be measured: killed"]
    assert table.notes[0].startswith("The default, sdpa, is the fastest here")


def test_a_distance_from_eager_is_from_eager_alone(monkeypatch):
    def call(name, *parts):
        if name == "eager":
            raise RuntimeError("no memory")
        return attention_call(name, *parts)

    monkeypatch.setattr(tasks, "attention_call", call)
    answers = tasks.attention_seconds(LOAD, ["sdpa", "eager"], 1, backward=False)
    assert answers["sdpa"]["error"] is None
    assert answers["eager"] == "RuntimeError: no memory"


def test_backends_that_are_missing_say_so_and_the_default_is_judged(here):
    names = ("sdpa", "math", "flash", "efficient", "eager")
    table = suites.bench_attention(LOAD, backends=names, repeats=2, progress=False)
    told = check_form(table)
    rows = {row["backend"]: row for row in told["rows"]}
    assert set(rows) == set(names)
    assert rows["sdpa"]["relative"] == 1
    missing = "not on this machine (PyTorch has no efficient kernel for torch.float32 on cpu)"
    assert rows["efficient"]["error"] == missing
    for name in ("sdpa", "math", "flash"):
        assert rows[name]["difference"] < 1e-5
        assert rows[name]["milliseconds"] > 0
    assert "default, sdpa" in told["notes"][0]
    backward = suites.bench_attention(LOAD, backends=("sdpa", "math"), repeats=1, backward=True, progress=False)
    assert all(row["milliseconds"] > 0 for row in backward.rows)
    with pytest.raises(InputError, match=r"backends fast are not known; choose of sdpa, math"):
        suites.bench_attention(LOAD, backends=("fast",))


def test_the_verdict_names_the_fastest_as_far_as_the_runs_tell():
    def rows(**times):
        return [{"backend": name, "samples": samples, "error": None} for name, samples in times.items()]

    assert suites._verdict(rows(sdpa=[1.0], math=[2.0])) == "The default, sdpa, is the fastest here."
    assert suites._verdict(rows(sdpa=[1.0, 1.1, 0.9, 1.2], flash=[0.9, 1.0, 0.98, 1.1])) == (
        "The default, sdpa, is not told apart from flash, which took 0.94 of its time: less than runs differ."
    )
    slow = suites._verdict(
        rows(sdpa=[2.0, 2.1, 1.9, 2.05, 9.0], flash=[1.0, 1.1, 1.0, 1.05, 8.0])
    )  # one slow run hides nothing
    assert slow == "Fastest here: flash, 0.51 of the time of the default, sdpa."
    assert suites._verdict(rows(sdpa=[2.0], flash=[1.0])).startswith("Fastest here: flash, 0.50 of")
    assert suites._verdict(rows(math=[2.0])) == "Fastest here: math."
    assert suites._verdict([{"backend": "sdpa", "error": "gone"}]) == "No backend could be measured."


@pytest.mark.parametrize("name", [name for name in BACKENDS if name not in ("efficient", "cudnn", "flex", "compile")])
def test_backends_agree(name):
    query, key, value = (torch.randn(1, 2, 9, 8) for _ in range(3))
    pattern = (query @ key.transpose(-1, -2) / 8**0.5).softmax(-1)
    torch.testing.assert_close(attention_call(name, query, key, value)(), pattern @ value, rtol=1e-5, atol=1e-6)


def test_a_kernel_that_is_missing_here_is_named():
    with pytest.raises(BackendError, match=r"PyTorch has no cudnn kernel for torch\.float32 on cpu"):
        attention_call("cudnn", *[torch.zeros(1, 1, 4, 8)] * 3)()
    with pytest.raises(RuntimeError, match=r"(?i)size|shape|dimension"):  # a mistake of another kind stays what it is
        attention_call("math", torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 4, 8))()


def test_an_unknown_backend_is_refused():
    with pytest.raises(InputError, match=r"backend 'fast' is not known; choose of sdpa"):
        attention_call("fast", *[torch.zeros(1, 1, 1, 1)] * 3)


def test_rollout_is_compared_with_a_forward_pass(here):
    told = check_form(suites.bench_rollout(LOAD, repeats=2, progress=False))
    assert [row["what"] for row in told["rows"]] == ["forward", "record", "record + rollout"]
    assert told["rows"][0]["relative"] == 1
    tokens = TINY.grid.num_tokens
    assert f"{2 * 4 * tokens**2 * 4 / 1e3:.3g} kB" in told["notes"][0]


def test_the_patterns_of_a_rollout_are_in_the_dtype_of_the_workload(here):
    notes = suites.bench_rollout(LOAD.with_(dtype="bfloat16", batch=2), repeats=1, progress=False).notes
    entries = TINY.num_hidden_layers * TINY.num_attention_heads * TINY.grid.num_tokens**2
    assert notes[0].endswith(f" {format_bytes(2 * entries)}.")


def test_cost_of_the_variants_is_the_papers():
    told = check_form(suites.bench_cost())
    wanted = {"spacetime": (451.5, 88.9), "factorized_encoder": (283.3, 115.1)} | {
        "factorized_self_attention_block": (371.1, 117.3),
        "factorized_dot_product_attention": (276.2, 88.9),
    }
    for row in told["rows"]:
        assert row["gmacs"] == pytest.approx(wanted[row["variant"]][0], rel=1e-3)
        assert row["parameters_m"] == pytest.approx(wanted[row["variant"]][1], abs=0.1)
        assert row["gmacs"] == pytest.approx(row["paper_gmacs"], rel=0.01)
    assert "paper_gmacs" not in suites.bench_cost(TINY).rows[0]


def test_the_published_figures_agree_with_their_own_percentages():
    for row in (*A100["training"], *A100["inference"]):
        saved = 100 * (row["eager_peak_mb"] / row["sdpa_peak_mb"] - 1)
        assert row["memory_saved_percent"] == pytest.approx(saved, abs=0.01)
    assert a100_row("training", 2, "float32") is None


def test_a_workload_makes_the_same_model_and_clips_each_time():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = Workload.from_json(Workload(TINY, dtype="bfloat16", batch=2, seed=3).to_json())
    assert (again.config, again.dtype, again.batch, again.seed) == (TINY, "bfloat16", 2, 3)
    assert again.pixels().shape == (2, 4, 3, 32, 32)
    assert torch.equal(again.pixels(), again.pixels())
    assert torch.equal(again.model().classifier.weight, again.model().classifier.weight)
    assert again.model("eager").attn_implementation == "eager"
    assert again.model().dtype == again.pixels().dtype == torch.bfloat16
    assert torch.equal(torch.get_rng_state(), state)
    variant = Workload(TINY.replace(variant="factorized_dot_product_attention", classifier="gap"))
    assert Workload.from_json(variant.to_json()) == variant
    assert isinstance(variant.model(), VivitForVideoClassification)


def test_patterns_of_a_factorised_model_are_counted_along_their_axes():
    shape = TINY.replace(variant="factorized_self_attention_block", classifier="gap", num_frames=8)
    t, places, heads = 4, 4, 4
    entries = [heads * t * places * t, heads * t * places * places] * 2  # a layer is two attentions
    load = Workload(shape)
    assert load.pattern_entries() == entries
    assert load.pattern_bytes("eager", training=True) == max(entries) * 12 + sum(entries) * 4
    with pytest.raises(InputError, match="compared on joint attention, and this model's is factorized_self"):
        suites.bench_attention(load)


def test_the_bytes_of_patterns():
    tokens, heads = TINY.grid.num_tokens, 4
    assert LOAD.pattern_bytes("sdpa") == 0
    assert LOAD.pattern_bytes("eager") == heads * tokens**2 * 12
    assert LOAD.pattern_bytes("eager", training=True) == heads * tokens**2 * (12 + 2 * 4)
    half = LOAD.with_(dtype="bfloat16")
    assert half.pattern_bytes("eager", training=True) == heads * tokens**2 * (8 + 2 * 6)
    assert (half_dtype("cpu"), half_dtype("cuda:0")) == ("bfloat16", "float16")


def test_what_is_not_there_is_refused():
    with pytest.raises(BackendError, match=r"device 'cuda:7' cannot be used here"):
        Workload(TINY, device="cuda:7")
    with pytest.raises(ConfigError, match=r"float31"):
        Workload(TINY, dtype="float31")
    assert Workload(TINY, device="auto").device.startswith("cuda" if torch.cuda.is_available() else "cpu")


def test_a_task_runs_in_a_process_of_its_own():
    peak = run_task("forward_peak", LOAD, implementation="eager")
    assert peak is None or 0 <= peak < 500e6
    with pytest.raises(BackendError, match=r"forward_peak could not be measured: .*'fast'"):
        run_task("forward_peak", LOAD, implementation="fast")


def test_the_machine_is_named():
    facts = describe_machine()
    assert facts["processor"]
    assert facts["threads"] == torch.get_num_threads()
    assert "gpu" not in facts
