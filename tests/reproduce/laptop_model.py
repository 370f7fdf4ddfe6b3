"""Makes the folders of the laptop models as they are before pretraining: their architecture and their tokenizer.

``python -m tests.reproduce.laptop_model FOLDER`` writes those of ``zoo/laptop``, with ``64 2`` behind it those of
``zoo/laptop-small``; ``configs/zoo/laptop_model.yaml`` and ``laptop_small.yaml`` train the weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from lightning_sdft.data.string_pretraining import SPARE_SKILLS
from lightning_sdft.data.string_skills import LETTERS, NEW_SKILLS, PRIOR_SKILLS, STYLES
from lightning_sdft.data.templates import LAPTOP_TEMPLATE

__all__ = ["save_architecture"]

PAD, USER, ASSISTANT, END = SPECIAL_TOKENS = ["<pad>", "<user>", "<assistant>", "<end>"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} "
    "{% if message['role'] == 'assistant' %}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def save_architecture(folder: str | Path, width: int = 128, layers: int = 4) -> None:
    """Write the configuration (0.8M parameters, or 0.1M with 2 layers of width 64) and the word-level tokenizer."""
    words = dict.fromkeys(LETTERS) | dict.fromkeys([*PRIOR_SKILLS, *NEW_SKILLS, *SPARE_SKILLS])
    texts = [LAPTOP_TEMPLATE.format(prompt="", demonstration=""), *(style(["a", "a"]) for style in STYLES.values())]
    words |= dict.fromkeys(" ".join(texts).split())
    vocabulary = {word: index for index, word in enumerate([*SPECIAL_TOKENS, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, additional_special_tokens=[USER, ASSISTANT]
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=vocabulary[PAD],
        bos_token_id=None,
        eos_token_id=vocabulary[END],
    ).save_pretrained(folder)


if __name__ == "__main__":
    save_architecture(sys.argv[1], *map(int, sys.argv[2:]))
