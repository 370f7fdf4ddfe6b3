"""Tiny random Hugging Face folders, one per model family, that look like those users bring."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import STUDENT, adapter_weights

torch.set_num_threads(1)

SLOW = [
    "tests/reproduce/test_subset.py",
    "tests/test_notebooks.py",
    "tests/distributed/",
    "tests/faults/",
    "tests/test_configs.py",
    "tests/test_experiment_configs.py",
    "tests/experiments/",
    "tests/memory/",
]
"""Where the slowest files are, the slowest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files, so that at the end no process works on one while the others have nothing to do."""

    def rank(item: pytest.Item) -> int:
        return next((index for index, place in enumerate(SLOW) if item.nodeid.startswith(place)), len(SLOW))

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """What has been imported stays: leave it out when looking for what is not used any more."""
    gc.freeze()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

VOCABULARY = ["<pad>", "<eos>", "<user>", "<assistant>", "<end>", *(f"w{index}" for index in range(59))]
END = VOCABULARY.index("<end>")
STOP_IDS = [END, 10, 20, 30, 40, 50, 60]
"""What ends a response: enough tokens that a random model soon writes one."""

TURNS_WITH_END = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
GEMMA["layer_types"] = ["sliding_attention", "full_attention"]

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED),
    "qwen2": ("Qwen2", {**GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 8}),
    "gemma2": ("Gemma2", {**GEMMA, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3Text", GEMMA),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "granite": ("Granite", {**GROUPED, "logits_scaling": 3.0}),
    "cohere": ("Cohere", {**GROUPED, "logit_scale": 0.25}),
}


def make_tokenizer(template: str | None = TURNS_WITH_END, **special_tokens: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of 64 tokens."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special_tokens = special_tokens or {"eos_token": "<end>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special_tokens)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def make_byte_tokenizer(
    template: str = CHATML,
    special: Sequence[str | AddedToken] = ("<|im_start|>", "<|im_end|>"),
    added: Sequence[str] = (),
    **special_tokens: str,
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with some merges, as most models have, and with control tokens of one's own."""
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokens.train_from_iterator(["the end <|im_end|> start user assistant\n\n"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, **special_tokens or {"eos_token": "<|endoftext|>"})
    tokenizer.add_tokens(list(special), special_tokens=True)
    tokenizer.add_tokens(list(added))
    tokenizer.chat_template = template
    return tokenizer


def make_model(family: str, seed: int = 2, **changes: Any) -> Any:
    """A random model whose every weight matters: norms and biases are not at their initial 1 and 0."""
    name, arguments = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(VOCABULARY),
        initializer_range=0.5,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=END,
        **{**({} if family == "gpt2" else {"max_position_embeddings": 64}), **arguments, **changes},
    )
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        if family.startswith("gemma"):  # whose large embeddings would drown what the layers add
            model.get_input_embeddings().weight.mul_(0.25)
            model.base_model.norm.weight.add_(3)
    model.generation_config.eos_token_id = STOP_IDS
    return model


def move_adapter(model: Any, name: str = STUDENT, seed: int = 0, size: float = 0.3) -> None:
    """Move every weight of an adapter, of which B is 0 at first."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in adapter_weights(model, name).values():
            weight.add_(size * torch.randn(weight.shape, generator=generator))


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The Hugging Face folder of a family's tiny model."""
    root = tmp_path_factory.mktemp("families")

    def folder(family: str) -> Path:
        path = root / family
        if not path.exists():
            make_model(family).save_pretrained(path)
            make_tokenizer().save_pretrained(path)
        return path

    return folder


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each of the families in turn."""
    name: str = request.param
    return name


@pytest.fixture
def policy(family: str, family_folder: Callable[[str], Path]) -> Policy:
    """The policy of each family in turn."""
    return Policy.load(str(family_folder(family)))


@pytest.fixture
def llama(family_folder: Callable[[str], Path]) -> Policy:
    """The policy of one family, for what does not depend on it."""
    return Policy.load(str(family_folder("llama")))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files, which is not part of the repository; without it a test is skipped."""
    folder = Path(os.environ.get("LIGHTNING_SDFT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real files: {folder} is absent (LIGHTNING_SDFT_DATA says where they are)")
    return folder
