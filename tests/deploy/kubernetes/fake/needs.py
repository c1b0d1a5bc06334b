"""What a pod asks for and its namespace does not have, in the kubelet's words. Whoever calls holds the store's lock.

Recorded: a secret that is not there. From the kubelet's sources: keys, config maps, mounts.
"""

from __future__ import annotations

from tests.deploy.kubernetes.fake import kinds
from tests.deploy.kubernetes.fake.kinds import Object
from tests.deploy.kubernetes.fake.objects import Objects

_SOURCES = ((kinds.SECRET, "secret", "Secret"), (kinds.CONFIG_MAP, "configmap", "ConfigMap"))


def variables(objects: Objects, namespace: str, container: Object) -> str:
    """Of the environment; "" where all is there."""
    for variable in container.get("env", []):
        source = variable.get("valueFrom") or {}
        for (kind, word, shown), name in zip(_SOURCES, ("secretKeyRef", "configMapKeyRef"), strict=True):
            reference = source.get(name)
            if not reference or reference.get("optional"):
                continue
            found = objects.get(kind, namespace, reference["name"])
            if found is None:
                return f'{word} "{reference["name"]}" not found'
            if reference["key"] not in {**found.get("data", {}), **found.get("binaryData", {})}:
                return f"couldn't find key {reference['key']} in {shown} {namespace}/{reference['name']}"
    for source in container.get("envFrom", []):
        for (kind, word, _), name in zip(_SOURCES, ("secretRef", "configMapRef"), strict=True):
            reference = source.get(name)
            if reference and not reference.get("optional") and not objects.has(kind, namespace, reference["name"]):
                return f'{word} "{reference["name"]}" not found'
    return ""


def volumes(objects: Objects, pod: Object) -> str:
    """Of what is mounted; "" where all is there."""
    namespace = pod["metadata"]["namespace"]
    for volume in pod["spec"].get("volumes", []):
        for kind, word, field, key in (
            (kinds.SECRET, "secret", "secret", "secretName"),
            (kinds.CONFIG_MAP, "configmap", "configMap", "name"),
        ):
            source = volume.get(field)
            if not source or source.get("optional"):
                continue
            fault = f'MountVolume.SetUp failed for volume "{volume["name"]}" : '
            found = objects.get(kind, namespace, source[key])
            if found is None:
                return fault + f'{word} "{source[key]}" not found'
            for item in source.get("items", []):
                if item["key"] not in {**found.get("data", {}), **found.get("binaryData", {})}:
                    return fault + f"references non-existent {word} key: {item['key']}"
    return ""


def claims(pod: Object) -> list[str]:
    """The names of the claims that it mounts."""
    found = [(one.get("persistentVolumeClaim") or {}).get("claimName", "") for one in pod["spec"].get("volumes", [])]
    return [name for name in found if name]
