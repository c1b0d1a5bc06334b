"""Kubernetes quantities, "500m", "2", 0.5, "1.5Gi", as exact numbers. Pure; knows no resource but cpu and memory."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from modelserve.errors import ConfigError

_QUANTITY = re.compile(r"\+?(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?")
"""apimachinery's resource.Quantity, without the negative ones, which are no amount of anything."""

_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def is_quantity(value: object) -> bool:
    """Whether it is one: a text such as "1.5Gi", or a number that is neither negative nor infinite."""
    return amount(value) is not None


def cores(value: object) -> Fraction:
    """An amount of cpu in cores: "500m" is 1/2. Raises ConfigError."""
    found = amount(value)
    if not found:  # 0 cores are as wrong as no quantity
        raise ConfigError(f'cpu is {value!r}; it must be a quantity above 0, in cores, such as 2 or "500m"')
    return found


def memory_bytes(value: object) -> int:
    """An amount of memory in bytes, rounded up. Raises ConfigError."""
    found = amount(value)
    if found is None or found < 1:
        meant = " (m is a thousandth; M is a million bytes)" if str(value).endswith("m") else ""
        raise ConfigError(
            f'memory is {value!r}{meant}; it must be a quantity of at least one byte, such as "512Mi" or "1.5Gi"'
        )
    return math.ceil(found)


def amount(value: object) -> Fraction | None:
    """The number that it says, 0 included; None where it is no quantity."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    found = _QUANTITY.fullmatch(str(value).strip())
    if found is None:
        return None
    number, suffix = Fraction(found["number"]), found["suffix"] or ""
    if suffix in _BINARY:
        return number * int(2 ** _BINARY[suffix])
    power = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
    scale: Fraction = Fraction(10) ** power  # mypy's stubs leave a negative power open
    return number * scale
