"""The models that are measured whole: VGG-16, ResNet-50 and ViT in plain torch, at the shapes of their papers.

Weights are random but behave like trained ones: activations neither vanish nor explode, BatchNorm has statistics of
real activations and factors that are not one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VGG(nn.Module):
    """VGG-16 (Simonyan & Zisserman 2015, configuration D), without BatchNorm."""

    LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)

    def __init__(self, size: int = 224, divisor: int = 1, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for layer in self.LAYERS:
            if layer == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, layer // divisor, 3, padding=1), nn.ReLU(inplace=True)]
            channels = layer // divisor
        self.features = nn.Sequential(*layers)
        hidden = 4096 // divisor
        self.classifier = nn.Sequential(
            nn.Linear(channels * (size // 32) ** 2, hidden), nn.ReLU(inplace=True), nn.Dropout(),
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(),
            nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class ConvNorm(nn.Sequential):
    """A convolution and its BatchNorm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class Sum(nn.Module):
    """The sum of a residual connection, as a module: zennit hangs its rule on it."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = ConvNorm(inputs, width, 1)
        self.conv2 = ConvNorm(width, width, 3, stride)
        self.conv3 = ConvNorm(width, outputs, 1)
        self.shortcut = ConvNorm(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()
        self.relu1, self.relu2, self.relu3 = (nn.ReLU(inplace=True) for _ in range(3))
        self.sum = Sum()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.relu2(self.conv2(self.relu1(self.conv1(x)))))
        return self.relu3(self.sum(y, self.shortcut(x)))


class ResNet(nn.Module):
    """ResNet-50 (He et al. 2016; the stride at the 3 x 3 convolution, as everywhere today)."""

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.stem, self.relu = ConvNorm(3, width, 7, 2), nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        layers: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                layers.append(Bottleneck(channels, width << stage, 2 if stage > 0 and block == 0 else 1))
                channels = 4 * (width << stage)
        self.layers = nn.Sequential(*layers)
        self.average, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.pool(self.relu(self.stem(x))))
        return self.fc(torch.flatten(self.average(x), 1))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.fc1 = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 4 * width)
        self.act, self.fc2 = nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """A vision transformer with a class token (Dosovitskiy et al. 2021); B/16 unless told otherwise."""

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        size: int = 224,
        patch: int = 16,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


@torch.no_grad()
def settle(model: nn.Module, images: Tensor) -> nn.Module:
    """Draw the weights of `model`, on its device; BatchNorm's statistics are those of its activations on `images`."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gain = 2.0 if isinstance(model, VGG | ResNet) else 1.0  # a ReLU halves the second moment
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, (gain / fan_in) ** 0.5)
            if module.bias is not None:
                module.bias.normal_(0, 0.1)
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            low, high = (0.2, 0.6) if name.startswith("layers") and ".conv3" in name else (0.5, 1.5)
            module.weight.uniform_(low, high)  # branches are weaker than what they are added to
            module.bias.normal_(0, 0.2)
    if isinstance(model, ViT):
        model.token.normal_(0, 0.5)
        model.position.normal_(0, 0.5)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # what the batch has, and nothing of what was there before
        norm.train()
    model.requires_grad_(False).eval()
    if norms:
        for norm in norms:
            norm.train()
        model(images)
    return model.eval()


def natural(samples: int, size: int, device: torch.device) -> Tensor:
    """Random images with the spectrum of photographs: coarse structure under fine, normalised, [N, 3, size, size]."""
    octaves = [2**i for i in range(size.bit_length()) if 2**i <= size]
    layers = (torch.randn(samples, 3, n, n, device=device) / n**0.5 for n in octaves)
    images = sum(F.interpolate(layer, size=(size, size), mode="bilinear", align_corners=False) for layer in layers)
    assert isinstance(images, Tensor)
    return (images - images.mean()) / images.std()
