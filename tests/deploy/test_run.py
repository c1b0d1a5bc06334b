"""Runs as the SDK's user has them: real servers of tiny models from wherever models come from, and what each parameter
changes in their answers.

Starts are dear, so one run shows several effects, and each comes from another place.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer

import modelserve as ms
from modelserve.deploy import notes, states
from modelserve.errors import IllegalTransition, InvokeError, RunFailed, WaitTimeout
from tests.deploy.faults import alone, faulty
from tests.deploy.runs import await_, orphans, servers, supervisor
from tests.hub import Hub
from tests.models import SEQUENCE_LABELS, tiny
from tests.web import S3, Web, s3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TEXT = "The capital of France is Paris."
MASKED = "The capital of France is [MASK]."
ONE = {"cpu": "1"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ms.Project]:
    """The project of these tests, in a home of its own; nothing serves when they have ended."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELSERVE_HOME", str(home))
        for name in ("MODELSERVE_STORE_URL", "MODELSERVE_TARGET"):
            patch.delenv(name, raising=False)
        project = ms.get_or_create_project("demo")
        project.new_secret("TOKEN", "s3cret")
        yield project
        project.delete()
        assert orphans(str(home)) == []


def function(project: ms.Project, path: Path | str, name: str = "tiny", **spec: Any) -> ms.Function:
    return project.new_function(name=name, kind="huggingfaceserve", path=str(path), model_name="tiny", **spec)


@pytest.fixture(scope="module")
def store() -> Iterator[S3]:
    """With a model in the bucket `models`."""
    with s3() as store:
        store.bucket("models")
        for file in tiny("bert", "sequence_classification").iterdir():
            store.put(f"models/bert/{file.name}", file.read_bytes())
        yield store


@pytest.fixture(scope="module")
def classifier(project: ms.Project, store: S3) -> ms.Run:
    envs = dict(store.environment)
    project.new_secret("AWS_SECRET_ACCESS_KEY", envs.pop("AWS_SECRET_ACCESS_KEY"))
    return function(project, "s3://models/").run(
        action="serve",
        huggingface_task="SEQUENCE_CLASSIFICATION",
        backend="AUTO",
        dtype="BFLOAT16",
        max_length=8,
        return_probabilities=True,
        disable_log_requests=False,
        max_log_len=5,
        path="s3://models/bert/",
        envs=[{"name": name, "value": value} for name, value in (envs | {"COLOUR": "blue"}).items()],
        secrets=["TOKEN", "AWS_SECRET_ACCESS_KEY"],
        resources={"cpu": {"requests": "500m", "limits": "1"}, "mem": {"requests": "100Mi", "limits": "4Gi"}},
        service_name="classify",
        wait=True,
        log_info=False,
    )


