"""Server-side apply, and who owns which field after any other write. Pure: objects in, objects out.

After structured-merge-diff, which real servers use: what is applied is merged into what is there, what the manager had
applied before and has left out goes unless another owns it, and a change of what another owns is a conflict. Not kept:
the fields that the cluster's own controllers own, but for a scale.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.deploy.kubernetes.fake import fields, schema, status
from tests.deploy.kubernetes.fake.fields import Fields
from tests.deploy.kubernetes.fake.kinds import Kind, Object
from tests.deploy.kubernetes.fake.objects import copied, stamp
from tests.deploy.kubernetes.fake.schema import Node


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has written: one entry of managedFields."""

    manager: str
    operation: str
    api_version: str
    subresource: str = ""

    def __str__(self) -> str:
        """As conflicts name it."""
        said = json.dumps(self.manager)
        if self.subresource:
            said += f" with subresource {json.dumps(self.subresource)}"
        return f"{said} using {self.api_version}" if self.operation == "Update" else said


Owned = dict[Owner, Fields]


def owned(found: Object) -> Owned:
    """Of an object's managedFields."""
    return {
        Owner(one["manager"], one["operation"], one["apiVersion"], one.get("subresource", "")): fields.decode(
            one.get("fieldsV1", {})
        )
        for one in found["metadata"].get("managedFields", [])
    }


def write_owned(found: Object, owners: Owned, before: Object | None) -> None:
    """An entry whose fields are the same keeps its time."""
    known = {}
    for one in (before or {}).get("metadata", {}).get("managedFields", []):
        known[one["manager"], one["operation"], one.get("subresource", "")] = one
    entries = []
    for owner, members in owners.items():
        if not members:
            continue
        entry: Object = {
            "manager": owner.manager, "operation": owner.operation, "apiVersion": owner.api_version, "time": stamp(),
            "fieldsType": "FieldsV1", "fieldsV1": fields.encode(members),
        }  # fmt: skip
        if owner.subresource:
            entry["subresource"] = owner.subresource
        last = known.get((owner.manager, owner.operation, owner.subresource))
        entries.append(last if last and last["fieldsV1"] == entry["fieldsV1"] else entry)
    found["metadata"].pop("managedFields", None)
    if entries:
        found["metadata"]["managedFields"] = entries


def checked(kind: Kind, config: Object, namespace_said: str) -> None:
    """Raises what a server says of fields that it does not know, or of a bad quantity: 500, the user's mistake."""
    about = f"({namespace_said}/{config['metadata']['name']}; {kind.api_version}, Kind={kind.name})"
    faults = [f"{path}: {words}" for path, words in schema.typed(kind, config)]
    if faults:
        said = faults[0] if len(faults) == 1 else "\n  ".join(["errors:", *faults])
        raise status.failure(500, f"failed to create typed patch object {about}: {said}")
    if words := schema.bad_quantity(kind, config):
        message = (
            f"failed to convert new object {about} to proper version: unable to convert unstructured object to "
            f"{kind.api_version}, Kind={kind.name}: {words}"
        )
        raise status.failure(500, message)


def applied(kind: Kind, live: Object | None, config: Object, owner: Owner, *, force: bool) -> Object:
    """What is there after the apply, its managedFields included; not defaulted. Raises the conflicts."""
    node = schema.of(kind)
    config = {key: value for key, value in config.items() if key != "status" or owner.subresource == "status"}
    mine = fields.of(node, config)
    if live is None:
        made = copied(config)
        write_owned(made, {owner: mine}, None)
        return made
    owners = owned(live)
    last = owners.get(owner, frozenset())
    merged = _merged(node, live, config)
    owners[owner] = mine
    merged = _pruned(node, merged, last, owners)
    changes = fields.compare(node, live, merged)
    changed = changes.modified | changes.added
    found = [(str(other), path) for other, members in owners.items() if other != owner for path in members & changed]
    if found and not force:
        raise status.conflicts([(name, fields.shown(path)) for name, path in sorted(found)])
    for other, members in owners.items():
        if other != owner:
            owners[other] = members - changed - changes.removed
    write_owned(merged, owners, live)
    return merged


def updated(kind: Kind, live: Object | None, after: Object, owner: Owner) -> None:
    """Writes into `after` who owns what, when `owner` has changed or made it by any means but apply."""
    node = schema.of(kind)
    owners = owned(live) if live is not None else {}
    changes = fields.compare(node, live if live is not None else {}, after)
    changed = frozenset(changes.modified | changes.added)
    gone = frozenset(changes.removed)
    for other, members in owners.items():
        owners[other] = members - gone - (changed if other != owner else frozenset())
    owners[owner] = (owners.get(owner, frozenset()) | changed) - gone
    write_owned(after, owners, live)


def _merged(node: Node, live: Any, config: Any) -> Any:
    if isinstance(live, dict) and isinstance(config, dict) and not node.map_atomic:
        found = copied(live)
        for name, one in config.items():
            child = node.field(name) or Node({})
            found[name] = _merged(child, live[name], one) if name in live else copied(one)
        return found
    if isinstance(live, list) and isinstance(config, list) and (node.keys or node.set):
        old, new = fields.items_by_key(node, live), fields.items_by_key(node, config)
        both = {name: _merged(node.items, one, new[name]) if name in new else one for name, one in old.items()}
        # The order is the applied one's; what only others have comes where it was, after what precedes it.
        order = list(new)
        for position, name in enumerate(old):
            if name not in new:
                order.insert(min(position, len(order)), name)
        return [copied(both.get(name, new.get(name))) for name in order]
    return copied(config)


def _pruned(node: Node, merged: Object, last: Fields, owners: Owned) -> Object:
    """Without what the manager had applied and nobody owns any more."""
    kept = fields.parents(path for members in owners.values() for path in members)
    gone = {path for path in fields.parents(last) if path not in kept}
    # The revision of a deployment is its controller's, who is not among the owners here.
    notes = ("f:metadata", "f:annotations")
    found: Object = fields.without(node, merged, gone - {notes})
    if notes in gone and not found["metadata"].get("annotations"):
        found["metadata"].pop("annotations", None)
    return found
