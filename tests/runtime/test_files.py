"""Files from a hub on loopback, each start in a process of its own (huggingface_hub reads its variables once)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import scan_cache_dir
from safetensors.numpy import load_file, save_file

from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.runtime.files import resolve
from modelserve.runtime.hub import _reason
from tests.hub import READER, STRANGER, Hub, Repository, commit
from tests.models import minilm, tiny

BERT = "google-bert/bert-base-uncased"

START = """
import json, logging, sys
logging.basicConfig(format="%(levelname)s %(message)s", level="WARNING")
from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.runtime import hub
from modelserve.runtime.files import resolve
hub._PAUSES_S = (0.01, 0.01, 0.01)
progress = []
try:
    files = resolve(Config(**json.loads(sys.argv[1])), progress.append)
except LoadError as error:
    print(json.dumps({"error": error.message}))
else:
    model, tokenizer = str(files.model), str(files.tokenizer)
    weights = [path.relative_to(model).as_posix() for path in files.weights]
    tensors = files.shapes and len(files.shapes)
    print(json.dumps({"model": model, "tokenizer": tokenizer, "revision": files.revision, "weights": weights,
                      "tensors": tensors, "progress": progress}))
"""


def launch(environment: Mapping[str, str], **config: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", START, json.dumps(config)],
        env=os.environ | dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, log = process.communicate(timeout=100)
    assert process.returncode == 0, log
    answer: dict[str, Any] = json.loads(out)
    return answer | {"log": log}


def start(environment: Mapping[str, str], **config: Any) -> dict[str, Any]:
    return finish(launch(environment, **config))


def held(answer: Mapping[str, Any], key: str = "model") -> set[str]:
    root = Path(answer[key])
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def model_requests(hub: Hub) -> list[str]:
    """What was asked about models; huggingface_hub also asks about itself."""
    return [request.path for request in hub.requests if "agent-harnesses" not in request.path]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A directory of a test's own, as save_pretrained writes it."""
    return Path(shutil.copytree(tiny("bert", "fill_mask"), tmp_path / "bert"))


@pytest.fixture
def hub(bert: Path) -> Iterator[Hub]:
    with Hub({BERT: bert}) as hub:
        yield hub


