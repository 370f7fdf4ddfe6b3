"""TRL's SDFTTrainer as the benchmarks of a step set it up: what both sides take, and completions of one length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

BUDGET, SKIP, LEARNING_RATE = 512, 3, 1e-5
TEMPLATE = (
    "\n{{prompt}}\n\nThis is an example for a response to the question:\n{{{demonstration}}}\n\n"
    "Now answer with a response of your own, including the thinking process.\n"
)


def sdft_trainer(
    model: str,
    rows: Sequence[dict[str, str]],
    steps: int,
    micro_batch: int,
    completion: int,
    folder: Path,
    generations: int = 1,
    **place: Any,
) -> Any:
    """A trainer that takes so many steps on all the rows.

    Args:
        model: Folder of the model.
        rows: Prompts and demonstrations.
        steps: Optimizer steps.
        micro_batch: Completions per micro-batch.
        completion: Tokens of each completion, none of which may end before.
        folder: Where it may write.
        generations: Completions of each prompt in a step.
        place: Arguments that say where and in which precision it computes.
    """
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    columns = {
        "prompt": [[{"role": "user", "content": row["prompt"]}] for row in rows],
        "privileged_context": [row["demonstration"] for row in rows],
    }
    arguments = SDFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=len(rows) * generations // steps // micro_batch,
        num_generations=generations,
        max_prompt_length=BUDGET,
        max_completion_length=completion,
        generation_kwargs={"min_new_tokens": completion},
        distillation_mode="full_logits",
        distillation_alpha=0.0,
        teacher_model_kind="ema",
        teacher_update_rate=0.01,
        teacher_prompt_template=TEMPLATE.format(demonstration="privileged_context"),
        num_loss_tokens_to_skip=SKIP,
        learning_rate=LEARNING_RATE,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **place,
    )
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    return SDFTTrainer(model, args=arguments, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer)


def mean_lengths(trainer: Any) -> list[float]:
    """The mean length of the completions of each step."""
    return [entry["completions/mean_length"] for entry in trainer.state.log_history if "loss" in entry]
