"""What a stage learns: one objective a file, looked up by the stage's `objective`.

Add one: a subclass of `Objective` (objective.py) in a file of its own, and its place in `OBJECTIVES` below.
"""

from __future__ import annotations

from proxyv.config import StageSpec
from proxyv.data.objectives.language_modeling import LanguageModeling
from proxyv.data.objectives.objective import Objective
from proxyv.data.objectives.patch_classification import PatchClassification
from proxyv.errors import UserError, suggest

__all__ = ["OBJECTIVES", "Objective", "objective_of"]

OBJECTIVES: dict[str, Objective] = {
    "language_modeling": LanguageModeling(),
    "patch_classification": PatchClassification(),
}


def objective_of(spec: StageSpec, stage: str) -> Objective:
    """The stage's objective. Raises UserError for an unknown one, naming the nearest."""
    if spec.objective not in OBJECTIVES:
        raise UserError(f"stages.{stage}.objective: '{spec.objective}' is unknown{suggest(spec.objective, OBJECTIVES)}")
    return OBJECTIVES[spec.objective]
