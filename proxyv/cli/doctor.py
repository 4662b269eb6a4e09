"""What `proxyv doctor` says: what is installed, and whether it goes together."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from importlib.metadata import requires
from typing import Any

from packaging.requirements import Requirement

from proxyv.environment import environment, package_version
from proxyv.results.origin import EnvironmentRecord


@dataclass
class Diagnosis:
    """The environment record, faults that must be fixed, and hints."""

    environment: EnvironmentRecord
    faults: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"environment": self.environment, "faults": self.faults, "hints": self.hints}

    def lines(self) -> list[str]:
        """For people: one fact a line."""
        facts = {**self.environment, **self.environment["versions"]}
        shown = [
            f"{name}: {value if value is not None else '–'}" for name, value in facts.items() if name != "versions"
        ]
        return [*shown, *(f"fault: {fault}" for fault in self.faults), *(f"hint: {hint}" for hint in self.hints)]


def diagnose() -> Diagnosis:
    """Check the versions of the core dependencies against proxyv's ranges, and known traps."""
    report = Diagnosis(environment())
    for line in requires("proxyv") or []:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        found = package_version(need.name)
        if found is None:
            report.faults.append(f"{need.name} is missing; install {need.name}{need.specifier}")
        elif not need.specifier.contains(found, prereleases=True):
            report.faults.append(f"{need.name} {found} does not fit; install {need.name}{need.specifier}")
    if importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            report.faults.append(f"torchvision does not fit torch ({error}); uninstall torchvision, it is not needed")
    if not report.environment["accelerators"]:
        report.hints.append("no GPU found: the tiny recipes run here, full-size ones only as shapes (profile)")
    for extra, package in (("flash", "flash-attn"), ("train", "deepspeed"), ("train", "peft")):
        if package_version(package) is None:
            report.hints.append(f"{package} is absent; needed only for what uses it: pip install 'proxyv[{extra}]'")
    return report