class TestClassifier:
    """s3://; huggingface_task, dtype, max_length, return_probabilities, disable_log_requests, max_log_len, envs,
    secrets, resources, service_name."""

    def test_return_probabilities(self, classifier: ms.Run) -> None:
        answers = classifier.predict([TEXT, "Anna"])
        assert [sorted(answer) for answer in answers] == [["0", "1", "2"]] * 2
        assert all(abs(sum(answer.values()) - 1) < 1e-2 for answer in answers)
        assert classifier.predict(TEXT, return_probabilities=False) in (0, 1, 2)
        assert classifier.predict("Anna", return_labels=True, return_probabilities=False)["label"] in SEQUENCE_LABELS

    def test_pairs(self, classifier: ms.Run) -> None:
        alone = classifier.predict(("Anna", "Paolo"))
        assert sorted(alone) == ["0", "1", "2"]
        assert classifier.predict([("Anna", "Paolo"), "Anna"])[0] == alone
        assert classifier.predict({"text": "Anna", "text_pair": "Paolo"}) == alone
        assert len(classifier.predict(["Anna", "Paolo"])) == 2

    def test_max_length(self, classifier: ms.Run) -> None:
        response = classifier.invoke(path="/v1/models/tiny:predict", json={"instances": [TEXT]})
        tokens = len(Tokenizer.from_file(str(tiny("bert", "sequence_classification") / "tokenizer.json")).encode(TEXT))
        assert response.json()["parameters"]["tokens_dropped"] == tokens - 8
        with pytest.raises(InvokeError, match="8") as found:
            classifier.predict(TEXT, truncation=False)
        assert found.value.status == 400

    def test_info(self, classifier: ms.Run) -> None:
        said = classifier.client.info()
        assert (said["task"], said["dtype"], said["max_length"]) == ("sequence_classification", "bfloat16", 8)
        assert said["threads"] == 1

    def test_the_log_has_so_many_characters_of_a_text(self, classifier: ms.Run) -> None:
        classifier.predict("Xylophone")
        line = await_(lambda: [one for one in classifier.logs().splitlines() if "Xylop" in one], 10)[-1]
        assert "Xyloph" not in line

    def test_envs_and_secrets(self, classifier: ms.Run) -> None:
        environ = dict(
            entry.split("=", 1)
            for entry in Path(f"/proc/{classifier.status.pid}/environ").read_text().split("\0")
            if entry
        )
        assert (environ["COLOUR"], environ["TOKEN"]) == ("blue", "s3cret")
        shown = (classifier.logs(), repr(classifier), repr(classifier.spec), repr(classifier.status))
        assert not [one for one in (*shown, json.dumps(classifier.to_dict())) if "s3cret" in one]

    def test_memory(self, classifier: ms.Run) -> None:
        note = notes.read(notes.Files(classifier.id).supervisor, notes.Supervisor)
        assert note is not None
        if not note.cgroup:
            assert "the server's memory has no limit, since no cgroup can be made for it here" in classifier.logs()
            pytest.skip("no cgroup can be made here")
        held = {int(pid) for pid in Path(note.cgroup, "cgroup.procs").read_text().split()}
        assert {one.pid for one in servers(classifier._record)} <= held
        assert supervisor(classifier._record).pid not in held
        (limit,) = [
            file for name in ("memory.max", "memory.limit_in_bytes") if (file := Path(note.cgroup, name)).exists()
        ]
        assert int(limit.read_text()) == 4 * 2**30

    def test_service(self, classifier: ms.Run) -> None:
        service = classifier.status.service
        assert service["name"] == "classify"
        assert classifier.url == f"http://{service['url']}"
        assert [port["name"] for port in service["ports"]] == ["http", "grpc"]
        assert "://" not in service["url"]


@pytest.fixture(scope="module")
def ner(project: ms.Project) -> ms.Run:
    made = function(project, tiny("bert", "token_classification").parent, "ner")
    made.new_task("serve", disable_special_tokens=True, disable_lower_case=False, max_length=4, resources=ONE)
    path = str(tiny("bert", "token_classification"))
    return made.run("serve", path=path, max_length=64, disable_lower_case=True, wait=True, log_info=False)


class TestNer:
    """disable_lower_case, disable_special_tokens; task and run; path below the function's."""

    def test_tokens(self, ner: ms.Run) -> None:
        text = "MARIA Rossi lives in Milan."
        tokenizer = Tokenizer.from_file(str(tiny("bert", "token_classification") / "tokenizer.json"))
        usual = len(tokenizer.encode(text))
        tokenizer.normalizer = BertNormalizer(lowercase=False)
        tokens = tokenizer.encode(text, add_special_tokens=False)
        assert len(tokens) not in (usual, usual - 2), "the text must tell the two flags"
        (labels,) = ner.predict(text)
        assert len(labels) == len(tokens)

    def test_entities(self, ner: ms.Run) -> None:
        text = "Maria Rossi works in New York with Peter"
        for entity in ner.predict(text, aggregation_strategy="simple"):
            assert entity["entity_group"] in ("PER", "LOC")
            assert 0 <= entity["start"] < entity["end"] <= len(text)

    def test_run_over_task(self, ner: ms.Run) -> None:
        assert ner.client.info()["max_length"] == 64
        assert ner.spec.path == str(tiny("bert", "token_classification"))


CODE = """
import os

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class MineConfig(PretrainedConfig):
    model_type = "mine"


class MineForSequenceClassification(PreTrainedModel):
    config_class = MineConfig

    def __init__(self, config):
        super().__init__(config)
        self.classifier = torch.nn.Linear(1, 3)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, **kwargs):
        row = torch.tensor([float(token_type_ids is not None), float(os.environ["NUMBER"]), float(os.environ["PIN"])])
        return SequenceClassifierOutput(logits=row.repeat(len(input_ids), 1))
"""
"""A model whose logits tell what reached it."""


