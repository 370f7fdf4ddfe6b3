"""A Hugging Face causal language model as a policy: what it reads, how it decodes, its tokenizer and its adapters."""

from lightning_sdft.policy.lora import LoRA
from lightning_sdft.policy.policy import Policy
from lightning_sdft.policy.tokenizer import Tokenizer, load_tokenizer

__all__ = ["LoRA", "Policy", "Tokenizer", "load_tokenizer"]
