"""Trees against rows, both ours: a step with 8 generations, and a teacher that reads 8 questions about one article.

The step is that of ``step.py`` with 4 prompts x 8 answers of 64 tokens. The article has 2,000 tokens, made of the texts
of questions; an answer has 64. SmolLM2-135M in float32.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_sdft import SDFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.records import TokenSequence
from lightning_sdft.teacher import CopiedTeacher
from tests.benchmarks.measure import Row, in_turn, report, resident
from tests.benchmarks.peer import BUDGET, LEARNING_RATE, SKIP, TEMPLATE
from tests.benchmarks.training import questions, train
from tests.real.smollm2 import model_folder

PROMPTS, GENERATIONS, COMPLETION = 4, 8, 64

ARTICLE, QUESTIONS = 2000, 8


class RowsModule(SDFTModule):
    """Reads each completion in a row of its own, as if its model could not read trees."""

    def load_models(self) -> None:
        super().load_models()
        self.policy.reads_trees = self.teacher.policy.reads_trees = False


def step(tree: bool, micro_batch: int) -> dict[str, Any]:
    """One optimizer step."""
    budgets: dict[str, Any] = {
        "max_prompt_tokens": BUDGET,
        "max_teacher_prompt_tokens": BUDGET,
        "max_completion_tokens": COMPLETION,
    }
    options: dict[str, Any] = {
        "skip_tokens": SKIP,
        "learning_rate": LEARNING_RATE,
        "warmup_steps": 0,
        "generations": GENERATIONS,
    }
    template = TEMPLATE.format(demonstration="demonstration")
    kind = SDFTModule if tree else RowsModule
    module = kind(str(model_folder()), teacher_template=template, **options, **budgets)
    module.tokenizer.stop_ids = set()
    with TemporaryDirectory() as folder:
        return train(module, questions(PROMPTS), Path(folder), PROMPTS, micro_batch)


def teacher(tree: bool) -> dict[str, Any]:
    """The teacher's phase of a micro-batch of questions about one article."""
    student = Policy.load(str(model_folder()))
    shown = CopiedTeacher().build(student, None, None, False)
    shown.policy.reads_trees = tree
    texts = [student.tokenizer.encode_text(each["prompt"]) for each in questions(200)]
    article = [token for text in texts[QUESTIONS:] for token in text][:ARTICLE]
    sequences = [TokenSequence(article + text[-40:], text[:COMPLETION]) for text in texts[:QUESTIONS]]
    shown.hidden(sequences[:1])  # what is done once
    start = time.process_time()
    shown.hidden(sequences)
    return {"seconds": time.process_time() - start, "memory": resident("VmHWM")}


def measure(side: str, workload: str, micro_batch: int = 1) -> dict[str, Any]:
    return step(side == "tree", micro_batch) if workload == "step" else teacher(side == "tree")


def rows(repetitions: int) -> list[Row]:
    """All rows of the benchmark."""
    sides = ("tree", "rows")
    setting = f"SmolLM2-135M, {PROMPTS} prompts x {GENERATIONS} answers of {COMPLETION} tokens, float32"
    about = f"SmolLM2-135M, {QUESTIONS} questions about one article of {ARTICLE} tokens, float32"
    found = in_turn("trees", sides, repetitions, workload="step")
    read = in_turn("trees", sides, repetitions, workload="teacher")
    tree, peer = ([each["seconds"] for each in found[side]] for side in sides)
    peaks, others = ([each["memory"] for each in found[side]] for side in sides)
    phase, phases = ([each["seconds"] for each in read[side]] for side in sides)
    return [
        Row("step, 8 generations: CPU time, peer rows", "s", tree, peer, 0.7, setting),
        Row("step, 8 generations: peak memory, peer rows", "MiB", peaks, others, 0.8, setting),
        Row("teacher, 8 questions about an article: CPU time, peer rows", "s", phase, phases, 0.25, about),
    ]


if __name__ == "__main__":
    report(measure)
