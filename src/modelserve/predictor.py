"""What the remote predictor's flags say in a text: its address, and the tensors that are sent to it.

Pure functions; knows no connection.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from modelserve.errors import ConfigError

TENSORS = ("input_ids", "attention_mask", "token_type_ids")
"""What can be sent of a text: [texts, tokens] integers each, by transformers' names."""

_ADDRESS = re.compile(
    r"(\[[0-9a-fA-F:.%]+\]|\$\(\w+\)|[A-Za-z0-9_][\w-]*(?:\.[A-Za-z0-9_][\w-]*)*\.?)(?::(\d{1,5}))?", re.ASCII
)
"""$(NAME) is a host that Kubernetes writes there (deploy/manifests)."""


def address(host: str, *, ssl: bool) -> tuple[str, int]:
    """Host (an IPv6 one in brackets) and port of --predictor_host; 443 with TLS and 80 without where it has no port.

    Raises ConfigError.
    """
    found = _ADDRESS.fullmatch(host)
    port = int(found[2]) if found and found[2] else 443 if ssl else 80
    if found is None or not 0 < port < 65536:
        raise ConfigError(
            f"predictor_host is {host!r}; it must be host:port, without a scheme (--predictor_use_ssl is for TLS) "
            "and without a path"
        )
    return found[1], port


def sent_as(names: Sequence[str]) -> dict[str, str]:
    """--tensor_input_names as a mapping of TENSORS to their names at the remote; empty when none are given.

    Raises ConfigError.
    """
    found: dict[str, str] = {}
    for name in names:
        ours, separator, theirs = (part.strip() for part in name.partition("="))
        if ours not in TENSORS or ours in found or (separator and not theirs):
            raise ConfigError(
                f"tensor_input_names has {name!r}; each must be another one of {', '.join(TENSORS)}, or "
                "input_ids=INPUT__0 where it has another name at the remote predictor"
            )
        found[ours] = theirs or ours
    if found and "input_ids" not in found:
        raise ConfigError(f"tensor_input_names is {','.join(names)!r}; input_ids must be among them")
    return found
