"""Preprocessing as the libraries' own, to the last bit: timm's, torchvision's, transformers'; what is said of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.peers import import_timm, import_torchvision, import_transformers
from zsu_fast.cli.models import _timm_preprocess, _torchvision_preprocess
from zsu_fast.cli.preprocess import INTERPOLATIONS, Preprocess
from zsu_fast.cli.processor import processor_of


def photos(side: int = 64) -> list[Image.Image]:
    """Upright, lying, odd and even lengths, and one of the size that models take."""
    draw = np.random.default_rng(0)
    sizes = [(81, 93), (130, 97), (64, 64), (65, 129), (200, 66)]
    noise = [Image.fromarray(draw.integers(0, 256, (h // 2, w // 2, 3), dtype=np.uint8)) for h, w in sizes]
    return [
        image.resize((w * side // 64, h * side // 64), Image.Resampling.BICUBIC)
        for image, (h, w) in zip(noise, sizes, strict=True)
    ]


def same(preprocess: Any, original: Any, pictures: list[Image.Image]) -> None:
    expected = torch.stack([original(picture) for picture in pictures])
    assert torch.equal(preprocess(pictures), expected)


@pytest.mark.models
@pytest.mark.parametrize("crop", ["center", "squash", "border"])
@pytest.mark.parametrize(
    ("share", "interpolation", "size"),
    [
        (0.875, "bicubic", 56),
        (0.9, "bilinear", 57),
        (1.0, "bicubic", 64),
        (0.95, "lanczos", 64),
        (0.965, "nearest", 60),
    ],
)
def test_timm(crop: str, share: float, interpolation: str, size: int) -> None:
    data = import_timm().data
    config = {
        "input_size": (3, size, size), "interpolation": interpolation, "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225), "crop_pct": share, "crop_mode": crop,
    }  # fmt: skip
    preprocess = _timm_preprocess(data, config)
    same(preprocess, data.create_transform(**config, is_training=False), photos())
    assert f"{crop} crop of {share:g}" in preprocess.source and preprocess.steps[0] == "convert to RGB"
    seen = preprocess.inverse(preprocess(photos()))
    assert -0.01 < float(seen.min()) < 0.2 and 0.8 < float(seen.max()) < 1.01  # the mean and deviation are known


@pytest.mark.models
def test_timm_of_all_its_models() -> None:
    """What their configs hold is one of the kinds above; and a crop that is not square runs timm's own."""
    timm = import_timm()
    kinds = set()
    for name in timm.list_models():
        if (config := timm.get_pretrained_cfg(name)) is not None:
            kinds.add((config.crop_mode, config.interpolation, config.fixed_input_size and config.input_size))
    assert {kind[0] for kind in kinds} <= {"center", "squash", "border"}
    assert {kind[1] for kind in kinds} <= set(INTERPOLATIONS)
    config = timm.data.resolve_data_config({"input_size": (3, 48, 64), "crop_pct": 0.9, "interpolation": "bicubic"})
    same(_timm_preprocess(timm.data, config), timm.data.create_transform(**config, is_training=False), photos())


@pytest.mark.models
def test_torchvision() -> None:
    """The weights of every classifier; pixels for each combination of numbers that there is."""
    models = import_torchvision().models
    seen = {}
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            preprocess = _torchvision_preprocess(weights)
            seen[preprocess.size, preprocess.resize, preprocess.interpolation] = preprocess, weights.transforms()
    assert len(seen) > 10
    for preprocess, original in sorted(seen.values(), key=lambda pair: pair[0].size)[:8]:
        same(preprocess, original, photos(200)[:4])


PROCESSORS = {
    "ViTImageProcessor": {"size": {"height": 32, "width": 32}},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 48}, "crop_pct": 0.875},
    "BitImageProcessor": {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
    "EfficientNetImageProcessor": {"size": {"height": 40, "width": 40}, "rescale_offset": True},
    "LevitImageProcessor": {"size": {"shortest_edge": 40}},
    "MobileViTImageProcessor": {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
    "PoolFormerImageProcessor": {"crop_pct": 0.9},
    "BeitImageProcessor": {"size": {"height": 32, "width": 32}, "do_rescale": False},
}


@pytest.mark.models
@pytest.mark.parametrize("name", PROCESSORS)
def test_transformers(tmp_path: Path, name: str) -> None:
    """Each with keys of its own: crop_pct, flipped channels, an offset, no rescaling."""
    processor = getattr(import_transformers(), name)(**PROCESSORS[name])
    processor.save_pretrained(tmp_path)
    pictures = photos()
    expected = processor(images=pictures, return_tensors="pt")["pixel_values"]
    preprocess = processor_of(tmp_path, None)
    assert torch.equal(preprocess(pictures), expected)
    arrays = np.stack([np.asarray(picture.resize((40, 50))) for picture in pictures])
    expected = processor(images=list(arrays), return_tensors="pt")["pixel_values"]
    assert torch.equal(preprocess(arrays), expected)
    assert preprocess.steps[1].startswith(name) and preprocess.source == "preprocessor_config.json"
    if name not in ("EfficientNetImageProcessor",):  # its offset is not undone
        seen = preprocess.inverse(preprocess(pictures))
        assert -0.01 < float(seen.min()) < 0.2 and 0.8 < float(seen.max()) < 1.01


@pytest.mark.models
def test_transformers_with_options(tmp_path: Path) -> None:
    transformers = import_transformers()
    transformers.BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(
        tmp_path
    )
    changed = processor_of(tmp_path, None).overridden(mean=(0.1, 0.2, 0.3), std=None, size=(64, 64))
    expected = transformers.BitImageProcessor(
        size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}, image_mean=[0.1, 0.2, 0.3]
    )
    assert torch.equal(changed(photos()), expected(images=photos(), return_tensors="pt")["pixel_values"])
    grey = np.zeros((2, 20, 20, 1), np.uint8)
    assert changed(grey).shape == (2, 3, 64, 64)  # as an image loader would give it: RGB
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"preprocessor_config.json gives no image processor"):
        processor_of(tmp_path, None)
    (tmp_path / "preprocessor_config.json").unlink()
    assert "assumed" in processor_of(tmp_path, type("Config", (), {"image_size": 8})).source


def test_steps_say_what_is_done() -> None:
    steps = Preprocess((0.5,), (0.25,), (224, 224), 256, "bicubic", 3).steps
    assert steps == [
        "convert to RGB",
        "resize the shorter side to 256 (bicubic)",
        "cut the middle 224 x 224 out",
        "(of a .npz, what is 224 x 224 already is not resized)",
        "scale 0..255 to 0..1",
        "subtract the mean 0.5, divide by the deviation 0.25",
    ]
    assert Preprocess(size=(8, 9)).steps[1] == "resize to 8 x 9, whatever its shape (bilinear)"
    assert Preprocess().steps == ["keep it grey or RGB, as it is", "scale 0..255 to 0..1"]
    with pytest.raises(ValueError, match="interpolation must be one of nearest, .*, got 'cubic'"):
        Preprocess(interpolation="cubic")
