"""Which cluster is meant, and as whom it is asked: kubeconfig and context, or the account of the pod that this runs in.

The same rules as kubectl's, so what works there works here: KUBECONFIG, ~/.kube/config, exec plugins, certificates,
tokens; `proxy-url` of the kubeconfig, or HTTPS_PROXY and NO_PROXY. Asks no cluster.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelserve.errors import ConfigError

if TYPE_CHECKING:
    from kubernetes.client import Configuration

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is. kubeconfig and context are "" inside a cluster; server: its URL, for people."""

    kubeconfig: str
    context: str
    namespace: str
    server: str

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> Place:
        """From a run's status.cluster."""
        return cls(**{name: str(status.get(name, "")) for name in ("kubeconfig", "context", "namespace", "server")})

    def to_dict(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("kubeconfig", "context", "namespace", "server")}

    @property
    def title(self) -> str:
        """For people: the context's name, and the server's address."""
        return f"{self.context} ({self.server})" if self.context else self.server


def find(kubeconfig: str = "", context: str = "", namespace: str = "") -> tuple[Place, Configuration]:
    """Where these lead, each "" for what the environment says. Raises ConfigError."""
    check_installed()
    from kubernetes.client import Configuration

    configuration = Configuration()  # its own defaults, whatever the user's program has made the library's
    file = kubeconfig or _default_file()
    if not file:
        if context:
            raise ConfigError(f"context is {context!r}, and there is no kubeconfig that has it; set KUBECONFIG")
        own = _account(configuration)
        return Place("", "", namespace or own, configuration.host), configuration
    name, own = _context(file, context, configuration)
    return Place(file, name, namespace or own or _DEFAULT_NAMESPACE, configuration.host), configuration


def check_installed() -> None:
    """Raises ConfigError without the client library."""
    try:
        import kubernetes  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "Kubernetes needs a library that is not installed; run: pip install 'modelserve[kubernetes]'"
        ) from error


def _default_file() -> str:
    """Absolute, since another process of another directory may look at the run next; "" where there is none."""
    if said := os.environ.get("KUBECONFIG"):
        return os.pathsep.join(str(Path(one).expanduser().absolute()) for one in said.split(os.pathsep) if one)
    usual = Path("~/.kube/config").expanduser()
    return str(usual) if usual.is_file() else ""


def _context(file: str, context: str, configuration: Configuration) -> tuple[str, str]:
    """Its name and its namespace; the configuration gets the rest. Raises ConfigError."""
    from kubernetes.config import ConfigException, list_kube_config_contexts, load_kube_config

    if not any(Path(one).expanduser().is_file() for one in file.split(os.pathsep)):
        raise ConfigError(f"kubeconfig is {file!r}, where there is no file; give one, or set KUBECONFIG")
    try:
        known, current = list_kube_config_contexts(file)
        names = {str(one["name"]): one for one in known}
        chosen = context or _current(file) or str(current["name"])
        if chosen not in names:
            raise ConfigError(f"context is {chosen!r}; {file} has {', '.join(sorted(names)) or 'none'}")
        load_kube_config(file, chosen, configuration, persist_config=False)
    except ConfigError:
        raise
    except (ConfigException, KeyError, TypeError, ValueError, OSError) as error:
        raise ConfigError(f"the kubeconfig {file} cannot be used: {_said(error)}") from error
    except Exception as error:  # a broken file: YAML's errors, and whatever the loader stumbles over
        raise ConfigError(f"the kubeconfig {file} cannot be read ({type(error).__name__}): {_said(error)}") from error
    return chosen, str((names[chosen].get("context") or {}).get("namespace") or "")


def _current(file: str) -> str:
    """Of several files the first that says one, as kubectl has it; the library takes the last. Raises YAML's errors."""
    import yaml

    for one in file.split(os.pathsep):
        if one and (path := Path(one).expanduser()).is_file():
            said = yaml.safe_load(path.read_text(encoding="utf-8"))
            if isinstance(said, dict) and said.get("current-context"):
                return str(said["current-context"])
    return ""


def _account(configuration: Configuration) -> str:
    """The namespace of the pod that this runs in; the configuration gets its account. Raises ConfigError."""
    from kubernetes.config import ConfigException, load_incluster_config

    try:
        load_incluster_config(configuration)
        return (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip() or _DEFAULT_NAMESPACE
    except (ConfigException, OSError) as error:
        raise ConfigError(
            "no cluster is configured: there is no ~/.kube/config, KUBECONFIG is not set, and this is no pod with an "
            f"account ({_said(error)}); set KUBECONFIG, or give kubeconfig="
        ) from error


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
