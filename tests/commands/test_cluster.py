"""The commands for runs in a cluster, as they are typed; against a fake cluster over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelserve.deploy import catalog
from tests.commands.conftest import Typed
from tests.commands.records import ready
from tests.deploy.kubernetes.fake import Fake, cluster, fates


@pytest.fixture
def fake(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    with cluster() as found:
        monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig(tmp_path / "kubeconfig")))
        yield found
        for run in catalog.list_runs():
            run.delete(forget=True)


RUN = ("run", "hf://google-bert/bert-base-uncased", "--name", "bert", "--target", "kubernetes", "--detach")


def test_a_run_from_its_start_to_its_end(fake: Fake, typed: Typed) -> None:
    fake.fate = fates.ready("one", "two")
    done = typed(*RUN, "--replicas", "2")
    assert done.status == 0, done.err
    (run,) = catalog.list_runs()
    assert done.out == f"{run.id[:12]} bert RUNNING {run.url}\n"
    assert done.err.splitlines()[-1] == f"RUNNING at {run.url}"
    (row,) = typed("runs", "--json").json
    assert (row["target"], row["state"], row["url"]) == ("kubernetes", "RUNNING", run.url)
    assert sorted(typed("logs", "bert", "--tail", "1").out.splitlines()) == sorted(
        f"{pod['metadata']['name'].rpartition('-')[2]} | two" for pod in fake.objects("Pod")
    )
    assert typed("scale", "bert", "1").status == 0
    done = typed("update", "bert", "--env", "A=1", "--json")
    assert json.loads(done.out)["state"] == "RUNNING"
    done = typed("update", "bert", "--replicas", "3", "--dry-run")
    assert [one["spec"]["replicas"] for one in json.loads(done.out) if one["kind"] == "Deployment"] == [3]
    for word, state in (("stop", "STOPPED"), ("resume", "RUNNING"), ("rm", "DELETED")):
        done = typed(word, "bert")
        assert (done.status, state in done.out) == (0, True), done
    assert fake.everything("default") == []


def test_both_targets_in_one_list(fake: Fake, typed: Typed) -> None:
    typed(*RUN, "--no-wait")
    ready("here")
    head, *lines = typed("runs").out.splitlines()
    assert head.split()[-1] == "TARGET"
    assert sorted(line.split()[-1] for line in lines) == ["kubernetes", "local"]
    assert [one["name"] for one in typed("runs", "--target", "local", "--json").json] == ["here"]
    assert [one["name"] for one in typed("runs", "--target", "kubernetes", "--json").json] == ["bert"]


def test_a_failure(fake: Fake, typed: Typed) -> None:
    """Which ends the command, and with it the run: nobody has to clean up."""
    fake.fate = fates.crash("boom", code=3)
    done = typed(*(word for word in RUN if word != "--detach"))
    assert done.status == 1
    assert "ends with exit code 3" in done.err
    assert "boom" in done.err
    assert [run.state for run in catalog.list_runs()] == ["STOPPED"]
    assert fake.objects("Pod") == []


def test_what_is_refused_leaves_nothing(fake: Fake, typed: Typed) -> None:
    done = typed(*RUN, "--namespace", "none")
    assert (done.status, done.out) == (1, "")
    assert done.err.endswith("has no namespace 'none'; make it with: kubectl create namespace none\n")
    assert typed("functions", "--json").json == []
    done = typed("runs", "--target", "kubernetes", "--context", "none")
    assert (done.status, "context is 'none'" in done.err) == (2, True)
    done = typed("runs", "--namespace", "x")
    assert "namespace says which cluster is meant; give target='kubernetes' too" in done.err


def test_a_cluster_that_is_gone(fake: Fake, typed: Typed) -> None:
    typed(*RUN, "--no-wait")
    fake.vanish()
    done = typed("runs", "--json")
    assert (done.status, done.json[0]["name"]) == (0, "bert")
    assert "does not answer" in typed("stop", "bert").err
    assert typed("rm", "bert").status == 1
    assert typed("rm", "bert", "--forget").status == 0
    assert typed("runs", "--json").json == []


def test_asked_of_a_cluster_without_a_run(fake: Fake, typed: Typed) -> None:
    done = typed("manifest", "hf://org/name", "--dry-run", "--json")
    assert [one["kind"] for one in done.json] == ["Deployment", "Service"]
    assert done.json[0]["spec"]["template"]["spec"]["dnsPolicy"] == "ClusterFirst"
    assert fake.everything("default") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("update", "bert"), "no parameter is given that would change; `modelserve update --help` lists what there is"),
        (("update", "bert", "--detach"), "--detach is for `modelserve run`; leave it out"),
        (("run", "bert", "--force"), "--force is for `modelserve update`; leave it out"),
        (("run", "bert", "--dry-run"), "--dry-run is for `modelserve manifest` and `modelserve update`; leave it out"),
        (("update", "bert", "--resorces", "cpu=1"), "unknown flag --resorces; did you mean --resources?"),
    ],
)
def test_what_is_typed_wrong(home: Path, typed: Typed, words: tuple[str, ...], said: str) -> None:
    done = typed(*words)
    assert (done.status, done.err) == (2, f"modelserve: error: {said}\n")


@pytest.mark.parametrize("words", [("scale", "here", "2"), ("update", "here", "--replicas", "2")])
def test_a_run_on_this_machine(home: Path, typed: Typed, words: tuple[str, ...]) -> None:
    ready("here")
    done = typed(*words)
    assert (done.status, "is for runs in a cluster; this one is on the target local" in done.err) == (2, True)
