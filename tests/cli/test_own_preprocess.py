"""Preprocessing that a model brings along, in the forms that people have."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.peers import repair_torchvision
from zsu_fast.cli.own_preprocess import OwnPreprocess

PIXELS = np.random.default_rng(0).integers(0, 255, (3, 4, 5, 3), dtype=np.uint8)
PICTURES = [Image.fromarray(pixels) for pixels in PIXELS]
EXPECTED = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255


def of_all(images: Any) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in images])


def of_one(image: Image.Image) -> Tensor:
    assert image.mode == "RGB"  # as no list of them, and no array, has it
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def by_name(*, image: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"image": image.astype(np.float32) / 255}


@pytest.mark.parametrize("function", [of_all, of_one, by_name, lambda images: list(of_all(images))])
@pytest.mark.parametrize("images", [PIXELS, PICTURES], ids=["array", "pictures"])
def test_each_form_gives_the_same_batch(function: Any, images: Any) -> None:
    own = OwnPreprocess(function)
    torch.testing.assert_close(own(images), EXPECTED)
    torch.testing.assert_close(own(images[:1]), EXPECTED[:1])


def test_torchvision() -> None:
    repair_torchvision()
    transforms = pytest.importorskip("torchvision.transforms")
    both = (transforms, pytest.importorskip("torchvision.transforms.v2"))
    for version in both:
        last = version.ToTensor() if version is transforms else version.ToDtype(torch.float32, scale=True)
        own = OwnPreprocess(version.Compose([*([] if version is transforms else [version.ToImage()]), last]))
        for images in (PIXELS, PICTURES):
            torch.testing.assert_close(own(images), EXPECTED)


def test_what_torchvision_composes_is_known_and_turned_back() -> None:
    repair_torchvision()
    transforms = pytest.importorskip("torchvision.transforms")
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    composed = transforms.Compose(
        [transforms.Resize((4, 5)), transforms.ToTensor(), transforms.Normalize(mean=mean, std=std)]
    )
    own = OwnPreprocess(composed)
    assert torch.equal(own(PICTURES), torch.stack([composed(picture) for picture in PICTURES]))
    torch.testing.assert_close(own.inverse(own(PICTURES)), EXPECTED)
    assert own.steps[0] == "convert to RGB" and own.steps[1].startswith("Resize(size=(4, 5)") and len(own.steps) == 4


class Caffe:
    """Mean and deviation on the scale of 0..255."""

    mean, std = np.array([104.0, 117.0, 123.0]), np.ones(3)

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.from_numpy((np.asarray(image) - self.mean) / self.std).permute(2, 0, 1).float()


def test_what_is_turned_back_where_nothing_or_another_scale_is_known() -> None:
    own = OwnPreprocess(Caffe())
    torch.testing.assert_close(own.inverse(own(PICTURES)), EXPECTED, atol=1e-5, rtol=0)
    unknown = OwnPreprocess(lambda images: 7 * of_all(images) - 3)
    seen = unknown.inverse(unknown(PICTURES))
    assert float(seen.amin()) == 0 and float(seen.amax()) == 1 and unknown.normalisation is None
    assert OwnPreprocess(of_one).steps == ["convert to RGB", "of_one"] and OwnPreprocess(Caffe()).steps[1] == "Caffe"


def test_pictures_come_in_the_mode_that_loaders_give() -> None:
    grey, fine = PICTURES[0].convert("L"), Image.fromarray(np.full((4, 5), 99.6, np.float32))
    for picture in (grey, fine, PICTURES[0].convert("RGB")):
        assert OwnPreprocess(of_one)([picture, PICTURES[1]]).shape == (2, 3, 4, 5)
    assert float(OwnPreprocess(of_one)([fine])[0, 0, 0, 0]) == pytest.approx(100 / 255)
    own = OwnPreprocess(lambda images: torch.stack([torch.tensor(np.array(image))[None] for image in images]), "L")
    assert own([PICTURES[0]]).shape == (1, 1, 4, 5)


def test_once_found_the_way_stays() -> None:
    """An error of the callable's own is not hidden behind other ways of calling it."""
    own = OwnPreprocess(of_all)
    own(PIXELS)
    own.function = lambda images: 1 / 0
    with pytest.raises(ZeroDivisionError):
        own(PIXELS)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda images: 3, r"ndarray \[3, 4, 5, 3\] nor one PIL image: it must return a tensor \[3, ...\], got int"),
        (lambda images: torch.zeros([]), r"got Tensor \[\]"),
        (lambda images: images.nothing, "nothing"),
    ],
)
def test_what_gives_no_images_is_refused(function: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"the model's preprocessing takes neither .*{text}"):
        OwnPreprocess(function)(PIXELS)
