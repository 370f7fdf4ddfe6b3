"""Fine-tune language models on demonstrations without making them forget."""

__version__ = "0.1.0"
