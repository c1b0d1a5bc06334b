"""Kubernetes quantities: every suffix, exact, and what is none."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from modelserve.deploy.quantity import cores, is_quantity, memory_bytes
from modelserve.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("500m", Fraction(1, 2)),
        ("2", Fraction(2)),
        (2, Fraction(2)),
        (0.5, Fraction(1, 2)),
        ("0.1", Fraction(1, 10)),
        (".5", Fraction(1, 2)),
        ("1.", Fraction(1)),
        ("+1", Fraction(1)),
        (" 1 ", Fraction(1)),
        ("250000u", Fraction(1, 4)),
        ("1e-1", Fraction(1, 10)),
        (1e-05, Fraction(1, 100_000)),
    ],
)
def test_cores(value: Any, expected: Fraction) -> None:
    assert cores(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.5Gi", 3 * 2**29),
        ("512M", 512_000_000),
        ("512Mi", 512 * 2**20),
        ("1Ki", 1024),
        ("1k", 1000),
        ("1Ei", 2**60),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1E3", 1000),
        (2**31, 2**31),
        ("1000m", 1),
        ("1500m", 2),
    ],
)
def test_memory(value: Any, expected: int) -> None:
    assert memory_bytes(value) == expected


@pytest.mark.parametrize(
    "value",
    ["", "Gi", "1 Gi", "1gi", "1K", "1GB", "-1", "1.2.3", "1e999", "inf", "nan", "٣", True, None, float("nan"), [1]],
)
def test_what_is_no_quantity(value: Any) -> None:
    assert not is_quantity(value)
    with pytest.raises(ConfigError, match=r"cpu is .* it must be a quantity"):
        cores(value)
    with pytest.raises(ConfigError, match=r"memory is .* it must be a quantity"):
        memory_bytes(value)


def test_a_thousandth_of_a_byte_is_a_mistake_that_is_explained() -> None:
    assert is_quantity("512m")
    with pytest.raises(ConfigError, match=r"'512m' .m is a thousandth; M is a million bytes"):
        memory_bytes("512m")
    with pytest.raises(ConfigError, match="above 0"):
        cores("0")
