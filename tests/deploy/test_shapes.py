"""Every shape in which users write what a pod needs, what is kept of it, and what is said of what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelserve.deploy.parameters import POD
from modelserve.errors import ConfigError

READ = {row.name: row.read for row in POD}

TERM = {"match_expressions": [{"key": "gpu", "operator": "In", "values": ["a100"]}]}
AFFINITY = {
    "node_affinity": {"required_during_scheduling_ignored_during_execution": {"node_selector_terms": [TERM]}},
    "pod_anti_affinity": {
        "preferred_during_scheduling_ignored_during_execution": [
            {
                "weight": 1,
                "pod_affinity_term": {
                    "topology_key": "kubernetes.io/hostname",
                    "label_selector": {"match_labels": {"app_name": "bert", "example.org/a_b": "c_d"}},
                },
            }
        ]
    },
}
CAMEL = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["a100"]}]}]
        }
    },
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 1,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"app_name": "bert", "example.org/a_b": "c_d"}},
                },
            }
        ]
    },
}


def volume(kind: str, **spec: str) -> dict[str, Any]:
    return {"volume_type": kind, "name": "v", "mount_path": "/data", "spec": spec}


ACCEPTED: list[tuple[str, Any, Any]] = [
    ("node_selector", [{"key": "gpu", "value": "a100"}], [{"key": "gpu", "value": "a100"}]),
    ("node_selector", {"gpu": "a100", "zone": "b"}, [{"key": "gpu", "value": "a100"}, {"key": "zone", "value": "b"}]),
    ("node_selector", (), []),
    ("resources", {"cpu": "2"}, {"cpu": {"requests": "2"}}),
    ("resources", {"cpu": 2, "mem": "4Gi"}, {"cpu": {"requests": "2"}, "mem": {"requests": "4Gi"}}),
    ("resources", {"cpu": 0.5}, {"cpu": {"requests": "0.5"}}),
    ("resources", {"cpu": {"requests": "500m", "limits": "2"}}, {"cpu": {"requests": "500m", "limits": "2"}}),
    ("resources", {"cpu": {"limits": "2", "requests": None}}, {"cpu": {"limits": "2"}}),
    ("resources", {"memory": {"limits": "1.5Gi"}, "gpu": 1, "disk": "10Gi"},
     {"mem": {"limits": "1.5Gi"}, "gpu": {"requests": "1"}, "disk": {"requests": "10Gi"}}),
    ("resources", {"requests": {"nvidia.com/gpu": "1", "ephemeral-storage": "1Gi"}, "limits": {"memory": "5Gi"}},
     {"gpu": {"requests": "1"}, "disk": {"requests": "1Gi"}, "mem": {"limits": "5Gi"}}),
    ("resources", {"nvidia.com/mig-1g.10gb": "1"}, {"nvidia.com/mig-1g.10gb": {"requests": "1"}}),
    ("tolerations", [{"key": "gpu", "operator": "equal", "value": "a100", "effect": "noschedule"}],
     [{"key": "gpu", "operator": "Equal", "value": "a100", "effect": "NoSchedule"}]),
    ("tolerations", [{"operator": "Exists", "toleration_seconds": 30, "value": None}],
     [{"operator": "Exists", "toleration_seconds": 30}]),
    ("tolerations", [{"key": "a", "tolerationSeconds": 1}], [{"key": "a", "toleration_seconds": 1}]),
    ("affinity", AFFINITY, CAMEL),
    ("affinity", CAMEL, CAMEL),
    ("volumes", [volume("persistent_volume_claim", size="10Gi", storage_class="fast", claim_name="c", sub_path="a")],
     [volume("persistent_volume_claim", size="10Gi", storage_class="fast", claim_name="c", sub_path="a")]),
    ("volumes", [volume("empty_dir", sizeLimit="1Gi", medium="Memory")],
     [volume("empty_dir", size_limit="1Gi", medium="Memory")]),
    ("volumes", [volume("Ephemeral", size="1Gi"), volume("shared_volume", claimName="c", size="1Gi")],
     [volume("ephemeral", size="1Gi"), volume("shared_volume", claim_name="c", size="1Gi")]),
    ("volumes", [volume("host_path", path="/srv")], [volume("host_path", path="/srv")]),
    ("volumes", [{"volume_type": "empty_dir", "name": "v", "mountPath": "/data"}], [volume("empty_dir")]),
    ("envs", [{"name": "A", "value": "1"}, {"name": "B", "value": ""}],
     [{"name": "A", "value": "1"}, {"name": "B", "value": ""}]),
    ("envs", {"A": "1"}, [{"name": "A", "value": "1"}]),
    ("secrets", ["HF_TOKEN", "OTHER"], ["HF_TOKEN", "OTHER"]),
    ("secrets", "HF_TOKEN", ["HF_TOKEN"]),
    ("profile", "1xa100", "1xa100"),
    ("replicas", 3, 3),
    *(("service_type", given, "NodePort") for given in ("NodePort", "nodeport", "NODEPORT")),
    *(("service_type", kind, kind) for kind in ("ClusterIP", "LoadBalancer", "ExternalName")),
    ("service_name", "bert-prod", "bert-prod"),
    ("runtime_class", "nvidia", "nvidia"),
    ("priority_class", "high", "high"),
    ("args", ["--max_batch_tokens=4", "--log_format", "json"], ["--max_batch_tokens=4", "--log_format", "json"]),
]  # fmt: skip
"""(parameter, as a user writes it, as the spec keeps it)."""


@pytest.mark.parametrize(("name", "given", "kept"), ACCEPTED)
def test_accepted(name: str, given: object, kept: object) -> None:
    found = READ[name](name, given)
    assert found == kept
    assert json.loads(json.dumps(found)) == found
    assert READ[name](name, found) == found, "what is kept is read again, from an export or a profile"


QUANTITY = 'it must be a quantity above 0, in cores, such as 2 or "500m"'
BYTES = 'it must be a quantity above 0, of bytes, such as "512Mi" or "1.5Gi"'

REFUSED: list[tuple[str, Any, str]] = [
    ("node_selector", "gpu=a100", "node_selector is 'gpu=a100'; it must be a list of mappings"),
    ("node_selector", ["gpu"], "an entry of node_selector is 'gpu'; it must be a mapping, with texts as keys"),
    ("node_selector", [{"name": "gpu", "value": "a"}],
     "an entry of node_selector is {'name': 'gpu', 'value': 'a'}; it must be of the form {\"key\": \"…\", "
     '"value": "…"}'),
    ("node_selector", {"gpu": True}, "node_selector is {'gpu': True}; it must be names with values that are texts"),
    ("resources", "2", "resources is '2'; it must be a mapping, such as {\"cpu\": \"2\", \"mem\": \"4Gi\"}"),
    ("resources", {"ram": "2"}, "a key of resources is 'ram'; it must be one of cpu, mem, gpu, disk"),
    ("resources", {"cpu": "two"}, f"resources['cpu'] is 'two'; {QUANTITY}"),
    ("resources", {"cpu": "0"}, f"resources['cpu'] is '0'; {QUANTITY}"),
    ("resources", {"cpu": True}, f"resources['cpu'] is True; {QUANTITY}"),
    ("resources", {"mem": "4GB"}, f"resources['mem'] is '4GB'; {BYTES}"),
    ("resources", {"memory": {"limits": "500m"}}, f"resources['memory'] is '500m'; {BYTES}"),
    ("resources", {"gpu": "0.5"}, "resources['gpu'] is '0.5'; it must be a whole number of devices"),
    ("resources", {"cpu": {"request": "1"}},
     "a key of resources['cpu'] is 'request'; it must be requests or limits"),
    ("resources", {"cpu": {"requests": "2", "limits": "1500m"}},
     "resources['cpu'] is {'requests': '2', 'limits': '1500m'}; it must be limits of at least the requests"),
    ("tolerations", {"key": "a"}, "tolerations is {'key': 'a'}; it must be a list of mappings"),
    ("tolerations", [{"keys": "a"}],
     "a key of tolerations is 'keys'; it must be one of effect, key, operator, toleration_seconds, value"),
    ("tolerations", [{"effect": "Never"}],
     "effect in tolerations is 'Never'; it must be one of NoSchedule, PreferNoSchedule, NoExecute"),
    ("tolerations", [{"operator": "Like"}], "operator in tolerations is 'Like'; it must be one of Equal, Exists"),
    ("tolerations", [{"toleration_seconds": "30"}],
     "toleration_seconds in tolerations is '30'; it must be a whole number"),
    ("tolerations", [{"value": 1}], "value in tolerations is 1; it must be a text"),
    ("affinity", [], "affinity is []; it must be a mapping, Kubernetes' affinity, such as {'node_affinity': {…}}"),
    ("affinity", {"nodes": {}},
     "a key of affinity is 'nodes'; it must be one of node_affinity, pod_affinity, pod_anti_affinity"),
    ("volumes", volume("empty_dir"), f"volumes is {volume('empty_dir')!r}; it must be a list of mappings"),
    ("volumes", [volume("nfs")],
     "volume_type in volumes is 'nfs'; it must be one of persistent_volume_claim, empty_dir, ephemeral, "
     "shared_volume, host_path"),
    ("volumes", [{**volume("empty_dir"), "mount_path": "data"}],
     "mount_path in volumes is 'data'; it must be an absolute path, which has no colon"),
    ("volumes", [{"volume_type": "empty_dir", "mount_path": "/a"}],
     "name in volumes is None; it must be a text that is not empty"),
    ("volumes", [{**volume("empty_dir"), "size": "1Gi"}],
     "a key of volumes is 'size'; it must be one of mount_path, name, spec, volume_type"),
    ("volumes", [volume("empty_dir", size="1Gi")],
     "a key of spec of a empty_dir in volumes is 'size'; it must be one of medium, size_limit, sub_path"),
    ("volumes", [volume("ephemeral", size="big")],
     "size in volumes is 'big'; it must be a quantity such as \"10Gi\""),
    ("volumes", [{**volume("empty_dir"), "spec": "1Gi"}],
     "spec in volumes is '1Gi'; it must be a mapping, such as {\"size\": \"10Gi\"}"),
    ("volumes", [volume("host_path")], "path of a host_path in volumes is None; it must be a text that is not empty"),
    ("envs", ["A=1"], "an entry of envs is 'A=1'; it must be a mapping, with texts as keys"),
    ("envs", {"A": 1}, "envs is {'A': 1}; it must be names with values that are texts"),
    ("envs", {"A": "x\0"}, "envs is {'A': 'x\\x00'}; it must be values without NUL, which no variable holds"),
    ("envs", [{"name": ["A"], "value": "1"}],
     "an entry of envs is {'name': ['A'], 'value': '1'}; it must be of the form {\"name\": \"…\", \"value\": \"…\"}"),
    ("envs", {"1A": ""},
     "the name in envs is '1A'; it must be letters, digits, _, . and -, not beginning with a digit"),
    ("secrets", [1], "secrets is [1]; it must be a list of texts"),
    ("profile", "", "profile is ''; it must be a text that is not empty"),
    *(("replicas", given, f"replicas is {given!r}; it must be a whole number of at least 1")
      for given in (0, -3, "2", 1.5, True)),
    ("service_type", "Node", "service_type is 'Node'; it must be one of ClusterIP, NodePort, LoadBalancer, "
     "ExternalName"),
    ("service_name", "My_Bert", "service_name is 'My_Bert'; it must be 1 to 63 lower-case letters, digits and dashes, "
     "with no dash at either end"),
    ("args", ["--a\0"], "args is ['--a\\x00']; it must be texts without NUL, which no command line holds"),
    ("args", {"--a": 1}, "args is {'--a': 1}; it must be a list of texts"),
    ("runtime_class", 1, "runtime_class is 1; it must be a text that is not empty"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "message"), REFUSED)
def test_refused(name: str, given: object, message: str) -> None:
    with pytest.raises(ConfigError) as found:
        READ[name](name, given)
    assert found.value.message == message


def test_every_row_has_a_shape_that_is_accepted_and_one_that_is_refused() -> None:
    plain = {"path", "model_name", "image", "context"}  # texts, as profile
    here = {name for name, read in READ.items() if read.__module__.endswith(".shapes")}
    assert {name for name, *_ in ACCEPTED} | plain == here
    assert {name for name, *_ in REFUSED} | plain | {"priority_class"} == here
