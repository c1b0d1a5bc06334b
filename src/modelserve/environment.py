"""The process environment: which MODELSERVE_ variables are whose, and what is set before libraries are imported.

Knows no parameter; `modelserve.flags` reads those. Runs on the main thread, at start.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

PREFIX = "MODELSERVE_"
PORTS_FILE = PREFIX + "PORTS_FILE"
"""Where a server writes the ports that it took."""
PARENT_FD = PREFIX + "PARENT_FD"
"""The read end of a pipe of the process that keeps a server (parent.py)."""

_RESERVED = re.compile(PREFIX + r"(HOME|TARGET|STORE_URL|SECRET_KEY|PORTS_FILE|PARENT_FD|LOCK_FD|TEST_\w+|WORKER_\w+)")
"""Variables that are no parameter: the SDK's and the store's, the tests', and those between processes of one run."""

_SERVICE_LINK = re.compile(PREFIX + r"(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")


def is_reserved(variable: str, value: str) -> bool:
    """Whether a MODELSERVE_ variable is not a parameter, and rightly so.

    Kubernetes gives each pod variables named after the services of its namespace: a service `modelserve-http` sets
    MODELSERVE_HTTP_PORT to tcp://10.0.0.7:8080, which is nobody's wish for a port.
    """
    if variable.startswith(PREFIX) and variable.endswith("_PORT") and _SERVICE_URL.match(value):
        return True
    return bool(_RESERVED.fullmatch(variable) or _SERVICE_LINK.fullmatch(variable))


def home() -> Path:
    """Where modelserve keeps what outlives a process: $MODELSERVE_HOME, else ~/.modelserve."""
    return Path(os.environ.get(PREFIX + "HOME") or Path.home() / ".modelserve").expanduser().absolute()


def environment_defaults(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set what the libraries read when they are imported, unless it is set already. Call it before importing them."""
    environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Set because KServe's runtime documents it. safetensors has not read it since 2023: it always takes the fast way.
    environ.setdefault("SAFETENSORS_FAST_GPU", "1")
    # How long a thread of PyTorch's pool (libgomp) spins at a barrier before it sleeps: some 60 microseconds, over the
    # time between two operations of a small pass, since to wake a thread takes longer, and more CPU than to spin.
    # MiniLM's pass over 16 tokens takes 9 ms so, 11.9 ms without; over 64, 15.5 and 19.0, for the same CPU. Five times
    # as long gains 2 % more. Without a bound it spins for as long as its partner is not scheduled, and a busy neighbour
    # made a pass cost three times the CPU. libgomp spins only while it has no more threads than there are cores,
    # whoever uses them: who loads a model does it in a thread that ends, and of the streams only the first computes on
    # several cores.
    environ.setdefault("GOMP_SPINCOUNT", "20000")
    # MKL keeps each thread's scratch memory for its next product: 15 to 25 MiB for MiniLM, and no time was seen for it.
    environ.setdefault("MKL_DISABLE_FAST_MM", "1")
    # The runtime tokenises on its own pool of threads; tokenizers' own pool beside it would fight for the same cores.
    environ.setdefault("TOKENIZERS_PARALLELISM", "false")
