"""Names that Kubernetes takes, for whatever users call their things: unique, and where they must be, shortened.

What was shortened or changed ends in a hash. No name is ever refused here. Pure.
"""

from __future__ import annotations

import re
from hashlib import sha256

LONGEST = 63
"""Characters of a DNS label, and of a label's value."""
_STEM = 36
"""Characters that a function's name keeps. KServe puts "-predictor" behind the whole, still one DNS label."""
_ID = 12
"""Of a run's id, as `modelserve runs` shows it."""
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?")
_NEW_ID = re.compile(r"[0-9a-f]{32}")


def resource_name(project: str, function: str, id: str) -> str:
    """What the objects of a run are called: the function's name, for people, and what tells it from other runs.

    It begins with a letter, as a Service's name must on clusters before 1.34.
    """
    stem = _slug(function)[:_STEM].strip("-")
    if not stem[:1].isalpha():
        stem = f"m-{stem}"[:_STEM].rstrip("-")
    return f"{stem}-{id[:_ID] if _NEW_ID.fullmatch(id) else _hash(f'{project}/{id}', _ID)}"


def behind(name: str) -> str:
    """What the objects of the Triton behind a run are called; name: the run's."""
    return f"{name}-triton"


def is_behind(name: str) -> bool:
    """Whether an object is one of these; what the run's own are called ends in twelve digits of its id."""
    return name.endswith("-triton")


def dns_label(text: str) -> str:
    """The text itself where it is one, else one that no other text gives."""
    if len(text) <= LONGEST and _DNS_LABEL.fullmatch(text):
        return text
    return _with_hash(_slug(text), text)


def label_value(text: str) -> str:
    """The text itself where it may be a label's value, else one that no other text gives."""
    if len(text) <= LONGEST and _LABEL_VALUE.fullmatch(text):
        return text
    return _with_hash(re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-"), text)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _with_hash(stem: str, text: str) -> str:
    end = _hash(text, 8)
    return f"{stem[: LONGEST - len(end) - 1]}-{end}".lstrip("._-")


def _hash(text: str, length: int) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()[:length]
