"""`function.manifest()`: a list of plain objects, from the store and this machine's files, without a cluster."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import modelserve as ms
from modelserve.deploy.manifests import source
from tests.deploy.manifests.made import Manifest, container_of, of_kind
from tests.deploy.nowhere import use


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ms.Function:
    use(monkeypatch, tmp_path / "home")
    monkeypatch.setenv("MODELSERVE_SECRET_KEY", "a passphrase")
    project = ms.get_or_create_project("demo")
    project.new_secret("TOKEN", "s3cret")
    return project.new_function(
        "bert", "huggingfaceserve", path="hf://google-bert/bert-base-uncased", model_name="bert"
    )


def refused(function: ms.Function, **given: Any) -> str:
    with pytest.raises(ms.ModelServeError) as found:
        function.manifest("serve", **given)
    return found.value.message


def test_nothing_is_stored_and_the_names_are_the_same_each_time(function: ms.Function) -> None:
    first = function.manifest("serve", replicas=2)
    assert first == function.manifest("serve", replicas=2)
    assert json.loads(json.dumps(first)) == first, "plain"
    other = function.manifest("serve", replicas=3)
    assert [one["metadata"]["name"] for one in other] == [one["metadata"]["name"] for one in first]
    assert (function.list_runs(), function.list_tasks()) == ([], [])
    newer = ms.new_function("demo", "bert", "huggingfaceserve", path="hf://google-bert/bert-base-cased")
    assert newer.manifest("serve")[0]["spec"]["selector"] == first[0]["spec"]["selector"], "a newer version moves in"
    stranger = ms.new_function("demo2", "bert", "huggingfaceserve", path="hf://google-bert/bert-base-cased")
    assert stranger.manifest("serve")[0]["metadata"]["name"] != first[0]["metadata"]["name"]


def test_the_tasks_parameters_count_and_the_calls_win(function: ms.Function) -> None:
    function.new_task("serve", replicas=4, priority_class="high")
    spec = of_kind(function.manifest("serve", replicas=2), "Deployment")["spec"]
    assert (spec["replicas"], spec["template"]["spec"]["priorityClassName"]) == (2, "high")


def test_values_of_secrets_are_there_only_when_asked_for(
    function: ms.Function, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = function.manifest("serve", secrets=["TOKEN", "secret://there"])
    assert [one["kind"] for one in found] == ["Deployment", "Service"]
    assert "(TOKEN) is left out, since it has values in it" in caplog.text
    secret = function.manifest("serve", secrets=["TOKEN"], with_secrets=True)[0]
    assert (secret["kind"], secret["data"]) == ("Secret", {"TOKEN": "czNjcmV0"})
    names = {one["name"] for one in container_of(found)["env"]}
    assert "TOKEN" in names
    assert container_of(found)["envFrom"] == [{"secretRef": {"name": "there"}}]


def test_a_secret_of_a_cluster_is_none_of_this_machine(function: ms.Function) -> None:
    with pytest.raises(ms.ConfigError) as found:
        function.run("serve", secrets=["secret://there"])
    assert found.value.message.startswith("secrets has 'secret://there', a Secret of a cluster; on this machine")
    assert function.list_runs() == []


@pytest.mark.parametrize("path", ["https://u:p@host/model.zip", "s3://bucket/m/?X-Amz-Signature=abc"])
def test_a_url_with_a_password_is_a_secret(function: ms.Function, path: str) -> None:
    made = ms.new_function("demo", "own", "huggingfaceserve", path=path)
    found = made.manifest("serve", with_secrets=True)
    shown = json.dumps([one for one in found if one["kind"] != "Secret"])
    assert "u:p@" not in shown
    assert "Signature" not in shown
    variables = {one["name"]: one for one in container_of(found)["env"]}
    assert variables["MODELSERVE_MODEL_DIR"]["valueFrom"]["secretKeyRef"]["key"] == "MODELSERVE_MODEL_DIR"
    plain = ms.new_function("demo", "sum", "huggingfaceserve", path="https://host/m.zip#sha256=" + "0" * 64)
    assert "Secret" not in [one["kind"] for one in plain.manifest("serve", with_secrets=True)]


def test_a_file_of_this_machine_goes_with_it(function: ms.Function, tmp_path: Path) -> None:
    file = tmp_path / "own template.jinja"
    file.write_text("{{ messages }}")
    for given in ({"chat_template": str(file)}, {"args": [f"--chat_template={file}"]}):
        found = function.manifest("serve", huggingface_task="text_generation", **given)
        assert of_kind(found, "ConfigMap")["data"] == {"chat_template.jinja": "{{ messages }}"}
        words = [word for word in container_of(found)["args"] if word.startswith("--chat_template")]
        assert words == ["--chat_template=/etc/modelserve/chat_template.jinja"]


def test_a_template_itself_and_a_file_on_a_volume_do_not(function: ms.Function) -> None:
    volume = {"volume_type": "shared_volume", "name": "data", "mount_path": "/data"}
    for template, given in (("{{ x }}", {}), ("/data/a.jinja", {"volumes": [volume]})):
        found: list[Manifest] = function.manifest("serve", chat_template=template, **given)
        assert "ConfigMap" not in [one["kind"] for one in found]
        assert f"--chat_template={template}" in container_of(found)["args"]


def test_a_file_that_cannot_go_with_it(function: ms.Function, tmp_path: Path) -> None:
    gone, binary, big = tmp_path / "gone.yaml", tmp_path / "b.yaml", tmp_path / "big.yaml"
    binary.write_bytes(b"\xff\xfe")
    big.write_text("#" * (2**20 + 1))
    assert refused(function, log_config_file=str(gone)).endswith("into the cluster: No such file or directory")
    assert refused(function, log_config_file=str(binary)).endswith("into the cluster: it is no text in UTF-8")
    assert "more than 1 MiB" in refused(function, log_config_file=str(big))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"target": "local"}, "target is 'local'; it must be kubernetes, the one that has manifests"),
        ({"replica": 2}, "unknown parameter replica; did you mean replicas?"),
        ({"path": "hf://other/model"}, "a run's path is below its function's"),
        ({"secrets": ["GONE"]}, "GONE"),
    ],
)
def test_what_is_wrong_is_one_sentence(function: ms.Function, given: dict[str, Any], said: str) -> None:
    assert said in refused(function, **given)
    with pytest.raises(ms.ConfigError):
        function.manifest("build")


def test_the_image_is_this_versions(function: ms.Function) -> None:
    assert container_of(function.manifest("serve"))["image"] == f"modelserve:{ms.__version__}"
    assert source.image({"resources": {"gpu": {"requests": "1"}}}) == f"modelserve:{ms.__version__}-cuda"
    own = ms.new_function("demo", "own", "huggingfaceserve", path="hf://a/b", image="function:1")
    assert container_of(own.manifest("serve"))["image"] == "function:1"
    assert container_of(own.manifest("serve", image="run:1"))["image"] == "run:1"
