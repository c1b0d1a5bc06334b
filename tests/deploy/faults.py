"""Servers that fail as a test wants, at the moment when they import a library: `envs=faulty(tmp_path, …)`; and servers
that end when they ask the network for something.

A real `modelserve serve`, with a sitecustomize.py on its PYTHONPATH; nothing of modelserve is replaced.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

_SITE = """
import os, signal, subprocess, sys, time

class Fault:
    def find_spec(self, name, path=None, target=None):
        if name != {library!r}:
            return None
        print("the fault that was asked for: {fault}", flush=True)
        if {fault!r} == "sleep":
            time.sleep(1000)
        elif {fault!r} == "have a child":
            subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1000)"], start_new_session=True)
            return None
        elif {fault!r} == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            block = bytearray(2**30)

sys.meta_path.insert(0, Fault())
"""


def faulty(
    directory: Path, fault: Literal["sleep", "kill", "have a child", "take memory"], library: str = "torch"
) -> list[dict[str, str]]:
    """The run's envs. torch is imported when the model is loaded, on a thread; the ports are open by then."""
    return _envs(directory, _SITE.format(fault=fault, library=library))


_ALONE = """
import os, socket, sys

def refuse(event, arguments):
    asks = event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")
    if asks or event == "socket.connect" and arguments[0].family != socket.AF_UNIX:
        print(f"the network was asked: {event} {arguments}", flush=True)
        os._exit(70)

sys.addaudithook(refuse)
"""


def alone(directory: Path) -> list[dict[str, str]]:
    """The run's envs. What the server answers is no question, so it goes on."""
    return _envs(directory, _ALONE)


def _envs(directory: Path, site: str) -> list[dict[str, str]]:
    (directory / "sitecustomize.py").write_text(site)
    path = filter(None, (str(directory), os.environ.get("PYTHONPATH")))
    return [{"name": "PYTHONPATH", "value": os.pathsep.join(path)}]
