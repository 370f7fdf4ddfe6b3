"""Writes the model card of an exported folder: what the model is, how it was trained, and what it can do."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lightning_sdft.callbacks.base_comparison import comparison_columns, comparison_rows
from lightning_sdft.checkpoint import load_checkpoint
from lightning_sdft.checkpoint.method import KEY
from lightning_sdft.commands.card_sources import BaseModel, base_model, data_names, hub_ids
from lightning_sdft.policy.images import has_processor
from lightning_sdft.storage.atomic import write_text

__all__ = ["write_card"]

SEAL = re.compile(r"<!-- lightning_sdft: written, and not changed, if the SHA-256 above is (\w{64}) -->\n\Z")
"""The last line of a card that we wrote; a card of a user's own has none, or another text above it."""

METHODS = {
    "SDFTModule": ("Self-Distillation Fine-Tuning (SDFT)", "https://arxiv.org/abs/2601.19897"),
    "SFTModule": ("supervised fine-tuning (SFT)", None),
    "DFTModule": ("Dynamic Fine-Tuning (DFT)", "https://arxiv.org/abs/2508.05629"),
    "CPTModule": ("continued pretraining (CPT)", None),
    "ReinvokeModule": ("on-policy distillation from the base model", None),
}
"""What methods are called, and where they are described."""

SETTINGS = (
    "learning_rate",
    "weight_decay",
    "warmup_steps",
    "rollout_source",
    "privileged_context",
    "divergence",
    "teacher",
    "sampling",
    "skip_tokens",
    "reduction",
    "max_prompt_tokens",
    "max_completion_tokens",
    "lora",
    "retention",
)
"""The arguments of modules that a card lists; those that hold texts or paths of the user are not among them."""

TEACHERS = ("EMATeacher", "GatedTeacher")
"""The callbacks that move a teacher."""


def write_card(
    folder: str, checkpoint: str, model: str | None, weights: str, dtype: str, adapter: bool, repository: str | None
) -> bool:
    """Write ``README.md`` into an exported folder.

    Args:
        folder: The folder.
        checkpoint: The checkpoint that was exported.
        model: The model that was named in place of the one in the checkpoint.
        weights: Whose weights were written.
        dtype: Their precision.
        adapter: Whether only the adapter was written.
        repository: Where the folder is to be uploaded to.

    Returns:
        Whether it was written: a card that a user wrote or changed is left as it is.
    """
    path = Path(folder, "README.md")
    if path.exists() and not _is_ours(path.read_text(encoding="utf-8", errors="replace")):
        return False
    content = load_checkpoint(checkpoint)
    base = base_model(model or content[KEY]["model"])
    sees = has_processor(folder)
    parts = [
        *_head(content, base, adapter, sees),
        *_training(content, weights, dtype),
        *_accuracy(content.get("callbacks", {}), weights, content["global_step"]),
        *_use(base, repository or "PATH/TO/THIS/FOLDER", adapter, sees),
    ]
    text = "\n".join(parts) + "\n"
    seal = f"<!-- lightning_sdft: written, and not changed, if the SHA-256 above is {_sha256(text)} -->\n"
    write_text(path, text + seal)
    return True


def _is_ours(text: str) -> bool:
    found = SEAL.search(text)
    return found is not None and found[1] == _sha256(text[: found.start()])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _head(content: Mapping[str, Any], base: BaseModel, adapter: bool, sees: bool) -> Iterator[str]:
    method = content[KEY]["method"]
    name, source = METHODS.get(method, (method, None))
    ids = hub_ids(content.get("datamodule_hyper_parameters", {}))
    relation = {"base_model": base.name, "base_model_relation": "adapter" if adapter else "finetune"}
    fields: dict[str, Any] = {
        **(relation if base.on_hub else {}),
        **base.licence,
        **({"datasets": ids} if ids else {}),
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "image-text-to-text" if sees else "text-generation",
        "tags": ["lightning-sdft", method.removesuffix("Module").lower()],
    }
    yield f"---\n{yaml.safe_dump(fields, sort_keys=False)}---\n"
    yield f"# {base.name}, fine-tuned with {method.removesuffix('Module')}\n"
    where = f"[{base.name}](https://huggingface.co/{base.name})" if base.on_hub else f"`{base.name}`"
    yield f"{where}, fine-tuned by {name if source is None else f'[{name}]({source})'} with lightning_sdft.\n"
    if "license" in base.licence:
        yield f"Licence: that of the base model ({base.licence.get('license_name', base.licence['license'])}).\n"
    else:
        yield (
            "Licence: **not stated.** That of the base model applies, and its card was not at hand. Add `license:` "
            "above before you publish this model.\n"
        )


