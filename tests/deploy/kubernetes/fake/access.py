"""Who asks, and what they may. In the recorded words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.deploy.kubernetes.fake import status
from tests.deploy.kubernetes.fake.kinds import Kind

ADMIN, LIMITED = "token-of-admin", "token-of-limited"
_LIMITED_MAY = frozenset({"pods", "pods/log", "configmaps", "services"})
_LIMITED_VERBS = frozenset({"get", "list", "watch"})


@dataclass(slots=True)
class Access:
    """The tokens, and what a test has denied. `verb` and `resource` may be "*"; a subresource is pods/log."""

    users: dict[str, str] = field(default_factory=lambda: {ADMIN: "admin", LIMITED: "limited"})
    denied: set[tuple[str, str, str]] = field(default_factory=set)
    """verb, resource, namespace or "*"."""

    def user(self, authorization: str) -> str:
        if not authorization:
            return "system:anonymous"
        kind, _, token = authorization.partition(" ")
        if kind != "Bearer" or token not in self.users:
            raise status.unauthorized()
        return self.users[token]

    def allowed(self, user: str, verb: str, resource: str, namespace: str) -> bool:
        if user == "system:anonymous":
            return False
        if resource == "selfsubjectaccessreviews":
            return True  # anybody who is known may ask what they may
        if user == "limited" and not (resource in _LIMITED_MAY and verb in _LIMITED_VERBS):
            return False
        return not any(
            denied in (verb, "*") and what in (resource, "*") and where in (namespace, "*")
            for denied, what, where in self.denied
        )

    def check(self, user: str, verb: str, kind: Kind, namespace: str, name: str, subresource: str) -> None:
        resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
        if not self.allowed(user, verb, resource, namespace):
            raise status.forbidden(user, verb, kind, namespace, name, subresource)

    def deny(self, verbs: Iterable[str], resource: str, namespace: str) -> None:
        self.denied |= {(verb, resource, namespace) for verb in verbs}
