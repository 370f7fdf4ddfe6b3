"""The tokens, patches and positions of images, and what is said of images that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from lightning_sdft.errors import DataError, PolicyError
from lightning_sdft.policy import Tokenizer, load_tokenizer
from lightning_sdft.policy.images import FILES, ImageReader, check_image, has_processor
from lightning_sdft.records import Prompt
from tests.conftest import make_byte_tokenizer
from tests.vision.tiny import asked, make_folder, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("vision"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(str(folder))


@pytest.fixture
def reader(tokenizer: Tokenizer) -> ImageReader:
    assert tokenizer.images is not None
    return tokenizer.images


def test_each_image_has_as_many_tokens_as_its_size_gives(
    tokenizer: Tokenizer, reader: ImageReader, tmp_path: Path
) -> None:
    wide, small = picture(tmp_path / "wide.png", 32, 16), picture(tmp_path / "small.png", 8, 8)

    prompt = tokenizer.encode(asked(wide, small))

    assert isinstance(prompt, Prompt)
    assert [each.tokens for each in prompt.images] == [8, 1]  # tokens of 8 pixels on a side
    assert prompt.count(reader.token) == 9
    text = tokenizer.hugging_face.decode(prompt)
    assert text.count("<|vision_start|>") == 2
    assert (
        f"<|vision_start|>{8 * '<|image_pad|>'}<|vision_end|><|vision_start|><|image_pad|><|vision_end|>which" in text
    )


def test_a_text_that_names_the_image_token_is_text(tokenizer: Tokenizer, reader: ImageReader, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 16, 16)
    prompt = tokenizer.encode(asked(path, text="what is <|image_pad|>?"))
    assert prompt.count(reader.token) == 4
    assert "what is <|image_pad|>?" in tokenizer.hugging_face.decode(prompt)
    assert tokenizer.encode_completion("<|image_pad|>").count(reader.token) == 0


def test_an_image_that_lies_on_its_side_is_turned_upright(
    tokenizer: Tokenizer, reader: ImageReader, tmp_path: Path
) -> None:
    image = Image.effect_noise((48, 8), 60).convert("RGB")
    image.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    prompts = tokenizer.encode_all([asked(tmp_path / f"{name}.png") for name in ("upright", "turned")])

    upright, turned = (reader.inputs([prompt], [prompt], left=False) for prompt in prompts)

    assert upright["image_grid_thw"].tolist() == [[1, 2, 12]]
    assert all(torch.equal(each, turned[name]) for name, each in upright.items())


def test_positions_are_those_of_the_model_and_padding_has_none(
    folder: Path, tokenizer: Tokenizer, reader: ImageReader, tmp_path: Path
) -> None:
    sizes = [(32, 16), (8, 24), (40, 40)]
    paths = [picture(tmp_path / f"{index}.png", *size) for index, size in enumerate(sizes)]
    conversations = [asked(*paths, before="first: "), [{"role": "user", "content": "text"}], asked(paths[1])]
    prompts = tokenizer.encode_all(conversations)
    model = AutoModelForImageTextToText.from_pretrained(folder).model
    width = max(map(len, prompts))

    for left in (True, False):
        inputs = reader.inputs(prompts, prompts, left)
        padded = [[0] * (width - len(each)) for each in prompts]
        rows = [pad + list(each) if left else list(each) + pad for pad, each in zip(padded, prompts, strict=True)]
        mask = torch.tensor([[0] * len(pad) + [1] * len(each) for pad, each in zip(padded, prompts, strict=True)])
        mask = mask if left else mask.flip(1)
        ids = torch.tensor(rows)
        expected, _ = model.get_rope_index(
            ids, (ids == reader.token).int(), inputs["image_grid_thw"], attention_mask=mask
        )
        assert torch.equal(inputs["position_ids"], expected)


def test_patches_are_read_when_they_are_used_and_a_changed_image_is_refused(
    tokenizer: Tokenizer, reader: ImageReader, tmp_path: Path
) -> None:
    path = picture(tmp_path / "a.png", 16, 16)
    prompt = tokenizer.encode(asked(path))
    picture(path, 40, 16)
    with pytest.raises(DataError, match=r"a.png: the image has 10 tokens, and had 4"):
        reader.inputs([prompt], [prompt], left=False)
    path.unlink()
    with pytest.raises(DataError, match="there is no image"):
        reader.inputs([prompt], [prompt], left=False)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_broken_image_is_refused(tmp_path: Path, suffix: str) -> None:
    path = picture(tmp_path / f"a.{suffix}", 64, 64)
    check_image(str(path))
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(DataError, match=rf"a.{suffix}' cannot be read .*; replace it, or leave the row out"):
        check_image(str(path))
    path.write_text("no image")
    with pytest.raises(DataError, match="cannot identify"):
        check_image(str(path))


def test_a_template_that_writes_no_image_is_refused(folder: Path, tmp_path: Path, reader: ImageReader) -> None:
    hugging_face = load_tokenizer(str(folder)).hugging_face
    hugging_face.chat_template = "{% for m in messages %}<|im_start|>{{ m['content'] | string }}<|im_end|>{% endfor %}"
    tokenizer = Tokenizer(hugging_face, images=reader)
    with pytest.raises(DataError, match="writes 0 image tokens for 1 images"):
        tokenizer.encode(asked(picture(tmp_path / "a.png", 16, 16)))


def test_a_model_of_text_refuses_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has an image, which .* cannot see; train a model of Qwen2.5-VL's kind"):
        Tokenizer(make_byte_tokenizer()).encode(asked(picture(tmp_path / "a.png", 16, 16)))


def test_a_model_without_processor_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    assert has_processor(folder)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    assert not has_processor(folder)
    with pytest.raises(PolicyError, match=r"reads images and has no preprocessor_config.json"):
        load_tokenizer(str(folder))


def test_saved_files_are_those_of_the_model(folder: Path, reader: ImageReader, tmp_path: Path) -> None:
    reader.save(tmp_path)
    own = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert own
    assert all((folder / name).read_bytes() == content for name, content in own.items())


def test_a_processor_in_one_file_is_read(tmp_path: Path, reader: ImageReader) -> None:
    other = make_folder(tmp_path)
    file = other / "preprocessor_config.json"
    content = {"image_processor": json.loads(file.read_text()), "processor_class": "Qwen2_5_VLProcessor"}
    (other / "processor_config.json").write_text(json.dumps(content))  # as transformers writes a whole processor
    file.unlink()
    again = load_tokenizer(str(other)).images
    assert again is not None
    assert again.processor.to_dict() == reader.processor.to_dict()