def _training(content: Mapping[str, Any], weights: str, dtype: str) -> Iterator[str]:
    callbacks, data = content.get("callbacks", {}), content.get("datamodule_hyper_parameters", {})
    arguments, noted = content.get("hyper_parameters", {}), callbacks.get("TypedSettings", {})
    rows = {
        "weights": f"{weights}, {dtype}",
        "data": ", ".join(filter(None, [_class(data), *data_names(data), noted.get("data")])) or None,
        "optimizer steps": content["global_step"],
        "examples per step": data.get("batch_size"),
        **{name: _said(arguments.get(name)) for name in SETTINGS},
        **{f"teacher: {name}": _said(callbacks[name]) for name in TEACHERS if name in callbacks},
        "seed": noted.get("seed"),
        "lightning_sdft": content[KEY]["version"],
    }
    yield "## Training\n"
    yield from _table(("setting", "value"), [(name, str(value)) for name, value in rows.items() if value is not None])


def _accuracy(callbacks: Mapping[str, Any], weights: str, steps: int) -> Iterator[str]:
    compared, tasks = callbacks.get("BaseComparison", {}), callbacks.get("PriorTasks", {})
    measured: dict[int, dict[str, float]] = {}
    for state, name in ((compared, "trained"), (tasks, "scores")):
        step, scores = state.get("step"), state.get(name)
        if step and scores:  # those of step 0 are the base model's
            measured[step] = {**scores, **measured.get(step, {})}
    yield "## Accuracy and retention\n"
    if not measured:
        yield "Not measured, or not kept in the checkpoint.\n"
    for step, scores in sorted(measured.items()):
        whose = "" if weights == "student" else " They are of the student, and the weights here are the teacher's."
        yield f"After {step} of {steps} steps, on validation sets, with 95% intervals.{whose}\n"
        sets, means = comparison_rows(compared.get("base", {}), scores)
        yield from _table(comparison_columns(scores), [*sets, *means])


def _use(base: BaseModel, place: str, adapter: bool, sees: bool) -> Iterator[str]:
    model, reader = ("ImageTextToText", "AutoProcessor") if sees else ("CausalLM", "AutoTokenizer")
    content, tokenize = '"..."', ""
    if sees:  # a processor makes a text of a conversation unless it is told otherwise
        content = '[{"type": "image", "path": "..."}, {"type": "text", "text": "..."}]'
        tokenize = "tokenize=True, "
    load = f'model = AutoModelFor{model}.from_pretrained("{base.name if adapter else place}")\n'
    if adapter:
        load += f'model = PeftModel.from_pretrained(model, "{place}")\n'
    yield (
        "## Use\n\n```python\n"
        + ("from peft import PeftModel\n" if adapter else "")
        + f"from transformers import AutoModelFor{model}, {reader}\n\n"
        + load
        + f'tokenizer = {reader}.from_pretrained("{place}")\n'
        f'messages = [{{"role": "user", "content": {content}}}]\n'
        f'inputs = tokenizer.apply_chat_template(messages, {tokenize}add_generation_prompt=True, return_tensors="pt", '
        "return_dict=True)\n"
        'answer = model.generate(**inputs, max_new_tokens=200)[0, inputs["input_ids"].shape[1] :]\n'
        "print(tokenizer.decode(answer, skip_special_tokens=True))\n```\n"
    )
    if not adapter:
        yield f"Or, in two terminals: `transformers serve` and `transformers chat {place}`.\n"


def _table(columns: tuple[str, ...], rows: list[Any]) -> Iterator[str]:
    for row in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""


def _class(settings: Mapping[str, Any]) -> str:
    path: str = settings.get("class_path") or settings.get("_class_path") or ""
    return path.rpartition(".")[2]


def _said(value: Any) -> str | None:
    """A setting in a line: names of classes, numbers and choices; no other text, which may be a path or the user's."""
    if isinstance(value, str):
        return value if value.isidentifier() else None
    if value is None or isinstance(value, int | float):
        return None if value is None else str(value)
    settings = value if isinstance(value, Mapping) else {"class_path": type(value).__qualname__, **vars(value)}
    inner = settings.get("init_args", settings)
    numbers = [f"{name} {each}" for name, each in inner.items() if isinstance(each, int | float)]
    return ", ".join(filter(None, [_class(settings), *numbers])) or None
