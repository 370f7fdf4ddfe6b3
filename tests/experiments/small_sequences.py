"""Skills in sequence whose results are made up, in the files that a real experiment leaves behind."""

from __future__ import annotations

import random
from pathlib import Path

from lightning_sdft.experiments.chains import Stage
from lightning_sdft.experiments.evidence.endpoint import named_endpoint
from lightning_sdft.experiments.evidence.sequences import SEQUENCE
from lightning_sdft.experiments.plan import Method, Plan
from lightning_sdft.experiments.report.experiment import Experiment
from lightning_sdft.experiments.runs.details import Details
from tests.experiments.stages import sequence

METHODS = ("SFT", "replay", "SDFT")
SKILLS = ["a", "b", "c"]
SEEDS = (0, 1, 2)
STEPS = (2, 4, 6)


def curves(stage: Stage) -> dict[str, dict[int, float]]:
    """Validations: the skill of the stage rises, and all else goes up and down; copying is validated now and then."""
    rng = random.Random(str(stage.folder(Path())))
    steps = (0,) if stage.skill is None else STEPS
    found = {f"val/accuracy/{skill}": {step: rng.random() for step in steps} for skill in SKILLS}
    if stage.skill is not None:
        found[f"val/accuracy/{stage.skill}"] = {step: 0.5 + step / 20 + rng.random() / 10 for step in steps}
    found["prior/copy"] = {step: rng.random() for step in steps if step != STEPS[1]}
    found["prior/average"] = {step: rng.random() for step in steps}
    return found


def write_sequences(out: Path) -> list[Stage]:
    """Write the files of the experiment."""
    plan = Plan(SKILLS, {name: Method([{}]) for name in METHODS}, SEEDS, [1e-4], [])
    rows = []
    for method in METHODS:
        for seed in SEEDS:
            whole = sequence(method, 1e-4, seed, [[0.5] * len(SKILLS)] * (len(SKILLS) + 1), skills=SKILLS)
            rows += whole if method == METHODS[0] else whole[1:]
    for row in rows:
        row.folder(out / "runs").mkdir(parents=True)
        Details({}, curves(row)).write(row.folder(out / "runs"))
    endpoint = named_endpoint(None, [], Plan([SEQUENCE], plan.methods, SEEDS, [1e-4], []), out)
    Experiment.of("continual", plan, endpoint, [], "", []).write(out, [row.record() for row in rows])
    return rows
