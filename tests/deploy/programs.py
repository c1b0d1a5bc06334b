"""Small programs that tests run beside themselves, on one store, and end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

BEGIN = 'print("ready", flush=True); sys.stdin.readline()\n'
"""In a program: wait until all are there."""


@contextlib.contextmanager
def program(source: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A running Python program, with pipes; it is killed when the block is left."""
    process = subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def run_at_once(source: str, each: list[tuple[str, ...]], **environment: str) -> list[str]:
    """What each printed after BEGIN, for one program per row of arguments, all begun at the same moment."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(program(source, *arguments, **environment)) for arguments in each]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = []
        for process in processes:
            output, errors = process.communicate(timeout=90)
            assert (process.returncode, errors) == (0, ""), errors
            outputs.append(output)
        return outputs
