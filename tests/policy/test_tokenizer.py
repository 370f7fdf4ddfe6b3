from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import GenerationConfig

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.tokenizer import Tokenizer, load_tokenizer
from tests.conftest import END, TURNS_WITH_END, VOCABULARY, make_model, make_tokenizer

QUESTION = [{"role": "user", "content": "w1 w2"}]


def saved_tokenizer(folder: Path, template: str | None, **special_tokens: str) -> str:
    make_tokenizer(template, **special_tokens).save_pretrained(folder)
    make_model("llama").config.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "runs/sft/export", "~/model", "a b"])
def test_model_that_is_not_there_is_said_with_what_to_name(name: str) -> None:
    with pytest.raises(PolicyError, match=r"there is no model in '.*', .* Hugging Face folder, .* hub"):
        load_tokenizer(name)


def test_conversation_ends_where_the_response_begins(llama: Policy) -> None:
    tokens = llama.tokenizer.encode(QUESTION)
    assert [VOCABULARY[token] for token in tokens] == ["<user>", "w1", "w2", "<end>", "<assistant>"]


def test_conversations_together_are_encoded_as_each_alone(llama: Policy) -> None:
    conversations = [QUESTION, [{"role": "user", "content": "w3"}], [*QUESTION, {"role": "assistant", "content": "w4"}]]
    encoded = llama.tokenizer.encode_all(conversations)
    assert encoded == [llama.tokenizer.encode(each) for each in conversations]
    assert len({len(each) for each in encoded}) == 3  # so nothing is padded
    assert llama.tokenizer.encode_all([]) == []


def test_completion_ends_as_the_template_ends_it(llama: Policy) -> None:
    tokenizer = llama.tokenizer
    completion = tokenizer.encode_completion("w3 w4")
    assert [VOCABULARY[token] for token in completion] == ["w3", "w4", "<end>"]
    answered = [*QUESTION, {"role": "assistant", "content": "w3 w4"}]
    rendered = tokenizer.hugging_face.apply_chat_template(answered, return_dict=True)["input_ids"]
    assert tokenizer.encode(QUESTION) + completion == rendered
    assert tokenizer.decode(completion) == "w3 w4"


def test_end_of_turn_other_than_end_of_sequence(tmp_path: Path) -> None:
    name = saved_tokenizer(tmp_path, TURNS_WITH_END, eos_token="<eos>", pad_token="<pad>")
    eos = VOCABULARY.index("<eos>")
    GenerationConfig(eos_token_id=[eos, END]).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(name)
    assert tokenizer.stop_ids == {eos, END}
    assert tokenizer.end_id == END
    assert tokenizer.encode_completion("w3")[-1] == END


def test_end_of_turn_that_the_template_does_not_write_is_end_of_sequence(tmp_path: Path) -> None:
    name = saved_tokenizer(tmp_path, "{% for message in messages %}{{ message['content'] }} {% endfor %}")
    assert load_tokenizer(name).end_id == END


def test_stop_ids_of_a_generation_config_with_one_end(tmp_path: Path) -> None:
    name = saved_tokenizer(tmp_path, TURNS_WITH_END, eos_token="<eos>", pad_token="<pad>")
    GenerationConfig(eos_token_id=END).save_pretrained(tmp_path)
    assert load_tokenizer(name).stop_ids == {VOCABULARY.index("<eos>"), END}


def test_padding_is_end_of_sequence_where_there_is_none(tmp_path: Path) -> None:
    assert load_tokenizer(saved_tokenizer(tmp_path, TURNS_WITH_END, eos_token="<end>")).pad_id == END


def test_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    name = saved_tokenizer(tmp_path / "wordy", None)
    with pytest.raises(PolicyError, match=r"wordy.* no chat template"):
        load_tokenizer(name)
    with pytest.raises(PolicyError, match=r"wordy.* no chat template"):
        Policy.load(name, pretrained=False)


def test_tokenizer_without_end_of_sequence_is_refused(tmp_path: Path) -> None:
    name = saved_tokenizer(tmp_path / "endless", TURNS_WITH_END, pad_token="<pad>")
    with pytest.raises(PolicyError, match=r"endless.* no end-of-sequence token"):
        load_tokenizer(name)


def test_given_tokenizer_is_used(llama: Policy, family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(family_folder("llama"), tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    policy = Policy.load(str(tmp_path / "model"), tokenizer=llama.tokenizer)
    assert policy.tokenizer is llama.tokenizer


def test_special_tokens_are_encoded_once_where_the_tokenizer_adds_its_own(tmp_path: Path) -> None:
    name = saved_tokenizer(tmp_path, "<eos> " + TURNS_WITH_END)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<eos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}},
    }
    path.write_text(json.dumps(content))
    tokenizer = load_tokenizer(name)
    assert tokenizer.hugging_face("w1")["input_ids"][0] == 1
    assert tokenizer.encode(QUESTION).count(1) == 1
    assert 1 not in tokenizer.encode_completion("w1")


def test_text_keeps_the_spaces_that_its_tokenizer_would_clean_up() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([".", "n't"])
    tokenizer.clean_up_tokenization_spaces = True
    tokens = tokenizer.convert_tokens_to_ids(["w1", ".", "w2", "n't"])
    assert Tokenizer(tokenizer).decode(tokens) == "w1 . w2 n't"


# Modes
