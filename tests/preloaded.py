"""What the processes of tests would else import and build each for itself."""

from __future__ import annotations

import gc
import importlib
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import tests.modules.conftest  # noqa: F401
from lightning_sdft.commands.fit import main

LATE = [
    "IPython.core.interactiveshell",
    "matplotlib.pyplot",
    "pandas",
    "peft.tuners.lora",
    "tensorboard.backend.event_processing.event_accumulator",
    "torch.utils.tensorboard",
    "transformers.generation.utils",
    "transformers.models.llama.modeling_llama",
    "transformers.quantizers.auto",
]
"""What is imported when it is first used."""

EXPERIMENT = Path(__file__).parents[1] / "configs" / "experiment" / "laptop_sdft.yaml"

for module in LATE:
    importlib.import_module(module)
get_checkpoint_conversion_mapping("llama")
with redirect_stdout(StringIO()), suppress(SystemExit):
    main(["fit", "--config", str(EXPERIMENT), "--print_config"])
gc.freeze()  # what is here stays: no copy needs to look through it for what is not used any more
