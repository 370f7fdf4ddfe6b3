"""The teacher of the knowledge domain, which reads an article before each question: as a tree, and as rows.

SmolLM2-135M reads 8 questions about one article of 2,000 tokens, with completions of 64. In a tree, sequences that
begin alike are read once up to where they part. Both sides must give the same hidden states.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from lightning_sdft import KnowledgeDataModule
from lightning_sdft.modules import DistillationModule
from lightning_sdft.records import Example, Rollout
from tests.benchmarks.measure import Row, in_turn, report
from tests.real.smollm2 import model_folder

QUESTIONS, ARTICLE, COMPLETION = 8, 2000, 64
TEMPLATE = "{context}\n\n{prompt}"


def measure(side: str) -> dict[str, Any]:
    budgets = {"max_prompt_tokens": 512, "max_teacher_prompt_tokens": 4096, "max_completion_tokens": COMPLETION}
    options: dict[str, Any] = {"privileged_context": "article", "teacher_template": TEMPLATE, **budgets}
    module = DistillationModule(str(model_folder()), **options)
    module.configure_model()
    if side == "rows":
        module.policy.reads_trees = module.teacher.policy.reads_trees = False
    data = KnowledgeDataModule("zoo/events/articles", train="zoo/events/questions.jsonl")
    shown, text = data.splits.train[:QUESTIONS], module.tokenizer.hugging_face
    longer = (shown[0].context or "") * ARTICLE
    article = text.decode(text(longer[: 20 * ARTICLE])["input_ids"][:ARTICLE])
    examples = [Example(each.id, each.prompt, context=article) for each in shown]
    generator = torch.Generator().manual_seed(0)
    completions = torch.randint(100, 40_000, (QUESTIONS, COMPLETION), generator=generator).tolist()
    rollouts = [Rollout([], completion, [], finished=False) for completion in completions]
    sequences = module.teacher_sequences(examples, rollouts)
    module.teacher.hidden(sequences[:1])  # loads what is loaded lazily
    start = time.process_time()
    hidden = module.teacher.hidden(sequences)
    seconds = time.process_time() - start
    return {"seconds": seconds, "tokens": sum(map(len, sequences)), "norm": float(hidden.double().norm())}


def rows(repetitions: int) -> list[Row]:
    """All rows of the benchmark."""
    results = in_turn("teacher", ["tree", "rows"], repetitions)
    norms = [each["norm"] for side in results.values() for each in side]
    if max(norms) - min(norms) > 1e-5 * max(norms):
        raise SystemExit(f"tree and rows differ: {results}")
    sides = [[each["seconds"] for each in results[side]] for side in ("tree", "rows")]
    name = f"teacher, {QUESTIONS} questions about one article of {ARTICLE:,} tokens: CPU time, peer rows"
    return [Row(name, "s", *sides, 0.25, "SmolLM2-135M, float32")]


if __name__ == "__main__":
    report(measure)
