from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_sdft.commands.export import export
from lightning_sdft.data import GeneralDataModule, JsonDataModule
from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.errors import DataError
from lightning_sdft.memory.lengths import lengths_by_data
from lightning_sdft.modules import CausalLMModule, CPTModule, SDFTModule, SFTModule
from lightning_sdft.modules.examples import warn_of_other_text
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.records import Example
from tests.conftest import CHATML, TURNS_WITH_END, make_byte_tokenizer, make_tokenizer
from tests.modules.conftest import METHODS, WORDS_TEMPLATE

TURNS = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system turns') }}{% endif %}{% endfor %}"
)
DATED = "{{ strftime_now('w%-d') }} " + TURNS_WITH_END
SYSTEM = [{"role": "system", "content": "w1"}, {"role": "user", "content": "w2"}]
CALL = [
    {"role": "user", "content": "w1"},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "w3"}]},
    {"role": "user", "content": "w2"},
]
BAD: dict[str, tuple[Any, str, str]] = {
    "prompt closes itself": ("w1 <end> w2", "w3", "contains '<end>', a control token"),
    "demonstration ends early": ("w1", "w3 <end> w2", "contains '<end>', a control token"),
    "role": (SYSTEM, "w3", "refuses the conversation .system, user.: No system turns"),
    "field": (CALL, "w3", "turn 2 has the field 'tool_calls'"),
    "surrogate": ("w1 \ud83d", "w3", "half of a surrogate pair"),
}


@pytest.fixture
def make(family_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., CausalLMModule]:
    """A module of a model whose chat template refuses system turns."""

    def make(method: type[CausalLMModule] = SFTModule, template: str = "", **arguments: Any) -> CausalLMModule:
        folder = tmp_path / "model"
        if not folder.exists():
            shutil.copytree(family_folder("llama"), folder)
        make_tokenizer(template or TURNS + TURNS_WITH_END).save_pretrained(folder)
        if issubclass(method, SDFTModule):
            teacher = {"teacher_template": WORDS_TEMPLATE, "max_teacher_prompt_tokens": 32}
            arguments = {**teacher, "skip_tokens": 0, **arguments}
        arguments = {"max_prompt_tokens": 16, "max_completion_tokens": 8, **arguments}
        return method(str(folder), **{"learning_rate": 1e-2, "warmup_steps": 0, **arguments})

    return make


@pytest.fixture
def make_rows(tmp_path: Path) -> Callable[..., JsonDataModule]:
    """Rows of a prompt and a response each."""

    def make(*rows: tuple[Any, str], **arguments: Any) -> JsonDataModule:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"prompt": each[0], "response": each[1]}) + "\n" for each in rows))
        return JsonDataModule(**{"train": str(path), "batch_size": 1, **arguments})

    return make


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("method", METHODS)
def test_row_that_cannot_be_read_is_named_or_skipped(
    method: type[CausalLMModule],
    bad: str,
    make: Callable[..., CausalLMModule],
    make_rows: Callable[..., JsonDataModule],
    make_trainer: Any,
) -> None:
    *row, complaint = BAD[bad]
    rows = [("w6", "w7"), ("w8", "w9"), tuple(row)]
    place = rf"rows.jsonl, row 3: .*{complaint}.*\(data.on_bad_row=skip leaves such rows out\)"
    trainer = make_trainer(max_steps=2, accumulate_grad_batches=1)
    with pytest.raises(DataError, match=place):
        trainer.fit(make(method), datamodule=make_rows(*rows))
    data = make_rows(*rows, on_bad_row="skip")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(make(method), datamodule=data)
    assert trainer.global_step == 2
    assert [example.demonstration for example in data.splits.train] == ["w7", "w9"]
    if bad != "surrogate":  # which the data module has seen and counted itself
        assert any("left out 1 row that cannot be read" in str(each.message) for each in caught)