@pytest.fixture(scope="module")
def own_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive."""
    directory = tmp_path_factory.mktemp("mine")
    source = tiny("bert", "sequence_classification")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, directory)
    edit(directory / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    shutil.copy(source / "config.json", directory)
    auto_map = {
        "AutoConfig": "mine.MineConfig",
        "AutoModelForSequenceClassification": "mine.MineForSequenceClassification",
    }
    edit(
        directory / "config.json", model_type="mine", architectures=["MineForSequenceClassification"], auto_map=auto_map
    )
    (directory / "mine.py").write_text(CODE)
    weights = {"classifier.weight": np.zeros((3, 1), np.float32), "classifier.bias": np.zeros(3, np.float32)}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return Path(shutil.make_archive(str(tmp_path_factory.mktemp("volume") / "mine"), "zip", directory))


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_trust_remote_code_and_what_reaches_the_models_code(
    project: ms.Project, own_code: Path, tmp_path: Path
) -> None:
    """A local zip, in a volume; trust_remote_code, huggingface_task, return_token_type_ids, envs, secrets, args."""
    project.new_secret("PIN", "7")
    made = function(project, own_code, "mine")
    envs = {"NUMBER": "5", "HF_HOME": str(tmp_path)}
    volume = {"volume_type": "host_path", "name": "models", "mount_path": "/m", "spec": {"path": str(own_code.parent)}}
    given: dict[str, Any] = {"huggingface_task": "sequence_classification", "envs": envs, "secrets": ["PIN"]}
    given |= {"volumes": [volume], "resources": ONE}
    with pytest.raises(RunFailed, match="give --trust_remote_code if you trust it"):
        made.run("serve", **given, wait=True, log_info=False)
    (failed,) = made.list_runs()
    assert failed.state == "ERROR"
    given |= {"trust_remote_code": True, "return_token_type_ids": True, "args": ["--return_raw_logits"]}
    with made.run("serve", **given) as run:
        assert run.predict("Anna") == {"0": 1.0, "1": 5.0, "2": 7.0}
    assert run.state == "STOPPED"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A model whose tokenizer was shortened in its second revision."""
    shorter = shutil.copytree(tiny("bert", "fill_mask"), tmp_path_factory.mktemp("hub") / "v2")
    edit(shorter / "tokenizer_config.json", model_max_length=6)
    models: dict[str, Any] = {
        "org/bert": {"main": tiny("bert", "fill_mask"), "v2": shorter},
        "org/embed": tiny("bert", "text_embedding"),
    }
    with Hub(models) as hub:
        yield hub


