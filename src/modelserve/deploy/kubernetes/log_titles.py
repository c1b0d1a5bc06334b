"""What is written before a line of a log, so that one sees which pod it is of. Pure."""

from __future__ import annotations


class Titles:
    """The end of the pod's name, which the cluster has drawn, and a bar: "x7k2p | ". The whole name if two end alike.
    A pod keeps its title."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, pod: str) -> None:
        if pod not in self._names:
            end = pod.rpartition("-")[2]
            self._names[pod] = pod if end in self._names.values() else end

    def of(self, pod: str) -> str:
        """Nothing as long as no other pod has been added."""
        return f"{self._names[pod]} | " if len(self._names) > 1 else ""
