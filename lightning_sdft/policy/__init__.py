"""A Hugging Face causal language model used as a policy, with its tokenizer, decoding and adapters."""

from lightning_sdft.policy.lora import LoRA
from lightning_sdft.policy.policy import Policy
from lightning_sdft.policy.thinking import Thinking
from lightning_sdft.policy.tokenizer import Tokenizer, load_tokenizer

__all__ = ["LoRA", "Policy", "Thinking", "Tokenizer", "load_tokenizer"]
