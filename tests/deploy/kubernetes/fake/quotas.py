"""What a namespace's quota has left. Not recorded: the words are those of Kubernetes' documentation and sources."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tests.deploy.kubernetes.fake import kinds, status
from tests.deploy.kubernetes.fake.kinds import Kind, Object
from tests.deploy.kubernetes.fake.objects import Objects
from tests.deploy.kubernetes.fake.validation import quantity

_COUNTED = ("pods", "services", "secrets", "configmaps", "persistentvolumeclaims")


def admit(objects: Objects, kind: Kind, namespace: str, found: Object) -> None:
    """Raises 403 where a quota of the namespace has no room for one more."""
    for quota in objects.all(kinds.QUOTA, namespace):
        hard = quota["spec"]["hard"]
        asked = {name: amount for name, amount in _asked(kind, found).items() if name in hard}
        name = quota["metadata"]["name"]
        if kind is kinds.POD and (silent := _silent(found, hard)):
            raise status.over_quota(kind, _name(found), f"failed quota: {name}: must specify {silent}")
        used = _used(objects, namespace)
        over = [one for one in sorted(asked) if used.get(one, Decimal(0)) + asked[one] > quantity(hard[one])]
        if over:
            words = (
                f"exceeded quota: {name}, requested: {_listed(over, asked)}, "
                f"used: {_listed(over, used)}, limited: {_listed(over, hard)}"
            )
            raise status.over_quota(kind, _name(found), words)


def _name(found: Object) -> str:
    name: str = found["metadata"].get("name", "")
    return name


def _listed(names: list[str], amounts: dict[str, Any]) -> str:
    return ",".join(f"{name}={_shown(amounts.get(name, 0))}" for name in names)


def _shown(amount: Any) -> str:
    if not isinstance(amount, Decimal):
        return str(amount)
    for suffix, size in (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if amount >= size and amount % size == 0:
            return f"{amount / size:f}{suffix}"
    return f"{int(amount)}" if amount == int(amount) else f"{int(amount * 1000)}m"


def _silent(pod: Object, hard: Object) -> str:
    """Resources that the quota counts and a container says nothing of, as the server puts it."""
    found = []
    for one in sorted(hard):
        part, _, resource = one.partition(".")
        if part not in ("requests", "limits") or resource not in ("cpu", "memory"):
            continue
        names = [
            container["name"]
            for container in pod["spec"]["containers"]
            if resource not in container["resources"].get(part, {})
        ]
        if names:
            found.append(f"{one} for: {','.join(names)}")
    return "; ".join(found)


def _asked(kind: Kind, found: Object) -> dict[str, Decimal]:
    asked = {f"count/{kind.qualified}": Decimal(1)}
    if kind.plural in _COUNTED and not kind.group:
        asked[kind.plural] = Decimal(1)
    if kind is kinds.POD:
        for container in found["spec"]["containers"]:
            for part in ("requests", "limits"):
                for resource, amount in container["resources"].get(part, {}).items():
                    name = f"{part}.{resource}"
                    asked[name] = asked.get(name, Decimal(0)) + quantity(amount)
    if kind is kinds.CLAIM:
        asked["requests.storage"] = quantity(found["spec"]["resources"]["requests"]["storage"])
    return asked


def _used(objects: Objects, namespace: str) -> dict[str, Decimal]:
    used: dict[str, Decimal] = {}
    for kind in kinds.KINDS:
        for one in objects.look(kind):
            if one["metadata"].get("namespace") != namespace or one.get("status", {}).get("phase") in (
                "Succeeded",
                "Failed",
            ):
                continue
            for name, amount in _asked(kind, one).items():
                used[name] = used.get(name, Decimal(0)) + amount
    return used
