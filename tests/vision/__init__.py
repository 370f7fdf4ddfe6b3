"""Vision-language models of Qwen2-VL's kind: prompts with images, from rows to an exported folder."""
