"""Profiles: YAML files of defaults that an administrator leaves in one directory, and `profile=` names.

One mapping of parameters is enough. The recorded form has several documents: the one with `id:` is the profile; those
with a `kind:` (Deployment, Service, …) are bases for Kubernetes' objects, kept for that
target; others mean nothing. Each call reads the file anew, so no run sees what another did with it. Knows no run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelserve.deploy import parameters, shapes
from modelserve.deploy.home import profiles_directory
from modelserve.errors import ConfigError

_TEMPLATES = ("labels", "service_ports", "gpu_key")
_NOT_DEFAULTS = ("id", "name", "description", *_TEMPLATES)
TEMPLATE = "profile_template"
"""Key of the sealed spec under which what only Kubernetes reads of a profile is kept."""


def load(name: str) -> dict[str, Any]:
    """The profile's defaults as a spec keeps them. Raises ConfigError for a name or a file that is none."""
    directory = profiles_directory()
    files = sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]) if directory.is_dir() else []
    names = []
    for file in files:
        try:
            documents = _documents(file)
        except ConfigError:
            if name == file.stem:
                raise
            names.append(f"{file.stem} (which cannot be read)")  # somebody else's, and no reason to refuse this one
            continue
        profile = next((one for one in documents if "id" in one), None)
        profile = profile or next((one for one in documents if "kind" not in one), None)
        id = str(profile.get("id", file.stem)) if profile else file.stem
        if name in (id, file.stem):
            return _defaults(name, file, profile, [one for one in documents if one is not profile])
        names.append(id)
    known = f"there are {', '.join(names)}" if names else "there are none"
    raise ConfigError(f"profile is {name!r}; {known} (a file in MODELSERVE_HOME/profiles each)")


def _documents(file: Path) -> list[Mapping[str, Any]]:
    import yaml

    try:
        documents = [one for one in yaml.safe_load_all(file.read_text(encoding="utf-8")) if one is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the profile {file.name} cannot be read: {' '.join(str(error).split())}") from error
    for one in documents:
        if not isinstance(one, Mapping):
            raise ConfigError(f"the profile {file.name} has a document that is no mapping: {one!r}")
    return documents


def _defaults(
    name: str, file: Path, profile: Mapping[str, Any] | None, bases: list[Mapping[str, Any]]
) -> dict[str, Any]:
    if profile is None:
        raise ConfigError(f"the profile {file.name} has no document of defaults, only bases with a kind")
    said = {shapes.snake(str(key)): value for key, value in profile.items() if value not in (None, {}, [], "")}
    given = {key: value for key, value in said.items() if key not in _NOT_DEFAULTS}
    if "profile" in given:
        raise ConfigError(f"the profile {file.name} names another profile; profiles do not build on each other")
    try:
        defaults = parameters.read(given, on="task")
    except ConfigError as error:
        raise ConfigError(f"the profile {name}: {error.message}") from error
    rest: dict[str, Any] = {key: said[key] for key in _TEMPLATES if key in said}
    if bases := [one for one in bases if "kind" in one]:
        rest["bases"] = [dict(one) for one in bases]
    return defaults | ({TEMPLATE: rest} if rest else {})
