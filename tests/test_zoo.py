from __future__ import annotations

import hashlib
import json
import string
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from transformers import AutoTokenizer

from lightning_sdft import SFTModule, StringSkillsDataModule, zoo
from lightning_sdft.data.string_pretraining import SPARE_SKILLS
from lightning_sdft.data.string_skills import LETTERS, NEW_SKILLS, PRIOR_SKILLS, STYLES
from lightning_sdft.data.templates import LAPTOP_TEMPLATE
from lightning_sdft.policy import Policy
from tests.reproduce.laptop_model import save_architecture

LAPTOP = zoo.folder("zoo/laptop")


@pytest.mark.parametrize("source", ["questions.jsonl", "my/zoo/questions.jsonl", "zoo/no/such/file.jsonl"])
def test_files_that_are_not_in_the_zoo_stay_where_they_are(source: str) -> None:
    assert zoo.file(source) == source


def test_unknown_model_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no model 'zoo/desktop' in the zoo.*; there are .*'zoo/laptop-small'"):
        zoo.folder("zoo/desktop")
    with pytest.raises(ValueError, match="there is no model 'zoo/' in the zoo"):
        zoo.folder("zoo/")


def settings(path: Path) -> Any:
    content = json.loads(path.read_text())
    for changing in ("transformers_version", "dtype", "torch_dtype"):
        content.pop(changing, None)
    return content


@pytest.mark.parametrize(("model", "size"), [("zoo/laptop", ()), ("zoo/laptop-small", (64, 2))])
def test_files_are_what_our_code_writes(model: str, size: tuple[int, ...], tmp_path: Path) -> None:
    folder = zoo.folder(model)
    save_architecture(tmp_path, *size)
    written = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= written
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert settings(folder / name) == settings(tmp_path / name), name
    tokenizers = [AutoTokenizer.from_pretrained(each) for each in (folder, tmp_path)]
    assert tokenizers[0].chat_template == tokenizers[1].chat_template
    assert written - {path.name for path in folder.iterdir()} == set()


@pytest.mark.parametrize(("model", "parameters"), [("zoo/laptop", 1e6), ("zoo/laptop-small", 1.5e5)])
def test_weights_are_small_and_fit_the_architecture(model: str, parameters: float) -> None:
    file = zoo.folder(model) / "model.safetensors"
    assert file.stat().st_size <= 2.5 * parameters
    policy = Policy.load(model)
    weights = load_file(file)
    assert weights.keys() | {"lm_head.weight"} == policy.model.state_dict().keys()  # the head is tied to the embedding
    assert all(torch.isfinite(weight.float()).all() for weight in weights.values())
    assert sum(parameter.numel() for parameter in policy.parameters()) < parameters
    assert policy.max_tokens == 128


def test_weights_are_the_recorded_ones() -> None:
    files = {name: zoo.folder(name) / "model.safetensors" for name in ("zoo/laptop", "zoo/laptop-small")}
    assert {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()} == zoo.SHA256


@pytest.mark.parametrize("skill", NEW_SKILLS)
def test_base_model_knows_the_prior_skills_and_the_new_ones_in_part(skill: str) -> None:
    data = StringSkillsDataModule(skill=skill, validation_size=4, evaluation_batch_size=256)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    module = SFTModule("zoo/laptop", max_prompt_tokens=16, max_completion_tokens=24)
    parts = Trainer(accelerator="cpu", **quiet).test(module, datamodule=data, verbose=False)
    accuracies = {name: value for part in parts for name, value in part.items()}
    assert 0.20 < accuracies["test/accuracy"] < 0.70
    assert accuracies["test/prior/average"] > 0.98


def words() -> set[str]:
    texts = [LAPTOP_TEMPLATE.format(prompt="", demonstration=""), *(style(LETTERS) for style in STYLES.values())]
    skills = [*PRIOR_SKILLS, *NEW_SKILLS, *SPARE_SKILLS]
    return set(chain(LETTERS, skills, *(text.split() for text in texts)))


def test_every_word_of_the_laptop_domain_is_one_known_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(LAPTOP)
    for word in words():
        (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
        assert token != tokenizer.unk_token_id, word
        assert token != tokenizer.pad_token_id, word
        assert tokenizer.decode([token]) == word
    assert len(tokenizer) == len(words()) + 4


def test_no_word_is_missing_from_the_list() -> None:
    assert set(string.ascii_lowercase[:16]) | {"swap-ends", "example", "now", "(", "!", "then", "skill-7"} <= words()


def test_conversation_is_read_as_pretrained() -> None:
    tokenizer = Policy.load("zoo/laptop").tokenizer
    prompt = tokenizer.encode([{"role": "user", "content": "copy a b"}])
    assert tokenizer.hugging_face.convert_ids_to_tokens(prompt) == ["<user>", "copy", "a", "b", "<assistant>"]
    completion = tokenizer.encode_completion("a b")
    assert tokenizer.hugging_face.convert_ids_to_tokens(completion) == ["a", "b", "<end>"]
    assert tokenizer.decode(completion) == "a b"
