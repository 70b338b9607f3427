"""The benchmark's GANs: killed and resumed with the same bits; a digit that is left out is neither seen nor drawn."""

import pytest
import torch
from torch import nn

from bench.dcgan import Recipe, drawn, trained

SMALL = {"epochs": 2, "latent": 4, "width": 2, "batch": 8}


@pytest.fixture
def digits():
    labels = torch.arange(40) % 10
    return torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0)), labels


def quiet(text):
    pass


@pytest.mark.parametrize("conditional", [False, True])
def test_what_was_killed_goes_on_with_the_same_bits(tmp_path, digits, conditional):
    recipe = Recipe(conditional, **SMALL)
    whole = trained(recipe, *digits, tmp_path / "whole", quiet)

    def kill(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # after the first epoch, before it is kept: it is run again
        trained(recipe, *digits, tmp_path / "killed", kill)
    said = []

    def kill_later(text):
        said.append(text)
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(recipe, *digits, tmp_path / "killed", kill_later)
    resumed = trained(recipe, *digits, tmp_path / "killed", said.append)
    assert [text[:12] for text in said] == ["epoch 1 of 2", "epoch 2 of 2", "epoch 2 of 2"]
    latents = drawn(recipe, 5, torch.Generator().manual_seed(0))
    assert torch.equal(whole.generator(latents), resumed.generator(latents))
    assert torch.equal(whole.discriminator(digits[0]), resumed.discriminator(digits[0]))
    assert resumed.steps == 10 and resumed.seconds > 0 and not resumed.generator.training
    again = trained(recipe, *digits, tmp_path / "killed", said.append)
    assert len(said) == 3 and again.seconds == pytest.approx(resumed.seconds, abs=0.06)
    assert torch.equal(again.generator(latents), resumed.generator(latents))


def test_shapes_and_codes(tmp_path, digits):
    recipe = Recipe(True, **SMALL)
    gan = trained(recipe, *digits, tmp_path, quiet)
    latents = drawn(recipe, 300, torch.Generator().manual_seed(1))
    codes = latents[:, 4:]
    assert latents.shape == (300, 14) and set(codes.unique().tolist()) == {0.0, 1.0} and bool((codes.sum(1) == 1).all())
    assert bool((codes.sum(0) > 10).all())
    images = gan.generator(latents)
    assert images.shape == (300, 1, 28, 28) and bool(((images >= 0) & (images <= 1)).all())
    assert gan.discriminator(images).shape == (300,)
    assert not torch.allclose(images[0], gan.generator(torch.cat([latents[:1, :4], codes[:1].roll(1, 1)], 1))[0])


def test_a_digit_that_is_left_out_is_neither_seen_nor_drawn(tmp_path, digits, monkeypatch):
    images, labels = digits
    marked = images.clone()
    marked[labels == 4] = torch.nan  # it would spread
    seen = []
    called = nn.Linear.forward

    def forward(self, x):
        if self.in_features == 14:
            seen.append(x[:, 4:].sum(0))
        return called(self, x)

    monkeypatch.setattr(nn.Linear, "forward", forward)
    gan = trained(Recipe(True, without=4, **SMALL), marked, labels, tmp_path, quiet)
    drawn_codes = torch.stack(seen).sum(0)
    assert drawn_codes[4] == 0 and bool((drawn_codes[torch.arange(10) != 4] > 0).all())
    assert all(bool(p.isfinite().all()) for p in gan.generator.parameters())
