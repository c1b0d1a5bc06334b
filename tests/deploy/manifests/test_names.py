"""Names: whatever users call their things, Kubernetes takes it, and no two are the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserve.deploy.manifests.names import LONGEST, dns_label, label_value, resource_name

SLUG = st.from_regex(r"[A-Za-z0-9._+-]{1,256}", fullmatch=True)
ID = st.uuids().map(lambda one: one.hex) | SLUG
_DNS = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@given(project=SLUG, function=SLUG | st.text(), id=ID)
def test_a_resource_name_is_a_service_name(project: str, function: str, id: str) -> None:
    name = resource_name(project, function, id)
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name + "-predictor") <= LONGEST


@given(one=st.tuples(SLUG, SLUG, ID), other=st.tuples(SLUG, SLUG, ID))
def test_two_runs_never_share_one(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    same = (one[0], one[2]) == (other[0], other[2]) or one[2][:12] == other[2][:12]
    assert same or resource_name(*one) != resource_name(*other)


@given(text=st.text())
def test_a_dns_label(text: str) -> None:
    assert _DNS.fullmatch(dns_label(text))
    assert dns_label(dns_label(text)) == dns_label(text)


@given(text=st.text() | SLUG)
def test_a_label_value(text: str) -> None:
    assert re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", label_value(text))


@given(one=st.text(max_size=80), other=st.text(max_size=80))
def test_what_differs_stays_different(one: str, other: str) -> None:
    assert one == other or dns_label(one) != dns_label(other)
    assert one == other or label_value(one) != label_value(other)


@pytest.mark.parametrize(
    ("function", "id", "name"),
    [
        ("bert", "4332253c092e4f7d8a1b2c3d4e5f6071", "bert-4332253c092e"),
        ("My_Model.v2", "4332253c092e4f7d8a1b2c3d4e5f6071", "my-model-v2-4332253c092e"),
        ("7b", "4332253c092e4f7d8a1b2c3d4e5f6071", "m-7b-4332253c092e"),
        ("+++", "4332253c092e4f7d8a1b2c3d4e5f6071", "m-4332253c092e"),
        ("x" * 200, "4332253c092e4f7d8a1b2c3d4e5f6071", "x" * 36 + "-4332253c092e"),
    ],
)
def test_a_person_sees_the_function_and_the_run(function: str, id: str, name: str) -> None:
    assert resource_name("demo", function, id) == name


def test_what_dhs_rule_made_one_stays_two() -> None:
    """my_model and mymodel had one name, and names over 62 characters were refused."""
    assert dns_label("my_model") != dns_label("mymodel")
    assert dns_label("mymodel") == "mymodel"
    assert label_value("a" * 64) != label_value("a" * 65)
