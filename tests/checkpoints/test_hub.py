"""Files from directories and from a Hub: the real client against a loopback server."""

import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http, disable_progress_bars

from tests.checkpoints.hub_server import COMMITS, LARGE, TOKEN, serve
from tests.model.tiny import TINY, clips
from vivit_lab.checkpoints import Checkpoint, bundled_model_path
from vivit_lab.checkpoints.checkpoint import weights_digest
from vivit_lab.checkpoints.hub import is_local, pin_revision, resolve_file, resolve_first
from vivit_lab.errors import CheckpointNotFoundError, InputError
from vivit_lab.explain import load_pair
from vivit_lab.families import VivitForVideoClassification, load_model
from vivit_lab.model import VivitConfig
from vivit_lab.processing import VivitImageProcessor

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    config = VivitConfig(**TINY, num_labels=3)
    return {revision: VivitForVideoClassification(config).eval() for revision in COMMITS}


@pytest.fixture
def server(tmp_path, models, monkeypatch):
    root = tmp_path / "hub"
    for revision, model in models.items():
        model.save_pretrained(root / "lab" / "tiny" / revision)
    shutil.copytree(root / "lab" / "tiny", root / "lab" / "gated-tiny")
    models["main"].save_pretrained(root / "lab" / "sharded" / "main", max_shard_size="40KB")
    (root / "lab" / "empty" / "main").mkdir(parents=True)
    shutil.copy(root / "lab" / "tiny" / "main" / "config.json", root / "lab" / "empty" / "main")
    with serve(root) as running:
        point_client_at(running.url, tmp_path, monkeypatch)
        yield running
        reset_client()


def reset_client():
    """Let the client forget its connections; huggingface_hub 1 has another name for it."""
    (getattr(_http, "reset_sessions", None) or _http.close_session)()


