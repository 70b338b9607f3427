"""Concepts by their names, with a tiny CLIP of random weights: plumbing, no knowledge."""

import numpy as np
import pytest
import torch

from tests.concepts_data import with_square
from zsu_fast.concepts import clip
from zsu_fast.concepts.clip import clip_bank, likeness

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    try:
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
    except ImportError as error:
        pytest.skip(f"transformers has no CLIP here: {error}")
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": len(words), "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53},
        vision_config=small | {"image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    side = {"height": 16, "width": 16}
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=side).save_pretrained(folder)
    return folder


def test_likeness_is_clips_own(directory):
    pictures = list(np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8))
    texts = ["a red square", "a dog"]
    found = likeness(directory, texts, pictures, batch_size=2)
    model = transformers.CLIPModel.from_pretrained(directory, local_files_only=True).eval()
    processor = transformers.CLIPProcessor.from_pretrained(directory, local_files_only=True)
    with torch.no_grad():
        out = model(**processor(text=texts, images=pictures, return_tensors="pt", padding=True))
    torch.testing.assert_close(found * model.logit_scale.exp(), out.logits_per_image, rtol=1e-4, atol=1e-4)


def test_a_bank_of_what_clip_sorts(directory, planted_net, monkeypatch):
    """A CLIP that knew squares would put those first; one that knows nothing gives concepts that are refused."""
    images = torch.cat([with_square(planted_net.x[:60]), planted_net.x[60:120]])
    pictures = [(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8) for image in images]
    knows = torch.arange(120, 0, -1)[:, None].float()
    nothing = torch.rand(120, 1, generator=torch.Generator().manual_seed(0))
    asked = []

    def sorting(folder, texts, _):
        asked.append((folder, texts))
        return torch.cat([{"square": knows, "nothing": nothing}[text.removeprefix("a photo of ")] for text in texts], 1)

    monkeypatch.setattr(clip, "likeness", sorting)
    bank = clip_bank(planted_net.net, directory, ["square"], pictures, images, count=40)
    assert asked == [(directory, ["a photo of square"])]
    assert bank.evidence[0]["accuracy"] >= 0.95 and bank.evidence[0]["from"] == "clip"
    with pytest.raises(ValueError, match=r"concepts\['nothing'\]: at chance"):
        clip_bank(planted_net.net, directory, ["square", "nothing"], pictures, images, count=40)
    names = ["nothing", "square"]
    assert clip_bank(planted_net.net, directory, names, pictures, images, count=40, at_chance="drop").names == (
        "square",
    )


def test_what_is_wrong_is_named(directory, planted_net, tmp_path):
    images = planted_net.x[:20]
    pictures = list(np.zeros((20, 8, 8, 3), dtype=np.uint8))
    for arguments, options, text in (
        ((tmp_path / "nowhere", ["a"], pictures, images), {"count": 5}, "directory: no such folder"),
        ((tmp_path, ["a"], pictures, images), {"count": 5}, "directory: .* holds no CLIP"),
        ((directory, ["a", "a"], pictures, images), {"count": 5}, "names: expected different names"),
        ((directory, ["a"], pictures[1:], images), {"count": 5}, "images: expected as many as pictures, 19, got 20"),
        ((directory, ["a"], pictures, images), {}, "count: 50 most and 50 least alike need 100 images, got 20"),
    ):
        with pytest.raises(ValueError, match=text):
            clip_bank(planted_net.net, *arguments, **options)
