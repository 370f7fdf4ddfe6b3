"""What the processes of tests would else import and build each for itself."""

from __future__ import annotations

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import lightning_sdft.cli  # noqa: F401
import tests.modules.conftest  # noqa: F401

get_checkpoint_conversion_mapping("llama")
