"""Manifests as YAML, which means the same to whatever parser reads it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

_LIKE_A_NUMBER = re.compile(r"[-+.]?[0-9]|[-+]?\.")
"""kubectl's parser takes 1e3 for a number, PyYAML for a text: whatever begins as a number does is quoted."""


def as_yaml(manifests: Sequence[dict[str, Any]]) -> str:
    """One document each, keys in our order."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
        def ignore_aliases(self, data: Any) -> bool:
            return True

    Dumper.add_representer(str, _text)
    text: str = yaml.dump_all(
        manifests, Dumper=Dumper, sort_keys=False, allow_unicode=True, explicit_start=True, width=120
    )
    return text


def _text(dumper: yaml.SafeDumper, text: str) -> Any:
    plain = text.isprintable() and not _LIKE_A_NUMBER.match(text)
    style = None if plain else "|" if _is_of_lines(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_of_lines(text: str) -> bool:
    """Whether a block shows it as it is."""
    lines = text.split("\n")
    return len(lines) > 1 and lines[0][:1] not in ("", " ") and all(one.isprintable() for one in lines)
