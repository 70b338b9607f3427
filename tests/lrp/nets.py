"""Small networks with the traits that matter to LRP, and random BatchNorm statistics of both signs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Eval mode, float64, and BatchNorm and LayerNorm vectors that are not those of an untrained model."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        if (
            isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm)
            and module.weight is not None
        ):
            nn.init.normal_(module.weight, 0.6, 0.6, generator)
            nn.init.normal_(module.bias, 0, 0.3, generator)
    return model.eval().double()


class VGG(nn.Module):
    """Convolutions with and without BatchNorm, max and average pooling, an MLP on top. All are modules."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=bias), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2, bias=bias), nn.BatchNorm2d(12), nn.ReLU(),
            nn.AvgPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(48, 16, bias=bias), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5, bias=bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class ReluNet(nn.Module):
    """Piecewise linear and, without biases, positively homogeneous: LRP-0 is gradient times input."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, bias=bias), nn.Conv2d(6, 6, 3, padding="same", bias=bias)
        self.fc1, self.fc2 = nn.Linear(54, 20, bias=bias), nn.Linear(20, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(x + F.leaky_relu(self.conv2(x), 0.1), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Sum(nn.Module):
    """The residual sum as a module, over the last dimension: what zennit's Norm rule can be hung on."""

    def forward(self, stacked: Tensor) -> Tensor:
        return stacked.sum(-1)


class ResidualBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int, sum_module: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride > 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.last = nn.ReLU()
        self.sum = Sum() if sum_module else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        identity = self.shortcut(x)
        if self.sum is not None:
            return self.last(self.sum(torch.stack([y, identity], -1)))
        y += identity
        return F.relu(y, inplace=True)


class ResNet(nn.Module):
    """As users write it (functional sums in place), or with `Sum` modules for zennit; the parameters are the same."""

    def __init__(self, sum_module: bool = False) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = (
            nn.Conv2d(3, 8, 3, 1, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=not sum_module),
        )
        self.blocks = nn.Sequential(
            ResidualBlock(8, 8, 1, sum_module),
            ResidualBlock(8, 12, 2, sum_module),
            ResidualBlock(12, 12, 1, sum_module),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu(self.bn(self.conv(x))))
        return self.fc(torch.flatten(self.pool(x), 1))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, fused)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """A vision transformer with a class token."""

    def __init__(self, width: int = 12, heads: int = 3, fused: bool = True) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 5, width))
        self.blocks = nn.Sequential(Block(width, heads, fused), Block(width, heads, fused))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])
