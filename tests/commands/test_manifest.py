"""`modelserve manifest`: YAML that a cluster takes, and nothing that is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from modelserve.deploy import catalog
from tests.commands.conftest import Typed, shell

PATH = "hf://google-bert/bert-base-uncased"


def test_a_path_is_documents_and_stays_unstored(home: Path, typed: Typed) -> None:
    done = typed("manifest", PATH, "--replicas", "2", "--labels", "team=ml,cost=1", "--startup_timeout", "60")
    assert (done.status, done.err) == (0, "")
    deployment, service = yaml.safe_load_all(done.out)
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    assert deployment["spec"]["replicas"] == 2
    assert deployment["metadata"]["labels"]["cost"] == "1"
    assert typed("manifest", PATH, "--replicas", "2", "--labels", "team=ml,cost=1", "--startup_timeout", "60") == done
    assert typed("manifest", PATH, "--target", "Kubernetes").status == 0, "as it is typed for run"
    assert catalog.list_functions() == []
    assert catalog.list_projects() == []


def test_a_function_is_what_python_makes_of_it(home: Path, typed: Typed) -> None:
    function = catalog.new_function("default", "bert", "huggingfaceserve", path=PATH)
    function.new_task("serve", replicas=3)
    same = function.manifest("serve", disruption_budget=1, model_cache="5Gi")
    words = ("--disruption_budget", "1", "--model_cache", "5Gi")
    assert typed("manifest", "bert", "--json", *words).json == same
    assert list(yaml.safe_load_all(typed("manifest", "bert", *words).out)) == same
    assert list(yaml.safe_load_all(typed("manifest", PATH, "--name", "bert", *words).out)) == same, "the same path"


def test_what_is_no_plain_text_is_json_or_its_short_form(home: Path, typed: Typed) -> None:
    scaling = json.dumps({"max_replicas": 3, "target": {"modelserve_queue_size": "8"}})
    done = typed(
        "manifest", PATH, "--scaling", scaling, "--image_pull_secrets", "a,b", "--annotations", '{"a/b": "c,d"}'
    )
    found = {one["kind"]: one for one in yaml.safe_load_all(done.out)}
    assert found["HorizontalPodAutoscaler"]["spec"]["maxReplicas"] == 3
    pod = found["Deployment"]["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    assert found["Service"]["metadata"]["annotations"]["a/b"] == "c,d"


def test_values_are_printed_only_when_asked_for(home: Path) -> None:
    catalog.get_or_create_project("default").new_secret("TOKEN", "s3cret")
    process = shell("manifest", PATH, "--secret", "TOKEN")
    out, err = process.communicate(timeout=60)
    assert "(TOKEN) is left out, since it has values in it" in err
    assert "kind: Secret" not in out
    assert list(yaml.safe_load_all(out))
    process = shell("manifest", PATH, "--secret", "TOKEN", "--with-secrets")
    out, err = process.communicate(timeout=60)
    assert "TOKEN: czNjcmV0" in out
    assert err == ""


def test_the_runtime_for_kserve_names_no_model(home: Path, typed: Typed) -> None:
    (found,) = yaml.safe_load_all(typed("manifest", "--kserve-runtime", "--image", "own:1").out)
    assert (found["kind"], found["spec"]["containers"][0]["image"]) == ("ClusterServingRuntime", "own:1")
    kinds = [one["kind"] for one in yaml.safe_load_all(typed("manifest", PATH, "--flavor", "kserve").out)]
    assert kinds == ["ServingRuntime", "InferenceService"]


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ((), 2, ""),
        (("gone",), 3, "has no function 'gone'"),
        (("./gone",), 2, "a place of this machine, which no pod sees"),
        ((PATH, "other"), 2, "give one function's name or one path, not 2"),
        (("--replicas", "2"), 2, "give one function's name or one path, not 0"),
        ((PATH, "--detach"), 2, "--detach is for `modelserve run`; leave it out"),
        ((PATH, "--target", "local"), 2, "target is 'local'; it must be kubernetes, the one that has manifests"),
        ((PATH, "--kserve-runtime"), 2, "--kserve-runtime takes --image alone"),
        (("--kserve-runtime", "--replicas", "2"), 2, "--kserve-runtime takes --image alone, not replicas"),
        ((PATH, "--scaling", "3"), 2, "scaling is '3'; it must be a mapping"),
        ((PATH, "--replica", "3"), 2, "unknown flag --replica; did you mean --replicas?"),
        ((PATH, "--secret", "GONE"), 3, "GONE"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    home: Path, typed: Typed, words: tuple[str, ...], status: int, sentence: str
) -> None:
    done = typed("manifest", *words)
    assert (done.status, done.out) == (status, "")
    assert sentence in done.err
    assert catalog.list_functions() == []


def test_run_refuses_what_is_for_manifests(home: Path, typed: Typed) -> None:
    done = typed("run", PATH, "--with-secrets")
    assert (done.status, done.err) == (
        2,
        "modelserve: error: --with-secrets is for `modelserve manifest`; leave it out\n",
    )
    assert "--with-secrets" in typed("manifest", "--help").out
    assert "--detach" not in typed("manifest", "--help").out
