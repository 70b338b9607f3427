"""Small generators, linear judges that tell their images apart, and images to forget."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 5


def judge_of(images: Tensor, seed: int, rows: Tensor | None = None) -> nn.Module:
    """A linear judge of what is made, all classes about as frequent; other seeds see a little of it otherwise."""
    flat = images.flatten(1)
    drawn = torch.randn(CLASSES, flat.shape[1], generator=torch.Generator().manual_seed(seed))
    weight = drawn if rows is None else rows + 0.1 * drawn
    judge = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(flat.shape[1], affine=False), nn.Linear(flat.shape[1], CLASSES))
    scores = flat @ weight.T
    with torch.no_grad():
        judge[2].weight.copy_(12 * weight / scores.std())
        judge[2].bias.copy_(-(flat @ judge[2].weight.T).mean(0))
    return judge


def generator_and_judges() -> tuple[nn.Module, nn.Module, nn.Module]:
    """(generator of images [N, 10] from latents [N, 6], judge, a second one that is nearly the same), for training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10), nn.Tanh())
        for module in model:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1.5 * (2 / module.in_features) ** 0.5)
        images = model(torch.randn(1000, 6)).detach()
    judge = judge_of(images, 1)
    return model, judge, judge_of(images, 2, judge[2].weight.detach())


def generator_and_items() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """(generator of images [N, 24] from latents [N, 6], judge, three images that it makes, 16 that it does not: of two
    pixels each)."""
    generator = torch.Generator().manual_seed(5)
    layers = nn.Linear(6, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 24), nn.Tanh()
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
                layer.weight.mul_((2 / layer.in_features) ** 0.5)
                layer.bias.zero_()
        judge = judge_of(model(torch.randn(1000, 6, generator=generator)), 1)
        items = model(torch.randn(3, 6, generator=generator))
        made = model(torch.randn(16, 6, generator=generator))
    return model, judge.eval(), items, 0.9 * made + 0.1 * made.roll(3, 1)