def test_evaluated_rows_are_named_or_skipped_too(
    make: Callable[..., CausalLMModule], make_rows: Callable[..., JsonDataModule], make_trainer: Any
) -> None:
    arguments = {"train": None, "demonstration_column": None, "reference_column": "response"}
    rows = [("w6", "w7"), (SYSTEM, "w7")]
    trainer = make_trainer(limit_val_batches=1.0)

    def data(*rows: tuple[Any, str], **more: Any) -> JsonDataModule:
        module = make_rows(*rows, **arguments, **more)
        module.validation = str(Path(trainer.default_root_dir) / "rows.jsonl")
        return module

    with pytest.raises(DataError, match=r"rows.jsonl, row 2: .*No system turns"):
        trainer.validate(make(), datamodule=data(*rows), verbose=False)
    skipping = data(*rows, on_bad_row="skip")
    trainer.validate(make(), datamodule=skipping, verbose=False)
    assert [each.id for each in skipping.splits.validation[0].examples] == ["rows-1"]
    with pytest.raises(DataError, match="all 1 rows of json are bad"):
        trainer.validate(make(), datamodule=data((SYSTEM, "w7"), on_bad_row="skip"), verbose=False)


def test_nothing_left_to_train_on_is_refused_with_the_first_reason(
    make: Callable[..., CausalLMModule], make_rows: Callable[..., JsonDataModule], make_trainer: Any
) -> None:
    with pytest.raises(DataError, match=r"all 1 training rows are bad; the first: .*row 1.*No system turns"):
        make_trainer(accumulate_grad_batches=1).fit(make(), datamodule=make_rows((SYSTEM, "w3"), on_bad_row="skip"))


def test_general_prompts_know_their_rows(
    make: Callable[..., CausalLMModule], tmp_path: Path, make_trainer: Any
) -> None:
    (tmp_path / "general.jsonl").write_text('{"prompt": "w1"}\n{"prompt": "w2 <end>"}\n')
    data = GeneralDataModule(str(tmp_path / "general.jsonl"), batch_size=1)
    with pytest.raises(DataError, match=r"general.jsonl, row 2: its text contains '<end>'"):
        make_trainer(accumulate_grad_batches=1).fit(
            make(SDFTModule, privileged_context="none", teacher_template="{prompt}"), datamodule=data
        )


def test_memory_estimate_names_and_skips_them_too(
    make: Callable[..., CausalLMModule], make_rows: Callable[..., JsonDataModule], tmp_path: Path
) -> None:
    rows = [("w6", "w7"), ("w1", "w2 <end>")]
    with pytest.raises(DataError, match=r"rows.jsonl, row 2: its text contains '<end>'"):
        lengths_by_data(make(), make_rows(*rows), 1)
    assert len(lengths_by_data(make(), make_rows(*rows, on_bad_row="skip"), 1).student) == 1
    others = tmp_path / "others.jsonl"
    others.write_text('{"prompt": "w2 <end>", "response": "w7"}')
    data = make_rows(rows[0], validation=str(others), reference_column="response")
    with pytest.raises(DataError, match=r"others.jsonl, row 1: its text contains '<end>'"):
        lengths_by_data(make(), data, 1)


def test_example_of_a_plain_loader_is_named_in_training_and_in_evaluation(
    make: Callable[..., CausalLMModule], make_trainer: Any
) -> None:
    shown = Example("mine", [{"role": "user", "content": "w2 <end>"}], "w3")
    loader = DataLoader([shown], batch_size=1, collate_fn=MicroBatch.of)  # type: ignore[arg-type]
    trainer = make_trainer(accumulate_grad_batches=1)
    for run in (trainer.fit, trainer.predict):
        with pytest.raises(DataError, match="example 'mine': its text contains '<end>'"):
            run(make(), loader)


def test_article_with_a_control_token_is_named(
    make: Callable[..., CausalLMModule], make_rows: Callable[..., JsonDataModule], make_trainer: Any
) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl, row 1: its text contains '<end>'"):
        make_trainer(accumulate_grad_batches=1).fit(make(CPTModule), datamodule=make_rows(("w1", "w2 <end> w3")))


# The text that is served


def example(prompt: str = "the", demonstration: str | None = "end") -> Example:
    return Example("first", [{"role": "user", "content": prompt}], demonstration)


REASONING = CHATML + "{% if add_generation_prompt %}<think>\n{% endif %}"
STRIPPING = CHATML.replace("message['content']", "message['content'] | trim")
SPACED = CHATML.replace("{{ message['content'] }}", "{{ ' ' if message.role == 'assistant' }}{{ message['content'] }}")


