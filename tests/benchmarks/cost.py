"""A step of SDFT against a step of SFT: the same prompts, and as many trained tokens.

SFT is trained on the very completions that SDFT sampled, so that both learn from the same tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_sdft import SDFTModule, SFTModule, StringSkillsDataModule
from tests.benchmarks.measure import Row, report, run
from tests.benchmarks.training import questions, train
from tests.real.smollm2 import model_folder

BUDGETS = {
    "smollm2": {"max_prompt_tokens": 512, "max_completion_tokens": 64},
    "laptop": {"max_prompt_tokens": 16, "max_completion_tokens": 24},
}
PROMPTS = {"smollm2": (8, 2), "laptop": (32, 32)}
"""Prompts per optimizer step and per micro-batch."""


def prompts(model: str) -> list[dict[str, str]]:
    """Prompts and demonstrations of the new skill: a step of SmolLM2, all of the laptop model's."""
    if model == "smollm2":
        return questions(16)
    train_split = StringSkillsDataModule().splits.train
    return [{"prompt": each.prompt[-1]["content"], "demonstration": each.demonstration or ""} for each in train_split]


def measure(side: str, model: str, rows: str = "") -> dict[str, Any]:
    path = str(model_folder()) if model == "smollm2" else "zoo/laptop"
    options: dict[str, Any] = {"learning_rate": 1e-5, "warmup_steps": 0, **BUDGETS[model]}
    if side == "sdft":
        template = {"teacher_template": "{prompt} example {demonstration} now"} if model == "laptop" else {}
        budget = 4 * BUDGETS[model]["max_prompt_tokens"]
        module = SDFTModule(path, skip_tokens=0, max_teacher_prompt_tokens=budget, **template, **options)
        examples = prompts(model)
    else:
        options["max_completion_tokens"] *= 2  # for a text may be encoded into other tokens than it was sampled in
        module = SFTModule(path, **options)
        filler = {} if model == "smollm2" else {"demonstration": "a"}  # a data module refuses an empty demonstration
        examples = [each if each["demonstration"] else each | filler for each in json.loads(Path(rows).read_text())]
    with TemporaryDirectory() as folder:
        result = train(module, examples, Path(folder), *PROMPTS[model])
    if rows and side == "sdft":
        Path(rows).write_text(json.dumps(result["rollouts"]))
    return {"seconds": result["seconds"], "means": result["means"]}


def rows(repetitions: int) -> list[Row]:
    """All rows of the benchmark."""
    result = []
    for model, name in (
        ("laptop", "laptop model, 16 steps of 32 prompts"),
        ("smollm2", "SmolLM2-135M, 2 of 8 prompts"),
    ):
        sides: dict[str, list[float]] = {"sdft": [], "sft": []}
        for _ in range(repetitions):
            with TemporaryDirectory() as folder:
                file = str(Path(folder) / "rollouts.json")
                for side, seconds in sides.items():
                    seconds.append(run("cost", side=side, model=model, rows=file)["seconds"])
        result.append(Row(f"cost, {name}: CPU time, peer SFT", "s", sides["sdft"], sides["sft"], 2.5, "float32"))
    return result


if __name__ == "__main__":
    report(measure)
