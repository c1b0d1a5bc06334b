"""A task: the parameters that the runs of one function and action share. Made once for each; a run's own win."""

from __future__ import annotations

from typing import Any

from modelserve.deploy import parameters
from modelserve.deploy.entity import Entity
from modelserve.deploy.record import Record, new_id, now


class Task(Entity):
    """One task. Its spec can be changed; a run that exists keeps what it was started with."""

    @property
    def action(self) -> str:
        return self.kind.rpartition("+")[2]

    def update(self, **spec: Any) -> Task:
        """Set these parameters; None takes one out again. Raises ConfigError."""
        read = parameters.read(spec, on="task")
        given = {parameters.kept_name(name) for name in spec}

        def updated(record: Record) -> Record:
            merged = {name: value for name, value in record.spec.items() if name not in given} | read
            parameters.server_config(merged)  # that they do not contradict each other
            return record.replace(spec=merged, metadata=record.metadata | {"updated": now()})

        self._record = self._store.change("task", self.project, self.id, updated)
        return self

    def delete(self) -> None:
        """Remove it; its runs stay."""
        self._store.delete("task", self.project, self.id)

    def _facts(self) -> dict[str, Any]:
        own = {name: value for name, value in self._record.spec.items() if name != "function"}
        return {"action": self.action, "function": self._record.spec.get("function"), "parameters": own}


def new_record(project: str, kind: str, action: str, function: str, spec: dict[str, Any]) -> Record:
    """kind: the function's; function: its reference string."""
    id, time = new_id(), now()
    return Record(
        project=project,
        type="task",
        kind=f"{kind}+{action}",
        name=id,
        id=id,
        metadata={"created": time, "updated": time},
        spec={"function": function, **spec},
        status={"state": "CREATED"},
    )
