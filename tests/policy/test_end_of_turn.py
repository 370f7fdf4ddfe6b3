from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, GenerationConfig

from lightning_sdft.policy import Policy, load_tokenizer
from lightning_sdft.policy.tokenizer import Tokenizer
from tests.conftest import CHATML, END, STOP_IDS, TURNS_WITH_END, VOCABULARY, make_byte_tokenizer, make_tokenizer

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def written(folder: Path, **config: Any) -> str:
    make_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **config}))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "stops"),
    [
        ({"eos_token_id": [7, 9]}, {END, 7, 9}),
        ({"eos_token_id": 7}, {END, 7}),
        ({"text_config": {"eos_token_id": [7, 9]}}, {END, 7, 9}),
        ({}, {END}),
    ],
)
def test_stop_ids_of_a_config_without_generation_config(
    tmp_path: Path, config: dict[str, Any], stops: set[int]
) -> None:
    assert load_tokenizer(written(tmp_path, **config)).stop_ids == stops


def test_generation_config_counts_alone_where_there_is_one(tmp_path: Path) -> None:
    name = written(tmp_path, eos_token_id=7)
    GenerationConfig(eos_token_id=9).save_pretrained(tmp_path)
    assert load_tokenizer(name).stop_ids == {END, 9}


def ends(tokenizer: Any, *stop_ids: str) -> tuple[str, set[str]]:
    """The token that ends a response, and all that stop one."""
    own = Tokenizer(tokenizer, tokenizer.convert_tokens_to_ids(list(stop_ids)))
    return tokenizer.convert_ids_to_tokens(own.end_id), {*tokenizer.convert_ids_to_tokens(sorted(own.stop_ids))}


def test_base_model_with_a_chat_template_ends_as_the_template_does() -> None:
    tokenizer = make_byte_tokenizer()
    assert ends(tokenizer) == ("<|im_end|>", {"<|im_end|>", "<|endoftext|>"})
    answered = [{"role": "user", "content": "the end"}, {"role": "assistant", "content": "start"}]
    own = Tokenizer(tokenizer)
    whole = own.encode(answered, prompt=False)
    assert own.encode(answered[:1]) + own.encode_completion("start") == whole[:-1]  # but for the newline at the end


def test_end_that_is_no_single_token_is_end_of_sequence() -> None:
    assert ends(make_byte_tokenizer(special=())) == ("<|endoftext|>", {"<|endoftext|>"})


def test_first_of_several_tokens_behind_a_turn_ends_it() -> None:
    template = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"  # as Phi-3's
    assert ends(make_byte_tokenizer(template))[0] == "<|im_end|>"


def test_beginning_of_the_next_turn_ends_one_only_if_the_model_stops_there() -> None:
    template = CHATML.replace("<|im_end|>", "")  # as GLM-4's
    assert ends(make_byte_tokenizer(template), "<|im_start|>")[0] == "<|im_start|>"
    assert ends(make_byte_tokenizer(template)) == ("<|endoftext|>", {"<|endoftext|>"})


def test_words_behind_a_turn_do_not_end_it() -> None:
    template = CHATML.replace("<|im_end|>", " w1 [w2]")
    assert ends(make_tokenizer(template))[0] == "<end>"
    assert ends(make_tokenizer(TURNS_WITH_END, eos_token="<eos>", pad_token="<pad>"))[0] == "<end>"


def test_template_without_assistant_turns_ends_with_end_of_sequence() -> None:
    refusing = "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    assert ends(make_byte_tokenizer(refusing))[0] == "<|endoftext|>"


def test_exported_model_stops_where_rollouts_do(llama: Policy, tmp_path: Path) -> None:
    eos = VOCABULARY.index("<eos>")
    llama.tokenizer = Tokenizer(make_tokenizer(TURNS_WITH_END, eos_token="<eos>"), STOP_IDS[1:])
    llama.model.generation_config.eos_token_id = STOP_IDS[1]
    llama.save_pretrained(tmp_path)
    served = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id
    assert served[0] == STOP_IDS[1]
    assert set(served) == llama.tokenizer.stop_ids == {*STOP_IDS, eos}


def test_exported_model_that_stops_there_already_keeps_its_generation_config(llama: Policy, tmp_path: Path) -> None:
    llama.tokenizer.stop_ids = {END}
    llama.model.generation_config.eos_token_id = END
    llama.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == END