def test_tokenizer_revision_and_replicas(project: ms.Project, hub: Hub) -> None:
    made = function(project, "hf://org/bert", "hub")
    run = made.run("serve", path="hf://org/bert:main", tokenizer_revision="v2", replicas=2, envs=hub.environment())
    with run:
        first = run.invoke(path="/v1/models/tiny:predict", json={"instances": ["[MASK] " + TEXT]})
        assert first.json()["parameters"]["tokens_dropped"] > 0
        assert run.client.info()["revision"] is not None
        # the server, its two workers, and what multiprocessing keeps for them
        workers = [one for one in servers(run._record) if one.ppid() == run.status.pid]
        assert len(workers) >= 2
        for _ in range(20):
            assert isinstance(run.predict("[MASK]"), str)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A model on the web, of which the second half waits for `go_on`."""
    packed = Path(shutil.make_archive(str(tmp_path_factory.mktemp("web") / "bert"), "zip", tiny("bert", "fill_mask")))
    content = packed.read_bytes()
    with Web({"/bert.zip": content}) as web:
        web.fail("/bert.zip", hold_after=len(content) // 2)
        yield web


@pytest.fixture(scope="module")
def masks(project: ms.Project, web: Web) -> ms.Run:
    return function(project, f"{web.url}/bert.zip", "masks").run("serve", resources=ONE)


class TestMasks:
    """http://….zip; the life of a run. Each test leaves it RUNNING."""

    def test_wait_says_how_far_it_is(self, masks: ms.Run, web: Web, capsys: pytest.CaptureFixture[str]) -> None:
        await_(lambda: masks.refresh().progress.stage == "download" and masks.progress.fraction > 0, 60)
        assert masks.progress.fraction < 1
        threading.Timer(0.3, web.go_on.set).start()
        assert masks.wait(timeout=90) is masks
        lines = capsys.readouterr().err.splitlines()
        assert (lines[0], lines[-1]) == ("PENDING download", f"RUNNING at {masks.url}")
        assert {line.partition(" ")[0] for line in lines[:-1]} <= {"READY", "PENDING"}
        assert len(lines) == len(set(lines))
        assert masks.state == "RUNNING"
        assert masks.progress == ("ready", 1.0)
        assert masks.wait(log_info=False).alive
        assert capsys.readouterr().err == ""

    async def test_await_ready(self, masks: ms.Run) -> None:
        assert (await masks.await_ready()).state == "RUNNING"
        assert await masks.apredict(MASKED) == masks.predict(MASKED)
        assert (await masks.ainvoke(path="/v2")).status_code == 200

    def test_predict(self, masks: ms.Run) -> None:
        alone = masks.predict(MASKED)
        assert isinstance(alone, str)
        assert masks.predict([MASKED]) == [alone]
        assert masks.predict((MASKED, MASKED, MASKED)) == [alone] * 3
        top = masks.predict(MASKED, top_k=2)
        assert [sorted(one) for one in top] == [["score", "sequence", "token", "token_str"]] * 2
        with pytest.raises(InvokeError, match=r"^400: ") as found:
            masks.predict("no mask")
        assert found.value.status == 400
        with pytest.raises(ms.ConfigError, match=r"^unknown parameter top_kk; did you mean top_k\?$"):
            masks.predict(MASKED, top_kk=3)

    def test_invoke(self, masks: ms.Run) -> None:
        tensor = {"name": "input-0", "shape": [1], "datatype": "BYTES", "data": [MASKED]}
        wanted = masks.predict(MASKED)
        infer = masks.invoke(json={"inputs": [tensor]})
        assert (infer.status_code, infer.request.url.path) == (200, "/v2/models/tiny/infer")
        assert infer.json()["outputs"][0]["data"] == [wanted]
        assert masks.invoke(json={"inputs": [tensor]}, model_name="other").status_code == 404
        own = str(masks.status.service["url"])
        for url in (f"{own}/v2/models/tiny", f"http://{own}/v2/models/tiny"):
            assert masks.invoke(url=url).json()["name"] == "tiny"
        with pytest.raises(InvokeError, match=r"'http://example.org/v2' is no URL of this server"):
            masks.invoke(url="http://example.org/v2")
        body = json.dumps({"instances": [MASKED]})
        headers = {"content-type": "application/json"}
        said = masks.invoke(path="v1/models/tiny:predict", data=body, headers=headers)
        assert said.json() == {"predictions": [wanted]}
        assert masks.invoke(path="/v2", method="HEAD").request.method == "HEAD"
        assert masks.invoke(path="/v2", files={"a": b"1"}).request.method == "POST"

    def test_metrics(self, masks: ms.Run) -> None:
        name = 'modelserve_requests_total{api="v1",code="200",task="fill_mask"}'
        before = masks.metrics().get(name, 0)
        masks.predict(MASKED)
        assert masks.metrics()[name] == before + 1

    def test_logs(self, masks: ms.Run) -> None:
        masks.predict(MASKED)
        await_(lambda: "path=/v1/models/tiny:predict" in masks.logs(tail=1), 10)
        assert len(masks.logs(tail=2).splitlines()) == 2
        assert masks.logs().endswith(masks.logs(tail=2))

    def test_usage(self, masks: ms.Run) -> None:
        assert await_(lambda: masks.usage.memory_bytes, 20) > 2**20

    def test_another_object_is_the_same_run(self, masks: ms.Run, project: ms.Project) -> None:
        found = ms.get_run(masks.id[:10])
        assert found == masks
        assert found.state == "RUNNING"
        assert found.predict(MASKED) == masks.predict(MASKED)
        assert [run.id for run in project.list_runs(state="running", function="masks")] == [masks.id]

    def test_it_cannot_be_resumed_while_it_runs(self, masks: ms.Run) -> None:
        with pytest.raises(IllegalTransition, match="the run is RUNNING and cannot become RESUME; what may follow is "):
            masks.resume()
        assert masks.predict(MASKED)

    def test_followed_until_it_is_stopped_and_resumed_on_its_ports(self, masks: ms.Run, web: Web) -> None:
        url, asked = masks.url, len(web.requests)
        lines: list[str] = []
        following = threading.Thread(target=lambda: lines.extend(masks.logs(tail=1, follow=True)))
        following.start()
        assert ms.get_run(masks.key).stop().state == "STOPPED"  # as another process would
        following.join(30)
        assert not following.is_alive()
        assert any("draining" in line for line in lines)
        with pytest.raises(InvokeError, match=r"^the run is STOPPED$"):
            masks.predict(MASKED)
        with pytest.raises(InvokeError, match=r"^the run is STOPPED$"):
            ms.get_run(masks.key).predict(MASKED)
        with pytest.raises(RunFailed, match=f"the run {masks.id} is STOPPED"):
            masks.wait(log_info=False)
        masks.resume(wait=True, log_info=False)
        assert (masks.state, masks.url) == ("RUNNING", url)
        assert masks.predict(MASKED)
        assert len(web.requests) == asked + 1, "whether there is a newer one"
        assert [size for size in web.sent if size] == web.sent[:1], "and there is none"


