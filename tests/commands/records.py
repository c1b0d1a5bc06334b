"""Runs that nothing serves: READY ones that nobody has begun yet, which count as alive for some seconds."""

from __future__ import annotations

from modelserve.deploy import catalog
from modelserve.deploy.record import Record, new_id, now, transition
from modelserve.deploy.run import Run


def ready(name: str, project: str = "default", id: str | None = None) -> Run:
    id = id or new_id()
    record = Record(
        project=project,
        type="run",
        kind="huggingfaceserve+serve:run",
        name=id,
        id=id,
        metadata={"created": now(), "updated": now()},
        spec={
            "function": f"huggingfaceserve://{project}/{name}:1",
            "task": f"huggingfaceserve+serve://{project}/t",
            "action": "serve",
            "target": "local",
            "path": "/nowhere",
            "model_name": "model",
        },
    )
    for state in ("CREATED", "BUILT", "READY"):
        record = transition(record, state)
    return Run(catalog.store().create(record), catalog.store())
