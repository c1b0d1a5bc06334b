"""The whole life of runs whose pods really serve a model.

On a cluster with nodes these are pods of the image that MODELSERVE_TEST_IMAGE names. On one without, whose API server
is on this machine, they are processes of this machine (node.py): no image, no container, no network between pods, but
the run's own arguments, variables, secrets, volumes and probes, and logs and ports that come through the API server.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

import modelserve as ms
from modelserve.deploy.kubernetes import noted
from modelserve.errors import ModelServeError, RunFailed
from tests.cluster import places
from tests.cluster.api import Api, pods
from tests.cluster.cluster import Cluster
from tests.cluster.node import node
from tests.models import tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

TEXT = "The capital of France is [MASK]."
ONE_CPU = {"cpu": {"requests": "100m"}}


@pytest.fixture
def serving(
    cluster: Cluster, namespace: str, parameters: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Parameters of runs that serve: with `path`, and what brings it to the pods."""
    if cluster.nodes:
        if not cluster.image:
            pytest.skip("MODELSERVE_TEST_IMAGE names no image for the cluster's nodes")
        yield parameters | {"path": cluster.model}
        return
    if urlsplit(cluster.server).hostname not in ("127.0.0.1", "localhost", "::1"):
        pytest.skip("the cluster has no node that takes pods, and its API server is not on this machine")
    model = str(tiny("bert", "fill_mask"))
    volume = {"volume_type": "host_path", "name": "model", "mount_path": model, "spec": {"path": model}}
    with node(cluster.api, namespace, tmp_path_factory.mktemp("node")):
        yield parameters | {"path": model, "volumes": [volume], "image": "modelserve:here"}


@pytest.fixture
def tiny_one(project: ms.Project, serving: dict[str, Any]) -> ms.Function:
    return project.new_function(name="tiny", kind="huggingfaceserve", path=serving.pop("path"), model_name="tiny")


def test_a_run_from_its_start_to_its_end(
    cluster: Cluster, namespace: str, project: ms.Project, tiny_one: ms.Function, serving: dict[str, Any]
) -> None:
    project.new_secret("TOKEN", "s3cret")
    before = set(cluster.api.everything(namespace))
    run = tiny_one.run(
        action="serve", target="kubernetes", secrets=["TOKEN"], model_cache="1Gi", resources=ONE_CPU, **serving
    )
    run.wait(timeout=cluster.timeout_s, log_info=False)
    assert run.state == "RUNNING"
    (answer,) = run.predict([TEXT])
    assert answer
    assert run.invoke(path="/v2/models/tiny").json()["name"] == "tiny"
    assert any(name.startswith("modelserve_") for name in run.metrics())

    lines = run.logs().splitlines()
    assert lines
    assert run.logs(tail=1).splitlines() == run.logs().splitlines()[-1:]
    assert run.logs(since=3600)
    followed: list[str] = []
    following = threading.Thread(target=lambda: followed.extend(run.logs(follow=True)), daemon=True)
    following.start()

    run.scale(2, wait=True, timeout=cluster.timeout_s, log_info=False)
    assert len(pods_of(cluster.api, namespace, run)) == 2
    assert run.predict([TEXT]) == [answer]

    run.stop()
    assert run.state == "STOPPED"
    assert pods_of(cluster.api, namespace, run) == set()
    following.join(60)
    assert not following.is_alive(), "logs that are followed do not end with the run"
    assert set(lines) <= set("\n".join(followed).splitlines()) | {line for one in followed for line in (one, bare(one))}

    run.resume(wait=True, timeout=cluster.timeout_s, log_info=False)
    assert run.predict([TEXT]) == [answer]
    run.delete()
    places.until(lambda: set(cluster.api.everything(namespace)) == before, 120, "nothing to be left of the run")


def test_no_request_fails_during_an_update(
    cluster: Cluster, namespace: str, tiny_one: ms.Function, serving: dict[str, Any]
) -> None:
    """As a caller inside the cluster would see it, or one with a forwarded port, which moves to another pod."""
    run = tiny_one.run(action="serve", target="kubernetes", resources=ONE_CPU, **serving)
    run.wait(timeout=cluster.timeout_s, log_info=False)
    former = pods_of(cluster.api, namespace, run)
    failed: list[ModelServeError] = []
    asked, over = [0], threading.Event()

    def ask() -> None:
        while not over.wait(0.1):
            try:
                run.predict([TEXT])
            except ModelServeError as error:
                failed.append(error)
            asked[0] += 1

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    other = ms.list_runs(target="kubernetes", **cluster.place, namespace=namespace)[0]
    other.update(envs={"CHANGED": "yes"}, wait=True, timeout=cluster.timeout_s, log_info=False)
    places.until(lambda: not former & pods_of(cluster.api, namespace, run), 120, "the former pod's end")
    enough = asked[0] + 3
    places.until(lambda: asked[0] >= enough, 60, "three more answers")
    over.set()
    asking.join(60)
    assert [error.message for error in failed] == []
    run.delete()


