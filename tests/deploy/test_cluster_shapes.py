"""What only a cluster reads: every form that is taken, and one sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelserve.deploy import cluster_shapes as shapes
from modelserve.deploy import parameters
from modelserve.errors import ConfigError

READ: list[tuple[str, Any, Any]] = [
    ("labels", {"team": "ml", "example.org/a": ""}, {"team": "ml", "example.org/a": ""}),
    ("labels", [{"name": "team", "value": "ml"}], {"team": "ml"}),
    ("annotations", {"a.b/c": "any text, of any length"}, {"a.b/c": "any text, of any length"}),
    ("namespace", "models", "models"),
    ("kubeconfig", "/etc/kube/config", "/etc/kube/config"),
    ("kubeconfig", Path("relative"), str(Path("relative").absolute())),
    ("kubeconfig", "~/a:/b", f"{Path('~/a').expanduser()}:/b"),
    ("flavor", "KServe", "kserve"),
    ("image_pull_policy", "ifnotpresent", "IfNotPresent"),
    ("image_pull_secrets", "a", ["a"]),
    ("image_pull_secrets", ["a", "b.c"], ["a", "b.c"]),
    ("startup_timeout", 60, 60),
    ("scaling", {"max_replicas": 3}, {"min_replicas": 1, "max_replicas": 3, "target": {"cpu": 80}}),
    (
        "scaling",
        {"minReplicas": 2, "maxReplicas": 3, "target": 50},
        {"min_replicas": 2, "max_replicas": 3, "target": {"cpu": 50}},
    ),
    (
        "scaling",
        {"max_replicas": 3, "target": {"mem": 70, "modelserve_queue_size": 8}},
        {"min_replicas": 1, "max_replicas": 3, "target": {"mem": 70, "modelserve_queue_size": "8"}},
    ),
    ("disruption_budget", 1, {"max_unavailable": 1}),
    ("disruption_budget", "50%", {"max_unavailable": "50%"}),
    ("disruption_budget", {"minAvailable": 2}, {"min_available": 2}),
    ("model_cache", "20Gi", {"size": "20Gi"}),
    (
        "model_cache",
        {"size": "1Gi", "storageClass": "fast", "accessMode": "readwritemany"},
        {"size": "1Gi", "storage_class": "fast", "access_mode": "ReadWriteMany"},
    ),
    ("model_cache", {"claim_name": "models", "size": None}, {"claim_name": "models"}),
]


@pytest.mark.parametrize(("name", "value", "kept"), READ)
def test_what_is_read(name: str, value: Any, kept: Any) -> None:
    assert parameters.read({name: value}) == {name: kept}
    assert parameters.read({name: kept}) == {name: kept}, "what is kept may be given again"


WRONG: list[tuple[str, Any, str]] = [
    ("labels", {"a b": "c"}, "a key of labels is 'a b'; it must be a name such as team or example.org/team"),
    ("labels", {"a": "-"}, "the value of a in labels is '-'; it must be at most 63 letters"),
    ("labels", {"a": "x" * 64}, "the value of a in labels is 'xxx"),
    ("labels", {"A_/b": "c"}, "a key of labels is 'A_/b'"),
    ("annotations", {"a": 1}, "annotations is {'a': 1}; it must be names with values that are texts"),
    ("kubeconfig", "", "kubeconfig is ''; it must be a text that is not empty"),
    ("kubeconfig", 7, "kubeconfig is 7; it must be a text that is not empty"),
    ("namespace", "Models", "namespace is 'Models'; it must be 1 to 63 lower-case letters"),
    ("flavor", "helm", "flavor is 'helm'; it must be one of deployment, kserve"),
    ("image_pull_policy", "Maybe", "image_pull_policy is 'Maybe'; it must be one of Always, IfNotPresent, Never"),
    ("image_pull_secrets", ["A"], "image_pull_secrets is 'A'; it must be the name of an object of the cluster"),
    ("startup_timeout", 1, "startup_timeout is 1; it must be a whole number of seconds, 10 or more"),
    ("scaling", 3, 'scaling is 3; it must be a mapping, such as {"max_replicas": 4}'),
    ("scaling", {}, "max_replicas in scaling is None; it must be a whole number of at least 1"),
    ("scaling", {"max": 3}, "a key of scaling is 'max'; it must be one of max_replicas, min_replicas, target"),
    ("scaling", {"min_replicas": 0, "max_replicas": 3}, "min_replicas in scaling is 0; it must be"),
    ("scaling", {"min_replicas": 4, "max_replicas": 3}, "max_replicas in scaling is 3; it must be at least min_repl"),
    ("scaling", {"max_replicas": 3, "target": "80%"}, "target in scaling is '80%'; it must be a whole number of perc"),
    ("scaling", {"max_replicas": 3, "target": {"queue": "many"}}, "it must be a metric and its value"),
    ("scaling", {"max_replicas": 3, "target": {}}, "target in scaling is {}; it must be a percentage"),
    ("disruption_budget", -1, "disruption_budget is -1; it must be a whole number of pods, or a share"),
    ("disruption_budget", "101%", "disruption_budget is '101%'"),
    ("disruption_budget", True, "disruption_budget is True"),
    ("disruption_budget", {"min_available": 1, "max_unavailable": 1}, "either min_available or max_unavailable"),
    ("model_cache", "big", "size in model_cache is 'big'; it must be a quantity such as \"10Gi\""),
    ("model_cache", {}, 'model_cache is {}; it must be a size such as "20Gi", or claim_name'),
    ("model_cache", {"size": "1Gi", "claim_name": "a"}, "a claim that is there (claim_name), or a new one (size)"),
    ("model_cache", {"size": "1Gi", "access_mode": "Any"}, "access_mode in model_cache is 'Any'; it must be one of"),
    ("model_cache", {"claim_name": "A b"}, "claim_name in model_cache is 'A b'"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_what_is_wrong_is_one_sentence(name: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as found:
        parameters.read({name: value})
    assert said in found.value.message
    assert "\n" not in found.value.message


def test_every_row_has_a_shape_that_is_read_and_one_that_is_refused() -> None:
    here = {row.name for row in parameters.POD if row.read.__module__ == shapes.__name__}
    assert {name for name, *_ in READ} == {name for name, *_ in WRONG} == here


@pytest.mark.parametrize("value", ["gpu", "", 1, "a b/c"])
def test_a_device_has_a_domain(value: object) -> None:
    assert shapes.device("gpu_key", "amd.com/gpu") == "amd.com/gpu"
    with pytest.raises(ConfigError):
        shapes.device("gpu_key", value)