def point_client_at(url, tmp_path, monkeypatch):
    """Let the client of this process talk to another Hub; it reads its settings once, when it is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    if hasattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE"):  # below huggingface_hub 1
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    # it waits half a minute before it believes that a server is gone
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
    disable_progress_bars()
    reset_client()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def same(ours, other):
    x = clips()
    with torch.no_grad():
        return torch.equal(ours(x).logits, other(x).logits)


def test_a_model_is_downloaded_and_told_where_from(server, cache, models):
    loaded = VivitForVideoClassification.from_pretrained("lab/tiny", cache_dir=cache)
    assert same(loaded, models["main"])
    assert loaded.name_or_path == "lab/tiny"
    assert any(path.startswith("/lfs/") and method == "GET" for method, path, _ in server.requests)


def test_a_sharded_model_is_downloaded(server, cache, models):
    assert same(VivitForVideoClassification.from_pretrained("lab/sharded", cache_dir=cache), models["main"])


@pytest.mark.parametrize("revision", ["v2", COMMITS["v2"]])
def test_a_revision_is_a_branch_or_a_commit(server, cache, models, revision):
    loaded = VivitForVideoClassification.from_pretrained("lab/tiny", revision=revision, cache_dir=cache)
    assert same(loaded, models["v2"])
    assert not same(loaded, models["main"])


def test_the_second_load_fetches_nothing(server, cache):
    VivitForVideoClassification.from_pretrained("lab/tiny", cache_dir=cache)
    server.requests.clear()
    VivitForVideoClassification.from_pretrained("lab/tiny", cache_dir=cache)
    assert {method for method, _, _ in server.requests} == {"HEAD"}


def test_local_files_only_asks_nobody(server, cache, models):
    VivitForVideoClassification.from_pretrained("lab/sharded", cache_dir=cache)
    server.requests.clear()
    loaded = VivitForVideoClassification.from_pretrained("lab/sharded", cache_dir=cache, local_files_only=True)
    assert same(loaded, models["main"])
    assert server.requests == []


def test_the_processor_is_of_the_models_commit(server, cache):
    with pytest.raises(CheckpointNotFoundError, match=r"lab/sharded has no preprocessor_config\.json"):
        VivitImageProcessor.from_pretrained("lab/sharded", cache_dir=cache)
    for size, revision in ((40, "main"), (50, "v2")):
        VivitImageProcessor(size=size, crop_size=32).save_pretrained(server.root / "lab" / "tiny" / revision)
    _, processor = load_pair("lab/tiny", cache_dir=cache)
    assert processor.size == {"shortest_edge": 40}
    server.move_after = 0
    assert load_pair("lab/tiny", cache_dir=cache)[1].size == {"shortest_edge": 50}
    options = {"revision": COMMITS["main"], "cache_dir": cache, "local_files_only": True}
    assert VivitImageProcessor.from_pretrained("lab/tiny", **options, crop_size=8).crop_size["height"] == 8


def test_an_opened_checkpoint_is_one_commit_and_asks_once(server, cache, models):
    checkpoint = Checkpoint.open("lab/sharded", cache_dir=cache)
    assert (checkpoint.revision, checkpoint.folder) == (COMMITS["main"], None)
    assert checkpoint.processor_file is None
    assert checkpoint.digest == weights_digest(models["main"].state_dict())
    server.shutdown()
    server.server_close()
    assert same(load_model(checkpoint), models["main"])  # every file is known already
    assert checkpoint.config["num_frames"] == TINY["num_frames"]


@pytest.mark.parametrize("repo", ["lab/tiny", "lab/sharded"])
def test_the_cache_serves_when_the_server_is_gone(server, cache, models, repo):
    VivitForVideoClassification.from_pretrained(repo, cache_dir=cache)
    server.shutdown()
    server.server_close()
    assert same(VivitForVideoClassification.from_pretrained(repo, cache_dir=cache), models["main"])


@pytest.mark.parametrize("load", [VivitForVideoClassification.from_pretrained, load_model])
@pytest.mark.parametrize("after", range(9))
def test_configuration_and_weights_are_of_one_commit_while_the_branch_moves(server, cache, models, load, after):
    config = server.root / "lab" / "tiny" / "v2" / "config.json"
    config.write_text(config.read_text().replace('"layer_norm_eps": 1e-06', '"layer_norm_eps": 0.5'))
    server.move_after = after
    loaded = load("lab/tiny", cache_dir=cache)
    revision = "v2" if loaded.config.layer_norm_eps == 0.5 else "main"
    assert torch.equal(loaded.ln_final.weight, models[revision].ln_final.weight)
    assert torch.equal(loaded.embed.projection.weight, models[revision].embed.projection.weight)
    assert after > 0 or revision == "v2"


def test_a_revision_is_pinned_to_its_commit_once(server, cache):
    where = pin_revision("lab/tiny", revision="v2", cache_dir=cache, token=None)
    assert where == {"revision": COMMITS["v2"], "cache_dir": cache, "token": None}
    server.requests.clear()
    assert pin_revision("lab/tiny", **where) == where
    assert server.requests == []
    assert pin_revision("lab/tiny", cache_dir=cache, local_files_only=True, revision="v2")["revision"] == COMMITS["v2"]
    assert server.requests == []
    assert pin_revision("lab/tiny", cache_dir=cache)["revision"] == COMMITS["main"]


def test_a_repository_without_settings_is_pinned_too(server, cache):
    (server.root / "lab" / "tiny" / "main" / "config.json").unlink()
    assert pin_revision("lab/tiny", cache_dir=cache) == {"cache_dir": cache, "revision": COMMITS["main"]}


def test_nothing_is_pinned_for_a_directory_or_the_bundled_model(tmp_path):
    assert pin_revision(tmp_path, revision="main") == {"revision": "main"}
    assert pin_revision("bundled") == {}


def test_no_file_is_asked_for_twice_and_known_absence_is_remembered(server, cache):
    load_model("lab/sharded", cache_dir=cache)
    server.requests.clear()
    load_model("lab/sharded", cache_dir=cache)
    assert {method for method, _, _ in server.requests} == {"HEAD"}
    assert all(path.endswith("/config.json") for _, path, _ in server.requests)


def lose(server, monkeypatch):
    """Take the server away; return the list of what the client waits for before it tries again."""
    waits = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=waits.append, time=time.time))
    server.shutdown()
    server.server_close()
    return waits


@pytest.mark.parametrize("repo", ["lab/tiny", "lab/sharded"])
def test_a_lost_connection_is_waited_for_once_in_a_load(server, cache, models, repo, monkeypatch):
    load_model(repo, cache_dir=cache)
    shutil.rmtree(
        cache / f"models--{repo.replace('/', '--')}" / ".no_exist", ignore_errors=True
    )  # as another tool would
    waits = lose(server, monkeypatch)
    with pytest.raises(CheckpointNotFoundError, match="could not be reached"):
        resolve_file("lab/none", "config.json", cache_dir=cache)
    once, waits[:] = list(waits), []
    assert same(load_model(repo, cache_dir=cache), models["main"])
    assert waits in ([], once)  # newer clients ask once where a cache may serve
    where = pin_revision(repo, cache_dir=cache)
    assert (where["local_files_only"], where["revision"]) == (True, COMMITS["main"])


def test_a_lost_connection_and_nothing_cached_is_waited_for_once_too(server, cache, monkeypatch):
    waits = lose(server, monkeypatch)
    with pytest.raises(CheckpointNotFoundError, match=r"the Hub at .* not be reached: the connection was refused\. "):
        load_model("lab/tiny", cache_dir=cache)
    assert sum(waits) < 30


def test_a_wrong_proxy_is_not_hidden_by_the_cache(server, cache, monkeypatch):
    load_model("lab/tiny", cache_dir=cache)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    reset_client()
    words = r"could not be fetched from the Hub .*the proxy http://127\.0\.0\.1:9 does not answer\. Correct "
    with pytest.raises(CheckpointNotFoundError, match=words):
        load_model("lab/tiny", cache_dir=cache)
    assert load_model("lab/tiny", cache_dir=cache, local_files_only=True)  # what the message advises


def test_a_download_can_be_forced(server, cache, models, monkeypatch):
    load_model("lab/tiny", cache_dir=cache)
    server.requests.clear()
    assert same(load_model("lab/tiny", cache_dir=cache, force_download=True), models["main"])
    assert any(path.startswith("/lfs/") and method == "GET" for method, path, _ in server.requests)
    server.requests.clear()
    VivitImageProcessor(size=40, crop_size=32).save_pretrained(server.root / "lab" / "tiny" / "main")
    load_pair("lab/tiny", cache_dir=cache, force_download=True)
    fetched = {path.rsplit("/", 1)[1] for method, path, _ in server.requests if method == "GET"}
    assert fetched >= {"config.json", "model.safetensors", "preprocessor_config.json"}
    with pytest.raises(InputError, match=r"force_download=True asks for config\.json of lab/tiny"):
        resolve_file("lab/tiny", "config.json", cache_dir=cache, force_download=True, local_files_only=True)
    lose(server, monkeypatch)
    with pytest.raises(CheckpointNotFoundError, match="could not be reached"):
        load_model("lab/tiny", cache_dir=cache, force_download=True)


def test_a_cut_download_goes_on_where_it_stopped(server, cache, models, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", LARGE // 4)  # only whole chunks are kept
    server.cut_once = LARGE  # the first answer with the weights ends early
    if huggingface_hub.__version__.startswith("0."):  # newer clients try again by themselves
        with pytest.raises(CheckpointNotFoundError, match="try again: a download goes on where it stopped"):
            VivitForVideoClassification.from_pretrained("lab/tiny", cache_dir=cache)
    loaded = VivitForVideoClassification.from_pretrained("lab/tiny", cache_dir=cache)
    assert same(loaded, models["main"])
    assert server.ranges == [f"bytes={LARGE}-"]


def test_a_token_opens_a_gated_repository(server, cache, models):
    loaded = VivitForVideoClassification.from_pretrained("lab/gated-tiny", cache_dir=cache, token=TOKEN)
    assert same(loaded, models["main"])


def test_a_gated_repository_says_how_to_get_in(server, cache):
    with pytest.raises(CheckpointNotFoundError, match="gated: accept its terms"):
        resolve_file("lab/gated-tiny", "config.json", cache_dir=cache)


@pytest.mark.parametrize("token", [None, TOKEN])
def test_an_absent_repository_names_directory_and_hub(server, cache, token):
    with pytest.raises(CheckpointNotFoundError, match=r"no directory 'lab/none' here and no such repository"):
        resolve_file("lab/none", "config.json", cache_dir=cache, token=token)


def test_an_absent_revision_is_named(server, cache):
    with pytest.raises(CheckpointNotFoundError, match="no revision 'v9'"):
        resolve_file("lab/tiny", "config.json", revision="v9", cache_dir=cache)


def test_an_absent_file_is_an_error_only_where_required(server, cache):
    assert resolve_file("lab/tiny", "vocab.txt", cache_dir=cache, required=False) is None
    with pytest.raises(CheckpointNotFoundError, match=r"lab/tiny \(revision main\) has no file vocab.txt"):
        resolve_file("lab/tiny", "vocab.txt", cache_dir=cache)


def test_a_repository_without_weights_lists_what_was_looked_for(server, cache):
    with pytest.raises(CheckpointNotFoundError, match=r"has none of the files model\.safetensors, "):
        VivitForVideoClassification.from_pretrained("lab/empty", cache_dir=cache)


def test_offline_and_not_cached_says_so(server, cache, monkeypatch):
    with pytest.raises(
        CheckpointNotFoundError, match=r"not in the cache .*downloads are off \(local_files_only=True\)"
    ):
        resolve_file("lab/tiny", "config.json", cache_dir=cache, local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    reset_client()
    with pytest.raises(CheckpointNotFoundError, match=r"downloads are off \(HF_HUB_OFFLINE is set\)"):
        resolve_file("lab/tiny", "config.json", cache_dir=cache)
    assert server.requests == []


def test_offline_without_weights_says_that_only_the_cache_was_searched(server, cache):
    resolve_file("lab/tiny", "config.json", cache_dir=cache)
    with pytest.raises(CheckpointNotFoundError, match="only the cache was searched"):
        VivitForVideoClassification.from_pretrained("lab/tiny", cache_dir=cache, local_files_only=True)


def test_no_connection_and_nothing_cached_says_why(server, cache):
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointNotFoundError, match=r"the Hub at http://127.0.0.1:\d+ could not be reached"):
        resolve_file("lab/tiny", "config.json", cache_dir=cache)


def test_an_unreachable_hub_is_told_in_a_few_words(server, cache, monkeypatch, caplog):
    with caplog.at_level("WARNING"):
        lose(server, monkeypatch)
        with pytest.raises(CheckpointNotFoundError, match="the connection was refused") as refused:
            load_model("lab/tiny", cache_dir=cache)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://hub.invalid/{repo_id}/{revision}/{filename}"
        )
        if hasattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", constants.HUGGINGFACE_CO_URL_TEMPLATE)
        with pytest.raises(CheckpointNotFoundError, match="its name is not known here") as unknown:
            load_model("lab/tiny", cache_dir=cache)
    for error in (refused, unknown):
        assert len(str(error.value)) - len(str(cache)) < 300
        assert "MaxRetryError" not in str(error.value)
    for record in caplog.records:  # what the client says of its waits
        assert re.fullmatch(r"The Hub at \S+ does not answer\. Retrying in \S+ \[Retry \d/5\]\.", record.getMessage())


def test_a_hub_that_does_not_speak_tls_is_a_setting_to_mend(server, cache, monkeypatch):
    load_model("lab/tiny", cache_dir=cache)
    secure = server.url.replace("http:", "https:")
    point_client_at(secure, cache, monkeypatch)
    with pytest.raises(CheckpointNotFoundError, match=r"there is no secure connection to it \(.*\)\. Correct the"):
        load_model("lab/tiny", cache_dir=cache)


def test_a_lost_connection_does_not_fall_back_to_other_weights(server, cache):
    resolve_file("lab/tiny", "config.json", cache_dir=cache)
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointNotFoundError, match="could not be reached"):
        resolve_first("lab/tiny", ("model.safetensors", "pytorch_model.bin"), cache_dir=cache)


def test_another_trouble_keeps_its_reason(server, cache):
    cache.write_text("a file where a directory should be")
    with pytest.raises(CheckpointNotFoundError, match=r"config.json of lab/tiny could not be fetched"):
        resolve_file("lab/tiny", "config.json", cache_dir=cache / "inside")


PATHS = ["./model", "../model", "/no/such/model", "~/no-such-model", "model/", "a/b/c", "weights.safetensors"]
PATHS += ["two words", "", "a..b", "a--b/c"]


@pytest.mark.parametrize("text", PATHS)
def test_what_is_written_like_a_path_never_reaches_the_hub(text, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("the Hub was asked"))
    with pytest.raises(CheckpointNotFoundError, match=r"there is no directory .* and it is not a Hub id"):
        resolve_file(text, "config.json")


def test_a_path_object_is_always_a_directory():
    with pytest.raises(CheckpointNotFoundError, match="there is no directory 'lab/tiny'"):
        resolve_file(Path("lab") / "tiny", "config.json")


def test_a_directory_wins_over_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_local("lab/tiny")
    folder = tmp_path / "lab" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert is_local("lab/tiny")
    assert Path(str(resolve_file("lab/tiny", "config.json"))).samefile(folder / "config.json")


@pytest.mark.parametrize("name", ["bundled", "planted"])
def test_a_bundled_name_gives_way_to_a_checkpoint_alone(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_local(name)
    shipped = resolve_file(name, "config.json")
    assert shipped == bundled_model_path(name) / "config.json"
    (tmp_path / name).mkdir()  # a folder of clips, or of results
    (tmp_path / name / "preprocessor_config.json").write_text('{"do_resize": false}')
    assert not is_local(name)
    assert resolve_file(name, "config.json") == shipped
    assert VivitImageProcessor.from_pretrained(name).do_resize
    assert is_local(Path(name))  # a path is always the folder
    assert not VivitImageProcessor.from_pretrained(Path(name)).do_resize
    (tmp_path / name / "config.json").write_text("{}")
    assert is_local(name)
    assert resolve_file(name, "config.json").read_text() == "{}"
    assert not VivitImageProcessor.from_pretrained(name).do_resize


def test_a_file_of_a_bundled_name_does_not_hide_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planted").write_text("notes")
    assert load_model("planted").config == VivitConfig.from_pretrained("planted")
    assert VivitImageProcessor.from_pretrained("planted").crop_size


def test_a_directory_without_the_file_says_what_it_holds(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="which holds: nothing"):
        resolve_file(tmp_path, "config.json")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CheckpointNotFoundError, match=r"there is no config.json in .* which holds: notes.txt"):
        resolve_file(tmp_path, "config.json")
    assert resolve_file(tmp_path, "config.json", required=False) is None
    with pytest.raises(CheckpointNotFoundError, match=r"has none of the files a, b$"):
        resolve_first(tmp_path, ("a", "b"))


def test_a_file_is_not_a_checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(CheckpointNotFoundError, match="is a file; wanted the directory"):
        resolve_file(str(path), "config.json")
