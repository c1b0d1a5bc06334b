"""YAML that means the same to every parser."""

from __future__ import annotations

import re
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from modelserve.deploy.manifests.text import as_yaml
from tests.deploy.manifests.made import made

LIKE = r"[-+]?[0-9_.]{1,4}([eE][-+]?[0-9]{1,2})?|0[xob][0-9a-f]+|yes|no|on|off|null|~"
TEXT = st.text() | st.from_regex(LIKE, fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda one: st.lists(one, max_size=4) | st.dictionaries(TEXT, one, max_size=4),
    max_leaves=12,
)
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+|[-+]?\.(inf|nan)")
"""YAML 1.2's: what kubectl reads, and PyYAML does not."""


@given(documents=st.lists(st.dictionaries(TEXT, JSON, min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_is_written_is_read_again(documents: list[dict[str, Any]]) -> None:
    assert list(yaml.safe_load_all(as_yaml(documents))) == documents


@given(text=TEXT)
def test_no_text_looks_like_a_number_of_yaml_1_2(text: str) -> None:
    _, token = [one for one in yaml.scan(as_yaml([{"a": text}])) if isinstance(one, yaml.ScalarToken)]
    assert not (token.plain and _NUMBER.fullmatch(token.value))


def test_a_text_that_only_kubectl_takes_for_a_number() -> None:
    assert as_yaml([{"a": "1e3", "b": "2Gi", "c": 1, "d": "yes", "e": "x\ny\n"}]) == (
        '---\na: "1e3"\nb: "2Gi"\nc: 1\nd: \'yes\'\ne: |\n  x\n  y\n'
    )


def test_manifests_are_documents_without_anchors() -> None:
    found = made(model_cache="1Gi", labels={"a": "1e3"}, values={"A": "b"})
    text = as_yaml(found)
    assert list(yaml.safe_load_all(text)) == found
    assert not re.search(r"(^|\s)[&*]\w", text)
