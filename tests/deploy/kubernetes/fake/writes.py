"""Creating, applying, patching, replacing and deleting objects, as the API server does it.

Whoever calls holds the store's lock. Answers are (status, object).
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import yaml

from tests.deploy.kubernetes.fake import (
    apply,
    defaults,
    kinds,
    patches,
    quotas,
    schema,
    selectors,
    status,
    validation,
)
from tests.deploy.kubernetes.fake.apply import Owner
from tests.deploy.kubernetes.fake.kinds import Kind, Object
from tests.deploy.kubernetes.fake.objects import Objects, copied, has_generation, stamp
from tests.deploy.kubernetes.fake.paths import Asked, Place

APPLY = "application/apply-patch+yaml"
_PATCHES = {
    APPLY: "apply",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
    "application/json-patch+json": "json",
}
Answer = tuple[int, Object]


def document(asked: Asked) -> Any:
    """The body, JSON or YAML."""
    try:
        if asked.content in ("", "application/json") or asked.content.endswith("+json"):
            return json.loads(asked.body or b"{}")
        return yaml.safe_load(asked.body)
    except (ValueError, yaml.YAMLError) as error:
        raise status.bad_request(f"the object provided is unrecognized (must be of type {asked.content})") from error


def create(objects: Objects, asked: Asked, where: Place) -> Answer:
    kind = where.kind
    body = document(asked)
    if body.get("kind", kind.name) != kind.name or body.get("apiVersion", kind.api_version) != kind.api_version:
        raise status.bad_request(
            f'{body.get("kind")} in version "{body.get("apiVersion")}" cannot be handled as a {kind.name}'
        )
    found = _decoded(kind, body, asked)
    metadata = found.setdefault("metadata", {})
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = metadata["generateName"] + defaults.suffix()
    if not metadata.get("name"):
        causes = [
            status.Cause("metadata.name", "FieldValueRequired", "Required value: name or generateName is required")
        ]
        raise status.invalid(kind.name, kind.group, "", causes)
    if objects.has(kind, where.namespace, metadata["name"]):
        raise status.exists(kind, metadata["name"])
    found = _stripped(kind, found)
    return 201, added(objects, kind, where.namespace, found, _owner(asked, kind), dry=_dry(asked))


def added(
    objects: Objects, kind: Kind, namespace: str, found: Object, owner: Owner | None = None, *, dry: bool = False
) -> Object:
    """A new object, after all that stands between a request and the store. Raises what the server says against it."""
    _place(kind, namespace, found)
    name = found["metadata"]["name"]
    if kind.namespaced:
        space = objects.get(kinds.NAMESPACE, "", namespace)
        if space is None:
            raise status.not_found(kinds.NAMESPACE, namespace)
        if "deletionTimestamp" in space["metadata"]:
            raise status.terminating(kind, name, namespace)
    if owner is not None and owner.operation != "Apply":
        apply.updated(kind, None, found, owner)
    defaults.fill(kind, found)
    _valid(kind, found, None)
    quotas.admit(objects, kind, namespace, found)
    if dry:
        metadata = found["metadata"]
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": stamp()}
        if has_generation(kind):
            metadata["generation"] = 1
        return found
    return objects.add(kind, found)


def remade(objects: Objects, kind: Kind, live: Object, wanted: Object) -> None:
    """As a controller has it that owns the object: the spec and the labels are what it wants, where they differ."""
    spec = {**live["spec"], **wanted["spec"]}
    made = copied(live) | {"spec": copied(spec)}
    made["metadata"] |= {key: wanted["metadata"][key] for key in ("labels", "ownerReferences")}
    _stored(objects, Place(kind, live["metadata"]["namespace"], live["metadata"]["name"]), live, made, dry=False)


def patch(objects: Objects, asked: Asked, where: Place) -> Answer:
    if asked.content not in _PATCHES:
        raise status.unsupported()
    how = _PATCHES[asked.content]
    if how == "apply":
        return _apply(objects, asked, where)
    live = objects.get(where.kind, where.namespace, where.name)
    if live is None:
        raise status.not_found(where.kind, where.name)
    change = document(asked)
    before = _scale_of(live) if where.subresource == "scale" else live
    after = patches.patched(how, schema.of(where.kind), before, change)
    if where.subresource == "scale":
        return 200, scaled(objects, asked, where, live, after)
    said = after["metadata"].get("resourceVersion")
    if said not in (None, live["metadata"]["resourceVersion"]):
        raise status.modified(where.kind, where.name)
    return 200, _changed(objects, asked, where, live, _decoded(where.kind, after, asked))


def replace(objects: Objects, asked: Asked, where: Place) -> Answer:
    live = objects.get(where.kind, where.namespace, where.name)
    if live is None:
        raise status.not_found(where.kind, where.name)
    body = document(asked)
    _same_name(body, where)
    said = body.get("metadata", {}).get("resourceVersion")
    if said not in (None, "", live["metadata"]["resourceVersion"]):
        raise status.modified(where.kind, where.name)
    if where.subresource == "scale":
        return 200, scaled(objects, asked, where, live, body)
    return 200, _changed(objects, asked, where, live, _decoded(where.kind, body, asked))


def _apply(objects: Objects, asked: Asked, where: Place) -> Answer:
    kind = where.kind
    manager = asked.query.get("fieldManager", "")
    if not manager:
        cause = status.Cause("fieldManager", "FieldValueRequired", "Required value: is required for apply patch")
        raise status.invalid("PatchOptions", "meta.k8s.io", "", [cause])
    config = document(asked)
    _same_name(config, where)
    config.setdefault("metadata", {}).setdefault("name", where.name)
    live = objects.get(kind, where.namespace, where.name)
    if live is None and kind.namespaced and not objects.has(kinds.NAMESPACE, "", where.namespace):
        raise status.not_found(kinds.NAMESPACE, where.namespace)
    apply.checked(kind, config, config["metadata"].get("namespace", ""))
    owner = Owner(manager, "Apply", kind.api_version, where.subresource)
    made = apply.applied(kind, live, config, owner, force=asked.told("force"))
    if live is None:
        return 201, added(objects, kind, where.namespace, made, owner, dry=_dry(asked))
    said = config["metadata"].get("resourceVersion")
    if said not in (None, live["metadata"]["resourceVersion"]):
        raise status.modified(kind, where.name)
    return 200, _stored(objects, where, live, made, dry=_dry(asked))


def _changed(objects: Objects, asked: Asked, where: Place, live: Object, after: Object) -> Object:
    """After any write but an apply."""
    kind = where.kind
    if where.subresource == "status":
        after = live | {"status": after.get("status", {})}
    elif kind.status:
        after = {key: value for key, value in after.items() if key != "status"}
        after |= {"status": live["status"]} if "status" in live else {}
    kept = {
        key: live["metadata"][key]
        for key in ("uid", "creationTimestamp", "generation", "namespace", "name", "deletionTimestamp",
                    "deletionGracePeriodSeconds")
        if key in live["metadata"]
    }  # fmt: skip
    after = copied(after) | {"kind": kind.name, "apiVersion": kind.api_version}
    after["metadata"] = after.get("metadata", {}) | kept
    defaults.fill(kind, after)
    apply.updated(kind, live, after, _owner(asked, kind, where.subresource))
    return _stored(objects, where, live, after, dry=_dry(asked))


def _stored(objects: Objects, where: Place, live: Object, after: Object, *, dry: bool) -> Object:
    kind = where.kind
    _place(kind, where.namespace, after)
    defaults.fill(kind, after)
    _valid(kind, after, live)
    if dry:
        if has_generation(kind) and after.get("spec") != live.get("spec"):
            after["metadata"]["generation"] = live["metadata"]["generation"] + 1
        return after
    stored = objects.put(kind, after)
    metadata = stored["metadata"]
    if "deletionTimestamp" in metadata and not metadata.get("finalizers") and kind not in (kinds.POD, kinds.NAMESPACE):
        objects.remove(kind, where.namespace, where.name)
    return stored


def scaled(objects: Objects, asked: Asked, where: Place, live: Object, after: Object) -> Object:
    replicas = (after.get("spec") or {}).get("replicas", 0)
    owner = _owner(asked, where.kind, "scale")
    return scale_to(objects, where, live, replicas, owner, dry=_dry(asked))


def scale_to(objects: Objects, where: Place, live: Object, replicas: int, owner: Owner, *, dry: bool = False) -> Object:
    made = copied(live)
    made["spec"]["replicas"] = replicas
    apply.updated(where.kind, live, made, owner)
    return _scale_of(_stored(objects, where, live, made, dry=dry))


def _scale_of(found: Object) -> Object:
    metadata = {
        key: found["metadata"][key]
        for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        if key in found["metadata"]
    }
    labels = found["spec"]["selector"].get("matchLabels") or {}
    selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return {
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": found["spec"]["replicas"]},
        "status": {"replicas": found.get("status", {}).get("replicas", 0), "selector": selector},
    }  # fmt: skip


def scale(objects: Objects, where: Place) -> Answer:
    live = objects.get(where.kind, where.namespace, where.name)
    if live is None:
        raise status.not_found(where.kind, where.name)
    return 200, _scale_of(live)


def delete(objects: Objects, asked: Asked, where: Place) -> Answer:
    kind = where.kind
    live = objects.get(kind, where.namespace, where.name)
    if live is None:
        raise status.not_found(kind, where.name)
    options = document(asked) if asked.body else {}
    said = (options.get("preconditions") or {}).get("uid")
    if said not in (None, live["metadata"]["uid"]):
        raise status.modified(kind, where.name)
    policy = options.get("propagationPolicy") or asked.query.get("propagationPolicy", "Background")
    grace = options.get("gracePeriodSeconds", asked.query.get("gracePeriodSeconds"))
    if _dry(asked) or options.get("dryRun"):
        return 200, status.success(kind, where.name, live["metadata"]["uid"])
    last = removed(objects, kind, live, policy, None if grace is None else int(grace))
    if last is not None:
        return 200, last
    return 200, status.success(kind, where.name, live["metadata"]["uid"])


def removed(objects: Objects, kind: Kind, live: Object, policy: str, grace: int | None = None) -> Object | None:
    """Deletes it, or marks it as to be deleted where something has to happen before: the object as it is then."""
    metadata = live["metadata"]
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    wait = 0
    if kind is kinds.POD:
        wait = live["spec"]["terminationGracePeriodSeconds"] if grace is None else grace
        if not live["spec"].get("nodeName") or live["status"].get("phase") in ("Succeeded", "Failed") or wait == 0:
            objects.remove(kind, namespace, name)
            return live
    finalizers = list(metadata.get("finalizers", []))
    for said, finalizer in (("Foreground", "foregroundDeletion"), ("Orphan", "orphan")):
        if policy == said and kind is not kinds.POD and finalizer not in finalizers:
            finalizers.append(finalizer)
    if kind is kinds.NAMESPACE:
        live["status"]["phase"] = "Terminating"
    elif kind is not kinds.POD and not finalizers:
        objects.remove(kind, namespace, name)
        return None
    if "deletionTimestamp" not in metadata:
        metadata["deletionTimestamp"] = stamp()
        if kind is not kinds.NAMESPACE:
            metadata["deletionGracePeriodSeconds"] = wait
    if finalizers:
        metadata["finalizers"] = finalizers
    return objects.put(kind, live)


def delete_all(objects: Objects, asked: Asked, where: Place) -> Answer:
    test = selectors.of(where.kind, asked.query.get("labelSelector", ""), asked.query.get("fieldSelector", ""))
    options = document(asked) if asked.body else {}
    policy = options.get("propagationPolicy") or asked.query.get("propagationPolicy", "Background")
    found = objects.all(where.kind, where.namespace, test)
    for one in found:
        removed(objects, where.kind, copied(one), policy)
    items = [{key: value for key, value in one.items() if key not in ("kind", "apiVersion")} for one in found]
    return 200, {
        "kind": f"{where.kind.name}List", "apiVersion": where.kind.api_version,
        "metadata": {"resourceVersion": str(objects.version)}, "items": items,
    }  # fmt: skip


def _decoded(kind: Kind, body: Object, asked: Asked) -> Object:
    """What the server makes of a body that is no apply: unknown fields are refused, or left out."""
    unknown = schema.unknown(kind, body)
    if unknown and asked.query.get("fieldValidation") == "Strict":
        words = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise _unhandled(kind, f"strict decoding error: {words}")
    if words := schema.bad_quantity(kind, body):
        raise _unhandled(kind, words)
    return schema.known(kind, body) if unknown else copied(body)


def _unhandled(kind: Kind, words: str) -> status.Refused:
    return status.bad_request(f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: {words}')


def _stripped(kind: Kind, found: Object) -> Object:
    """Without what a create cannot set."""
    metadata = {
        key: value
        for key, value in found["metadata"].items()
        if key not in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")
    }
    kept = {key: value for key, value in found.items() if key != "status" or not kind.status}
    return kept | {"metadata": metadata}


def _place(kind: Kind, namespace: str, found: Object) -> None:
    """kind, apiVersion, name and namespace come first, as in the recordings."""
    rest = dict(found)
    metadata = rest.pop("metadata")
    where = {"namespace": namespace} if kind.namespaced else {}
    ordered = {"name": metadata.get("name", "")} | where | metadata
    found.clear()
    found.update({"kind": kind.name, "apiVersion": kind.api_version, "metadata": ordered | where} | rest)
    found["kind"], found["apiVersion"] = kind.name, kind.api_version


def _same_name(body: Object, where: Place) -> None:
    name = body.get("metadata", {}).get("name", where.name)
    if name != where.name:
        raise status.bad_request(f"the name of the object ({name}) does not match the name on the URL ({where.name})")
    namespace = body.get("metadata", {}).get("namespace", where.namespace)
    if where.kind.namespaced and namespace != where.namespace:
        raise status.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )


def _valid(kind: Kind, found: Object, before: Object | None) -> None:
    refusal = validation.refusal(kind, found, before)
    if refusal is not None:
        raise refusal


def _owner(asked: Asked, kind: Kind, subresource: str = "") -> Owner:
    """Without a field manager, the user agent's first word."""
    manager = asked.query.get("fieldManager") or asked.agent.partition("/")[0] or "unknown"
    return Owner(manager, "Update", kind.api_version, subresource)


def _dry(asked: Asked) -> bool:
    return asked.query.get("dryRun") == "All"