def test_embeddings_offline_and_a_copy_of_the_function(project: ms.Project, hub: Hub, tmp_path: Path) -> None:
    """hf://, in the cache, without a network; text_embedding; the other parameters of a deployment are kept, and change
    nothing here."""
    download = "from huggingface_hub import snapshot_download; snapshot_download('org/embed')"
    subprocess.run([sys.executable, "-c", download], env=os.environ | hub.environment(), timeout=60, check=True)
    asked = len(hub.requests)
    envs = hub.environment(offline=True) | {one["name"]: one["value"] for one in alone(tmp_path)}
    program = "import socket; socket.create_connection(('127.0.0.1', 9))"
    guarded = subprocess.run([sys.executable, "-c", program], env=os.environ | envs, timeout=60, capture_output=True)
    assert guarded.returncode == 70, "the guard sees what asks"

    made = function(project, "hf://org/embed", "embed")
    made.new_task("serve", resources=ONE, node_selector={"gpu": "a100"}, service_type="nodeport", envs=envs)
    again = project.import_function(made.export(tmp_path))
    with again.run("serve", huggingface_task="text_embedding", return_probabilities=True) as run:
        vector = run.predict(TEXT)
        assert (len(vector), type(vector[0])) == (32, float)
        assert run.predict([TEXT, "Anna"])[0] == pytest.approx(vector, abs=1e-5)
        assert run.spec.service_type == "NodePort"
        assert len(hub.requests) == asked


def test_a_model_that_does_not_load(project: ms.Project, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny("bert", "fill_mask"), tmp_path / "broken")
    (broken / "config.json").write_text("{")
    run = function(project, broken, "broken").run("serve")
    with pytest.raises(RunFailed, match=f"the run {run.id} is ERROR: config.json is not valid JSON"):
        run.wait(timeout=60, log_info=False)
    assert run.status.message.startswith("config.json is not valid JSON")
    with pytest.raises(InvokeError, match=r"^the run is ERROR: config\.json is not valid JSON"):
        run.invoke()
    shutil.copy(tiny("bert", "fill_mask") / "config.json", broken)
    assert run.resume(wait=True, log_info=False).state == "RUNNING"
    run.delete()
    assert run.state == "DELETED"
    with pytest.raises(RunFailed, match="was deleted"):
        run.wait(log_info=False)


def test_a_wait_that_is_too_short_and_one_that_is_ended(project: ms.Project, tmp_path: Path) -> None:
    run = function(project, tiny("bert", "fill_mask"), "slow").run("serve", envs=faulty(tmp_path, "sleep"))
    await_(lambda: run.refresh().progress.stage == "load", 30)
    with pytest.raises(WaitTimeout, match=rf"the run {run.id} is still PENDING after 0.1 s, load \d+%"):
        run.wait(timeout=0.1, log_info=False)
    with pytest.raises(InvokeError, match="the run is PENDING and has no service yet; wait until it is RUNNING"):
        run.predict(MASKED)
    threading.Timer(0.5, ms.get_run(run.key).stop).start()
    with pytest.raises(RunFailed, match=f"the run {run.id} is (STOP|STOPPED)"):
        run.wait(timeout=60, log_info=False)
    await_(lambda: run.refresh().state == "STOPPED", 30)
    assert run.state in states.ENDED
    assert os.environ["MODELSERVE_HOME"]
