"""What of a URL may be shown: user, password and signature are nobody's but the server's. Pure."""

from __future__ import annotations

import re


def shown(source: str) -> str:
    """A path or URL without what is secret in it, for messages, listings and logs; it needs not be a valid one."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        return source
    host, slash, path = re.split(r"([?#])", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
