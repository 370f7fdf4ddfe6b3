"""The tiny model and rows with pictures, for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_sdft.policy import Policy
from tests.vision.tiny import make_folder, picture


@pytest.fixture(scope="session", params=["qwen2_5_vl", "qwen2_vl"])
def either_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of each kind in turn."""
    return make_folder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of Qwen2.5-VL's kind."""
    return make_folder(tmp_path_factory.mktemp("vision"))


@pytest.fixture
def seeing(vision_folder: Path) -> Policy:
    """Its policy."""
    return Policy.load(str(vision_folder))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of different sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    sizes = [(20, 31), (33, 17), (8, 40), (50, 50)]
    return [picture(folder / f"{width}.png", width, height) for width, height in sizes]