def test_only_what_is_needed_is_downloaded(hub: Hub, bert: Path) -> None:
    needed = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    (bert / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    for other in (
        "pytorch_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "model.gguf",
        "onnx/model.onnx",
        "onnx/config.json",
        "openvino/openvino_model.bin",
        "modeling_mine.py",
        "coreml/model.mlpackage",
    ):
        (bert / other).parent.mkdir(exist_ok=True)
        (bert / other).write_bytes(b"other")
    answer = start(hub.environment(), model_id=BERT, model_dir="/nowhere")
    assert held(answer) == needed
    assert answer["weights"] == ["model.safetensors"]
    assert answer["tensors"] == len(load_file(bert / "model.safetensors"))
    assert answer["revision"] == commit(bert) == Path(answer["model"]).name
    for name in needed:
        assert (Path(answer["model"]) / name).read_bytes() == (bert / name).read_bytes()
    assert start(hub.environment(), model_id=BERT, trust_remote_code=True)["model"] == answer["model"]
    assert held(answer) == needed | {"modeling_mine.py"}


@pytest.mark.slow
def test_code_of_another_repository_comes_when_it_is_trusted(hub: Hub, bert: Path, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    for name in ("modeling_mine.py", "layers.py"):
        (tmp_path / "code" / name).write_text("pass\n")
    hub.models["me/code"] = Repository({"main": tmp_path / "code"})
    settings = json.loads((bert / "config.json").read_text())
    auto_map = {"AutoModel": "me/code--modeling_mine.Mine", "AutoConfig": "configuration_mine.Mine"}
    (bert / "config.json").write_text(json.dumps(settings | {"auto_map": auto_map}))
    start(hub.environment(), model_id=BERT, model_revision=commit(bert))
    assert not hub.asked("modeling_mine.py", "HEAD")
    environment = hub.environment()
    hub.fail("layers.py", damaged=True)
    answer = start(environment, model_id=BERT, model_revision=commit(bert), trust_remote_code=True)
    assert "WARNING layers.py arrived damaged; getting it again" in answer["log"]
    snapshots = Path(environment["HF_HUB_CACHE"]) / "models--me--code" / "snapshots"
    (code,) = snapshots.iterdir()
    assert {path.name: path.read_text() for path in code.iterdir()} == dict.fromkeys(
        ("modeling_mine.py", "layers.py"), "pass\n"
    )
    hub.requests.clear()
    start(environment, model_id=BERT, model_revision=commit(bert), trust_remote_code=True)
    assert model_requests(hub) == []


def test_progress_is_the_fraction_of_all_bytes(hub: Hub, bert: Path) -> None:
    save_file({"embeddings.word_embeddings.weight": np.zeros((6_000_000,), np.float32)}, bert / "model.safetensors")
    progress = start(hub.environment(), model_id=BERT)["progress"]
    sizes = [path.stat().st_size for path in bert.iterdir()]
    assert progress[0] == pytest.approx(1 - max(sizes) / sum(sizes), abs=1e-6)
    assert len(progress) > 3
    assert progress == sorted(progress)
    assert progress[-1] == 1.0


def test_second_start_downloads_nothing(hub: Hub) -> None:
    first = start(hub.environment(), model_id=BERT)
    hub.requests.clear()
    assert start(hub.environment(), model_id=BERT)["model"] == first["model"]
    assert not [path for path in model_requests(hub) if path.endswith(("safetensors", "tokenizer.json"))]


@pytest.mark.slow
def test_a_pinned_commit_needs_no_hub_once_it_is_here(hub: Hub, bert: Path) -> None:
    first = start(hub.environment(), model_id=BERT, model_revision=commit(bert))
    hub.requests.clear()
    again = start(hub.environment(), model_id=BERT, model_revision=commit(bert))
    assert again["model"] == first["model"]
    assert model_requests(hub) == []


@pytest.mark.slow
def test_revisions(tmp_path: Path) -> None:
    new, old = tiny("bert", "fill_mask"), tiny("bert", "fill_mask", cased=True)
    with Hub({BERT: {"main": new, "v1": old}}) as hub:
        assert start(hub.environment(), model_id=BERT)["revision"] == commit(new)
        assert start(hub.environment(), model_id=BERT, model_revision="v1")["revision"] == commit(old)
        answer = start(
            hub.environment(home=tmp_path / "other"), model_id=BERT, model_revision=commit(new), tokenizer_revision="v1"
        )
        assert answer["revision"] == commit(new)
        assert Path(answer["tokenizer"]).name == commit(old)
        assert "model.safetensors" not in held(answer, "tokenizer")
        assert {"tokenizer.json", "config.json"} <= held(answer, "tokenizer")


@pytest.mark.slow
def test_a_new_commit_of_the_branch_is_followed(hub: Hub, bert: Path) -> None:
    before = start(hub.environment(), model_id=BERT)["revision"]
    (bert / "tokenizer_config.json").write_text("{}")
    answer = start(hub.environment(), model_id=BERT)
    assert before != answer["revision"] == commit(bert)
    assert (Path(answer["model"]) / "tokenizer_config.json").read_text() == "{}"


@pytest.mark.slow
def test_a_cut_download_is_resumed(hub: Hub, bert: Path) -> None:
    weights = np.random.default_rng(0).standard_normal(6_000_000).astype(np.float32)
    save_file({"embeddings.word_embeddings.weight": weights}, bert / "model.safetensors")
    hub.fail("model.safetensors", cut_after=15_000_000)
    answer = start(hub.environment(), model_id=BERT)
    # huggingface_hub writes pieces of 10 MiB; the second request takes up after the first piece.
    assert [request.range for request in hub.asked("model.safetensors")] == [None, f"bytes={10 * 2**20}-"]
    loaded = load_file(Path(answer["model"]) / "model.safetensors")["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(loaded, weights)
    assert max(answer["progress"]) == 1.0


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tokenizer.json", "config.json"))],
)
def test_a_damaged_file_is_downloaded_again(hub: Hub, bert: Path, name: str) -> None:
    hub.fail(name, damaged=True)
    answer = start(hub.environment(), model_id=BERT)
    assert f"WARNING {name} arrived damaged; getting it again" in answer["log"]
    assert (Path(answer["model"]) / name).read_bytes() == (bert / name).read_bytes()


@pytest.mark.slow
def test_a_file_that_stays_damaged_is_refused_and_not_kept(hub: Hub, bert: Path) -> None:
    hub.fail("model.safetensors", damaged=True, times=2)
    answer = start(hub.environment(), model_id=BERT)
    assert answer["error"].startswith("model.safetensors arrived damaged twice: its checksum is ")
    assert start(hub.environment(), model_id=BERT)["revision"] == commit(bert)


@pytest.mark.slow
def test_a_cache_that_somebody_else_filled_is_verified_before_first_use(hub: Hub, bert: Path) -> None:
    download = "from huggingface_hub import snapshot_download as s; import sys; print(s(sys.argv[1]))"
    hub.fail("model.safetensors", damaged=True)
    environment = os.environ | hub.environment()
    subprocess.run([sys.executable, "-c", download, BERT], env=environment, check=True, capture_output=True)
    answer = start(hub.environment(), model_id=BERT)
    assert "arrived damaged" in answer["log"]
    assert (Path(answer["model"]) / "model.safetensors").read_bytes() == (bert / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_cache_stays_one_that_huggingface_hub_understands(hub: Hub) -> None:
    environment = hub.environment()
    answer = start(environment, model_id=BERT)
    cache = scan_cache_dir(environment["HF_HUB_CACHE"])
    assert cache.warnings == []
    (repository,) = cache.repos
    assert repository.repo_id == BERT
    assert [revision.commit_hash for revision in repository.revisions] == [answer["revision"]]


@pytest.mark.slow
def test_a_cache_without_room_for_notes_is_verified_at_every_start(hub: Hub) -> None:
    answer = start(hub.environment(), model_id=BERT)
    notes = Path(answer["model"]).parent.parent / "verified"
    shutil.rmtree(notes)
    notes.write_text("in the way")
    assert start(hub.environment(), model_id=BERT)["model"] == answer["model"]
    weights = Path(answer["model"]) / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert "model.safetensors arrived damaged; getting it again" in start(hub.environment(), model_id=BERT)["log"]


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (
            None,
            f"{BERT} is gated and HF_TOKEN is not set; "
            "ask for access on its page and set HF_TOKEN to a token that has it",
        ),
        (
            STRANGER,
            f"{BERT} is gated and the token in HF_TOKEN has no access to it; "
            "ask for access on its page and set HF_TOKEN to a token that has it",
        ),
        ("hf_wrong", "the hub ({url}) refuses the token in HF_TOKEN (401)"),
    ],
)
def test_gated_models_ask_for_a_token(hub: Hub, token: str | None, message: str) -> None:
    hub.models[BERT].gated = True
    answer = start(hub.environment(token=token), model_id=BERT)
    assert answer["error"] == message.format(url=hub.url)


@pytest.mark.slow
def test_a_token_opens_gated_and_private_models(hub: Hub, bert: Path) -> None:
    hub.models[BERT].gated = True
    hub.models["me/private"] = Repository({"main": bert}, private=True)
    for name in (BERT, "me/private"):
        assert start(hub.environment(token=READER), model_id=name)["revision"] == commit(bert)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_id": "google-bert/nope"},
            "the hub ({url}) has no model google-bert/nope, or it is private; "
            "correct --model_id, or set HF_TOKEN to a token that may read it",
        ),
        (
            {"model_id": BERT, "model_revision": "v9"},
            f"{BERT} has no revision 'v9'; give a branch, a tag or a commit of it",
        ),
        (
            {"model_id": BERT, "tokenizer_revision": "v9"},
            f"{BERT} has no revision 'v9'; give a branch, a tag or a commit of it",
        ),
        (
            {"model_id": "/models/bert"},
            "--model_id '/models/bert' is no id of the hub, such as google-bert/bert-base-uncased; "
            "a local directory is given as --model_dir",
        ),
        (
            {"model_id": "me/empty"},
            "me/empty has no config.json, so it is no transformers model; it holds model.gguf",
        ),
    ],
)
def test_what_the_hub_does_not_have(hub: Hub, tmp_path: Path, config: dict[str, str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model.gguf").write_bytes(b"gguf")
    hub.models["me/empty"] = Repository({"main": tmp_path / "empty"})
    assert start(hub.environment(), **config)["error"] == message.format(url=hub.url)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", pytest.param("TRANSFORMERS_OFFLINE", marks=pytest.mark.slow)])
def test_offline_asks_nothing(hub: Hub, variable: str) -> None:
    offline = hub.environment() | {"HF_HUB_OFFLINE": "", variable: "1"}
    answer = start(offline, model_id=BERT)
    assert answer["error"] == (
        f"{BERT} is not in the cache ({offline['HF_HUB_CACHE']}), and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE keeps "
        "this machine off the hub"
    )
    assert hub.requests == []
    online = start(hub.environment(), model_id=BERT)
    hub.requests.clear()
    assert start(offline, model_id=BERT)["model"] == online["model"]
    assert hub.requests == []


@pytest.mark.slow
def test_offline_with_half_a_model(hub: Hub) -> None:
    hub.fail("model.safetensors", status=404)
    start(hub.environment(), model_id=BERT)
    answer = start(hub.environment(offline=True), model_id=BERT)
    assert answer["error"].startswith(f"the cache cannot serve {BERT}: the model has no weights (model.safetensors)")


@pytest.mark.slow
def test_a_hub_that_is_down(hub: Hub) -> None:
    first = start(hub.environment(), model_id=BERT)
    hub.stop()
    answer = start(hub.environment(), model_id=BERT)
    assert answer["model"] == first["model"]
    assert f"WARNING the hub ({hub.url}) cannot be reached for {BERT}: " in answer["log"]
    assert f"serving commit {first['revision']} from the cache" in answer["log"]
    other = start(hub.environment(), model_id="google-bert/other")
    assert other["error"].startswith(f"the hub ({hub.url}) cannot be reached for google-bert/other: ")


@pytest.mark.slow
def test_errors_of_the_hub_that_pass(hub: Hub) -> None:
    hub.fail("api", status=503, times=3)
    hub.fail("model.safetensors", status=500, times=3)
    answer = start(hub.environment(), model_id=BERT)
    assert answer["weights"] == ["model.safetensors"]
    hub.fail("api", status=503, times=100)
    assert start(hub.environment(), model_id=BERT)["model"] == answer["model"]
    other = start(hub.environment(), model_id="google-bert/other")
    assert other["error"] == f"the hub ({hub.url}) answers 503 for google-bert/other"


@pytest.mark.slow
def test_a_slow_hub_is_not_waited_for_when_the_cache_has_the_model(hub: Hub) -> None:
    environment = hub.environment() | {"HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    first = start(environment, model_id=BERT)
    hub.fail("api", delay_s=30.0, times=100)
    answer = start(environment, model_id=BERT)
    assert answer["model"] == first["model"]
    assert f"the hub ({hub.url}) does not answer in time for {BERT}; serving commit" in answer["log"]


@pytest.mark.slow
def test_a_disk_that_is_too_small_is_told_before_the_download(hub: Hub) -> None:
    hub.models[BERT].pretend_bytes["model.safetensors"] = 10**18
    answer = start(hub.environment(), model_id=BERT)
    assert answer["error"].startswith(f"the disk is too full for {BERT}: 1000000000.0 GB are needed in ")
    assert hub.asked("model.safetensors") == []


@pytest.mark.parametrize(
    ("number", "part"),
    [
        (errno.ENOSPC, "the disk of the cache is full"),
        (errno.EDQUOT, "the disk of the cache is full"),
        (errno.EROFS, "cannot be written; set HF_HOME"),
        (errno.EACCES, "cannot be written; set HF_HOME"),
        (errno.EIO, "model.safetensors of me/it at v1 could not be downloaded"),
    ],
)
def test_errors_of_the_disk(number: int, part: str) -> None:
    assert part in _reason(OSError(number, os.strerror(number)), "me/it", "v1", "model.safetensors")


@pytest.mark.slow
def test_several_processes_share_one_download(hub: Hub, bert: Path) -> None:
    weights = np.zeros((6_000_000,), np.float32)
    save_file({"embeddings.word_embeddings.weight": weights}, bert / "model.safetensors")
    answers = [finish(process) for process in [launch(hub.environment(), model_id=BERT) for _ in range(3)]]
    assert {answer["revision"] for answer in answers} == {commit(bert)}
    assert len(hub.asked("model.safetensors")) == 1


@pytest.mark.slow
def test_pickles_only_when_asked_for(hub: Hub, bert: Path) -> None:
    (bert / "pytorch_model.bin").write_bytes((bert / "model.safetensors").read_bytes())
    assert start(hub.environment(), model_id=BERT, allow_pickle=True)["weights"] == ["model.safetensors"]
    (bert / "model.safetensors").unlink()
    answer = start(hub.environment(), model_id=BERT)
    assert answer["error"] == (
        "the model has pytorch_model.bin and no safetensors file, and unpickling runs code that comes with the file; "
        "give --allow_pickle if you trust it"
    )
    answer = start(hub.environment(), model_id=BERT, allow_pickle=True)
    assert (answer["weights"], answer["tensors"]) == (["pytorch_model.bin"], None)


def shard(directory: Path) -> list[str]:
    """Split the weights in two, as save_pretrained does with large ones."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for number, file in enumerate(files):
        save_file({name: tensors[name] for name in sorted(tensors)[number::2]}, directory / file)
    index = {name: files[number % 2] for number, name in enumerate(sorted(tensors))}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return files


@pytest.mark.slow
def test_shards(hub: Hub, bert: Path) -> None:
    tensors = len(load_file(bert / "model.safetensors"))
    files = shard(bert)
    (bert / "consolidated.safetensors").write_bytes(b"another copy")
    answer = start(hub.environment(), model_id=BERT)
    assert (answer["weights"], answer["tensors"]) == (files, tensors)
    assert "consolidated.safetensors" not in held(answer)
    (bert / files[1]).unlink()
    answer = start(hub.environment(), model_id=BERT)
    assert answer["error"] == f"model.safetensors.index.json names {files[1]}, which is not there"


@pytest.mark.slow
def test_the_modules_of_sentence_transformers_come_along(tmp_path: Path) -> None:
    source = Path(shutil.copytree(minilm(), tmp_path / "source"))
    save_file({"linear.weight": np.zeros((8, 384), np.float32)}, tmp_path / "dense.safetensors")
    for name in ("model.safetensors", "model.onnx"):
        (source / "2_Dense").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "dense.safetensors", source / "2_Dense" / name)
    (source / "2_Dense" / "config.json").write_text("{}")
    modules = json.loads((source / "modules.json").read_text())
    modules.append({"idx": 9, "name": "9", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (source / "modules.json").write_text(json.dumps(modules))
    with Hub({"me/embeddings": source}) as hub:
        answer = start(hub.environment(), model_id="me/embeddings")
        assert answer["weights"] == ["model.safetensors", "2_Dense/model.safetensors"]
        assert {"1_Pooling/config.json", "2_Dense/config.json", "modules.json"} <= held(answer)
        assert "2_Dense/model.onnx" not in held(answer)
        (source / "2_Dense" / "model.safetensors").rename(source / "2_Dense" / "pytorch_model.bin")
        answer = start(hub.environment(), model_id="me/embeddings")
        assert answer["error"].startswith("the model has 2_Dense/pytorch_model.bin and no safetensors file")


# --model_dir


def local(directory: Path, **config: Any) -> str:
    with pytest.raises(LoadError) as caught:
        resolve(Config(model_dir=str(directory), **config), lambda fraction: None)
    return caught.value.message


def test_a_directory_is_used_where_it_is(bert: Path) -> None:
    files = resolve(Config(model_dir=str(bert)), lambda fraction: None)
    assert (files.model, files.tokenizer, files.revision) == (bert, bert, "")
    assert files.weights == (bert / "model.safetensors",)
    assert files.config["model_type"] == "bert"
    assert files.shapes is not None
    assert files.shapes["bert.embeddings.word_embeddings.weight"][1] == 32


def test_revisions_of_a_directory_mean_nothing(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    resolve(Config(model_dir=str(bert), model_revision="v1"), lambda fraction: None)
    assert "--model_revision and --tokenizer_revision mean nothing without --model_id" in caplog.text


def test_directories_without_a_model(tmp_path: Path, bert: Path) -> None:
    if not Path("/mnt/models").exists():
        with pytest.raises(LoadError) as caught:
            resolve(Config(), lambda fraction: None)
        assert caught.value.message == (
            "there is no directory /mnt/models (the default of --model_dir; give --model_id or --model_dir)"
        )
    assert local(tmp_path / "nope") == f"there is no directory {tmp_path}/nope (--model_dir)"
    assert local(bert / "config.json") == f"{bert}/config.json (--model_dir) is no directory"
    assert local(tmp_path) == (
        f"there is no config.json in --model_dir {tmp_path}, which holds bert/; --model_dir {bert} has one"
    )
    with pytest.raises(LoadError, match="hf://me/bert is a model of the Hugging Face hub; give it as --model_id"):
        resolve(Config(model_dir="hf://me/bert"), lambda fraction: None)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", "config.json is not valid JSON: "),
        ("config.json", b"\xff\xfe", "config.json is not valid JSON: "),
        ("config.json", b"[]", "config.json is not a JSON object"),
        ("modules.json", b"{}", "modules.json is not a list of modules"),
        ("model.safetensors", b"", "model.safetensors is damaged or cut off (0 bytes: "),
        ("model.safetensors", b"<html>not found</html>", "model.safetensors is damaged or cut off (22 bytes: "),
        (
            "model.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "model.safetensors is a git-lfs pointer, not weights; run `git lfs pull`",
        ),
    ],
)
def test_damaged_files(bert: Path, file: str, content: bytes, message: str) -> None:
    (bert / file).write_bytes(content)
    assert local(bert).startswith(message)


def test_weights_that_were_cut_off(bert: Path) -> None:
    file = bert / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    assert local(bert).startswith(f"model.safetensors is damaged or cut off ({file.stat().st_size} bytes: ")


def test_directories_without_weights(bert: Path) -> None:
    (bert / "model.safetensors").rename(bert / "tf_model.h5")
    assert local(bert) == (
        "the model has no weights (model.safetensors); "
        "it holds config.json, tf_model.h5, tokenizer.json, tokenizer_config.json"
    )
    (bert / "tf_model.h5").rename(bert / "pytorch_model.bin")
    assert "--allow_pickle" in local(bert)
    assert resolve(Config(model_dir=str(bert), allow_pickle=True), lambda fraction: None).shapes is None
    (bert / "pytorch_model.bin").unlink()
    (bert / "model.safetensors.index.json").write_text("{}")
    assert local(bert) == "model.safetensors.index.json has no weight_map"
