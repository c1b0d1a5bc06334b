"""Every command of runs, under the headings of `modelserve --help`, in its order."""

from __future__ import annotations

import click

from modelserve.commands.change import scale, update
from modelserve.commands.completion import completion
from modelserve.commands.convert import convert
from modelserve.commands.export import export
from modelserve.commands.functions import functions
from modelserve.commands.invoke import invoke
from modelserve.commands.logs import logs
from modelserve.commands.manifest import manifest
from modelserve.commands.run import run
from modelserve.commands.runs import resume, rm, runs, stop, wait
from modelserve.commands.secrets import secrets
from modelserve.commands.supervise import supervise
from modelserve.commands.verify import verify

SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Runs": (run, runs, logs, invoke, wait, stop, resume, rm),
    "What runs are made of": (functions, secrets),
    "Kubernetes": (manifest, scale, update),
    "Models": (convert, export, verify),
    "Shell": (completion,),
    "": (supervise,),
}
"""What has no heading is hidden."""