def test_many_at_once_and_large_answers_through_a_forwarded_port(
    cluster: Cluster, tiny_one: ms.Function, serving: dict[str, Any]
) -> None:
    run = tiny_one.run(action="serve", target="kubernetes", resources=ONE_CPU, **serving)
    run.wait(timeout=cluster.timeout_s, log_info=False)
    (alone,) = run.predict([TEXT])
    texts = [TEXT] * 500
    answers: list[Any] = []
    asking = [threading.Thread(target=lambda: answers.append(run.predict(texts)), daemon=True) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(120)
    assert [len(one) for one in answers] == [len(texts)] * len(asking)
    assert {json.dumps(one) for answer in answers for one in answer} == {json.dumps(alone)}
    response = run.invoke(path="/v2/models/tiny/infer", json=numbers(4, 32))
    (logits,) = response.json()["outputs"]
    assert len(response.content) > 1_000_000
    assert len(logits["data"]) == math.prod(logits["shape"])
    run.delete()


def test_logs_that_are_followed_are_those_of_new_pods_too(
    cluster: Cluster, namespace: str, tiny_one: ms.Function, serving: dict[str, Any]
) -> None:
    run = tiny_one.run(action="serve", target="kubernetes", resources=ONE_CPU, **serving)
    run.wait(timeout=cluster.timeout_s, log_info=False)
    lines: list[str] = []
    following = threading.Thread(target=lambda: lines.extend(run.logs(follow=True)), daemon=True)
    following.start()
    other = ms.get_run(run.id)
    other.update(envs={"CHANGED": "yes"}, wait=True, timeout=cluster.timeout_s, log_info=False)
    other.stop()
    following.join(60)
    assert not following.is_alive(), "logs that are followed do not end with the run"
    starts = [line for line in lines if "ready: {" in line]
    assert len(starts) == 2, lines  # each pod's once: none is lost, none comes twice
    other.delete()


def test_a_server_that_cannot_start_says_why(
    cluster: Cluster, project: ms.Project, tiny_one: ms.Function, serving: dict[str, Any]
) -> None:
    """The cause is the server's own: its last lines are in the error."""
    path = f"{tiny_one.spec.path}-is-not-there" if cluster.nodes else f"{tiny_one.spec.path}/is-not-there"
    broken = project.new_function(name="broken", kind="huggingfaceserve", path=path, model_name="broken")
    run = broken.run(action="serve", target="kubernetes", resources=ONE_CPU, **serving)
    begun = time.monotonic()
    with pytest.raises(RunFailed, match="is-not-there") as failed:
        run.wait(timeout=cluster.timeout_s, log_info=False)
    assert "exit code" in failed.value.message
    assert time.monotonic() - begun < cluster.timeout_s
    assert "is-not-there" in run.logs(previous=True) + run.logs()
    run.delete()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"image": "registry.invalid/modelserve:none"}, ["cannot be pulled", "registry.invalid/modelserve:none"]),
        ({"node_selector": {"modelserve-test": "nowhere"}}, ["no node", "didn't match"]),
    ],
    ids=["image", "node"],
)
def test_a_pod_that_cannot_start_says_why(
    cluster: Cluster,
    tiny_one: ms.Function,
    serving: dict[str, Any],
    wrong: dict[str, Any],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the words of the cluster's own kubelet and scheduler."""
    monkeypatch.setattr(noted, "_PATIENCE_S", 3.0)
    run = tiny_one.run(action="serve", target="kubernetes", resources=ONE_CPU, **serving | wrong)
    with pytest.raises(RunFailed) as failed:
        run.wait(timeout=cluster.timeout_s, log_info=False)
    for word in words:
        assert word in failed.value.message, failed.value.message
    run.delete()


def pods_of(api: Api, namespace: str, run: ms.Run) -> set[str]:
    """UIDs of those that are not being removed."""
    found = api.get(pods(namespace), labelSelector=f"modelserve/run={run.id}").ok()["items"]
    return {pod["metadata"]["uid"] for pod in found if "deletionTimestamp" not in pod["metadata"]}


def bare(line: str) -> str:
    """Without the pod's name, which is before each line of several pods."""
    return line.partition(" ")[2]


def numbers(texts: int, tokens: int) -> dict[str, Any]:
    """A request of V2 in token ids, whose answer has a number for each word of the vocabulary."""
    shape, ones = [texts, tokens], [1] * (texts * tokens)
    names = ("input_ids", "attention_mask")
    return {"inputs": [{"name": name, "datatype": "INT64", "shape": shape, "data": ones} for name in names]}