@pytest.mark.parametrize(
    ("template", "shown", "ours", "theirs"),
    [
        (REASONING, example(), r"assistant\n<think>\nend<|im_end|>", r"assistant\nend<|im_end|>"),
        (REASONING, example(demonstration=None), r"assistant\n<think>\nYes.", r"assistant\nYes."),
        (CHATML.split("{% if add")[0], example(), r"<|im_end|>\nend<|im_end|>", r"<|im_start|>assistant\nend"),
        (SPACED, example(), r"assistant\nend", r"assistant\n end"),
        (STRIPPING, example(demonstration="end\n"), r"end\n<|im_end|>", r"end<|im_end|>\n"),
    ],
    ids=["open thought", "no demonstration", "no generation prompt", "space", "trimmed"],
)
def test_other_text_than_the_template_writes_is_shown_once(
    template: str, shown: Example, ours: str, theirs: str
) -> None:
    with pytest.warns(UserWarning, match="training reads another text") as caught:
        warn_of_other_text(Tokenizer(make_byte_tokenizer(template)), [shown, shown])
    (message,) = [str(each.message) for each in caught]
    read, written = message.split(" instead of ")
    assert ours in read
    assert theirs in written
    assert "'first'" in written


def test_same_text_as_the_template_writes_needs_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_text(Tokenizer(make_byte_tokenizer()), [example(), example("the <|im_end|>", "<|im_end|> end")])
        warn_of_other_text(Tokenizer(make_tokenizer()), [example("w1", "w2 w3"), example("w1", None)])


def test_training_compares_the_texts_and_pretraining_on_articles_does_not(
    make: Callable[..., CausalLMModule], make_rows: Callable[..., JsonDataModule], make_trainer: Any
) -> None:
    trainer = make_trainer(max_steps=1, accumulate_grad_batches=1)
    template = TURNS_WITH_END + "{% if add_generation_prompt %} w7{% endif %}"
    for method, expected in ((SFTModule, 1), (SDFTModule, 1), (CPTModule, 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(make(method, template), datamodule=make_rows(("w6", "w9"), ("w6 w7", "w9")))
        assert sum("training reads another text" in str(each.message) for each in caught) == expected


# Template arguments and the date


def test_template_arguments_reach_prompts_and_checkpoints_and_exports(
    make: Callable[..., CausalLMModule], make_rows: Callable[..., JsonDataModule], make_trainer: Any, tmp_path: Path
) -> None:
    template = "{{ style }} " + TURNS_WITH_END
    module = make(SFTModule, template, template_arguments={"style": "w9"})
    assert module.tokenizer.decode(module.tokenizer.encode([{"role": "user", "content": "w1"}])).startswith("w9 <user>")
    trainer = make_trainer(max_steps=1, accumulate_grad_batches=1)
    trainer.fit(module, datamodule=make_rows(("w6", "w9")))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    module = SFTModule.load_from_checkpoint(tmp_path / "last.ckpt")
    assert module.hparams["template_arguments"] == {"style": "w9"}
    export(str(tmp_path / "out"), str(tmp_path / "last.ckpt"))
    served = SFTModule(str(tmp_path / "out")).tokenizer
    assert served.decode(served.encode([{"role": "user", "content": "w1"}])).startswith("w9 <user>")


def test_resumed_run_tells_the_date_of_the_first_start(
    make: Callable[..., CausalLMModule], make_rows: Callable[..., JsonDataModule], make_trainer: Any, tmp_path: Path
) -> None:
    module = make(SFTModule, DATED)
    module.tokenizer.date = "2026-02-03T04:05:06"
    trainer = make_trainer(max_steps=1, accumulate_grad_batches=1)
    trainer.fit(module, datamodule=make_rows(*[("w6", "w9")] * 2))
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    saved = torch.load(tmp_path / "first.ckpt", weights_only=True)["lightning_sdft"]
    assert saved["date"] == "2026-02-03T04:05:06"
    resumed = make(SFTModule, DATED)
    assert resumed.tokenizer.date != "2026-02-03T04:05:06"
    trainer = make_trainer(max_steps=2, accumulate_grad_batches=1)
    trainer.fit(resumed, datamodule=make_rows(*[("w6", "w9")] * 2), ckpt_path=tmp_path / "first.ckpt")
    prompt = resumed.tokenizer.encode([{"role": "user", "content": "w1"}])
    assert resumed.tokenizer.hugging_face.decode(prompt).startswith("w3 <user>")
