"""AttnLRP and CP-LRP on a small ViT: against the definitions in relevance form, and against LXT."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import peers
from tests.lrp.nets import Block, ViT, randomize
from zsu_fast.lrp import Composite, Epsilon, Zero, relevance

TINY = 1e-13
EXACT = Composite(Epsilon(TINY), Epsilon(TINY))
EXACT_CP = Composite(Epsilon(TINY), Epsilon(TINY), attention="cp_lrp")


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


def stabilized(z: Tensor) -> Tensor:
    return z + TINY * torch.where(z >= 0, 1.0, -1.0)


class ByDefinition:
    """The ViT of `nets` backwards, in R form: each rule as its paper states it, with no modified gradient.

    AttnLRP (Achtibat et al. 2024): linear eq. 8 (epsilon), softmax Prop. 3.1, products Prop. 3.3, LayerNorm Prop. 3.4.
    """

    def __init__(self, model: ViT) -> None:
        self.model = model

    def linear(self, layer: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
        z = layer(x)
        if isinstance(layer, nn.Conv2d):
            return x * F.conv_transpose2d(relevance / stabilized(z), layer.weight, stride=layer.stride)
        return x * ((relevance / stabilized(z)) @ layer.weight)

    def norm(self, layer: nn.LayerNorm, x: Tensor, relevance: Tensor) -> Tensor:
        sigma = (x.var(-1, correction=0, keepdim=True) + layer.eps).sqrt()
        width = x.shape[-1]
        centre = torch.eye(width, dtype=x.dtype) - 1 / width
        jacobian = layer.weight[:, None] * centre  # of y sigma: 1 / sigma is a constant
        contributions = jacobian * x[..., None, :] / sigma[..., None]  # [..., output, input]
        return (contributions * (relevance / stabilized(layer(x)))[..., None]).sum(-2)

    def product(self, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """a [.., i, j] @ b [.., j, k]: each contribution a_ij b_jk is shared by its two factors."""
        share = relevance / stabilized(2 * (a @ b))
        contributions = a[..., :, :, None] * b[..., None, :, :] * share[..., :, None, :]  # [.., i, j, k]
        return contributions.sum(-1), contributions.sum(-3)

    def softmax(self, x: Tensor, relevance: Tensor) -> Tensor:
        return x * (relevance - x.softmax(-1) * relevance.sum(-1, keepdim=True))

    def block(self, block: Block, x: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """(relevance of x, relevance of the heads [N, heads])."""
        batch, tokens, width = x.shape
        attn = block.attn

        def split(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return t.reshape(batch, tokens, 3, attn.heads, -1).permute(2, 0, 3, 1, 4).unbind()

        normed = block.norm1(x)
        q, k, v = split(attn.qkv(normed))
        keys = k.transpose(-1, -2) / math.sqrt(k.shape[-1])
        scores = q @ keys
        weights = scores.softmax(-1)
        heads = weights @ v
        joined = heads.transpose(1, 2).reshape(batch, tokens, width)
        after = x + attn.proj(joined)
        normed2 = block.norm2(after)
        hidden = block.fc1(normed2)
        mlp = block.fc2(F.gelu(hidden))

        ratio = relevance / stabilized(after + mlp)
        down = self.linear(block.fc2, F.gelu(hidden), mlp * ratio)
        through_mlp = self.norm(block.norm2, after, self.linear(block.fc1, normed2, down))
        relevance = after * ratio + through_mlp
        ratio = relevance / stabilized(after)
        r_joined = self.linear(attn.proj, joined, attn.proj(joined) * ratio)
        r_heads = r_joined.reshape(batch, tokens, attn.heads, -1).transpose(1, 2)
        r_weights, r_v = self.product(weights, v, r_heads)
        r_q, r_k = self.product(q, keys, self.softmax(scores, r_weights))
        r_qkv = torch.stack([r_q, r_k.transpose(-1, -2), r_v]).permute(1, 3, 0, 2, 4).reshape(batch, tokens, 3 * width)
        through_attention = self.norm(block.norm1, x, self.linear(attn.qkv, normed, r_qkv))
        return x * ratio + through_attention, r_heads.sum((2, 3))

    @torch.no_grad()
    def __call__(self, images: Tensor, target: int) -> tuple[Tensor, list[Tensor]]:
        model = self.model
        patches = model.patch(images)
        x = patches.flatten(2).transpose(1, 2)
        embedded = torch.cat([model.token.expand(len(x), -1, -1), x], 1)
        inputs = [embedded + model.position]
        for block in model.blocks:
            inputs.append(block(inputs[-1]))
        last = model.norm(inputs[-1])
        logits = model.head(last[:, 0])
        relevance = logits * F.one_hot(torch.tensor(target), logits.shape[1])
        r_last = torch.zeros_like(last)
        r_last[:, 0] = self.linear(model.head, last[:, 0], relevance)
        relevance = self.norm(model.norm, inputs[-1], r_last)
        heads = []
        for block, x in zip(reversed(model.blocks), reversed(inputs[:-1]), strict=True):
            relevance, of_heads = self.block(block, x, relevance)
            heads.insert(0, of_heads)
        relevance = (relevance * embedded / stabilized(inputs[0]))[:, 1:]
        return self.linear(model.patch, images, relevance.transpose(1, 2).reshape(patches.shape)), heads


@pytest.mark.parametrize("fused", [True, False], ids=["sdpa", "written out"])
def test_attnlrp_by_definition(images: Tensor, fused: bool) -> None:
    model = randomize(ViT(fused=fused))
    expected, heads = ByDefinition(model)(images, 2)
    found = relevance(model, images, 2, composite=EXACT)
    torch.testing.assert_close(found.input, expected, rtol=1e-7, atol=1e-9)
    if fused:
        for i, of_heads in enumerate(heads):
            torch.testing.assert_close(found.neurons[f"blocks.{i}.attn.heads"], of_heads, rtol=1e-7, atol=1e-9)


def test_same_with_and_without_the_fused_function(images: Tensor) -> None:
    fused, written = randomize(ViT()), randomize(ViT(fused=False))
    written.load_state_dict(fused.state_dict())
    for composite in (EXACT, EXACT_CP):
        first, second = (relevance(m, images, 1, composite=composite) for m in (fused, written))
        torch.testing.assert_close(first.input, second.input)
        for name, units in second.neurons.items():
            torch.testing.assert_close(first.neurons[name], units)


@pytest.mark.parametrize("attention", ["attnlrp", "cp_lrp"])
def test_same_as_lxt(images: Tensor, attention: str) -> None:
    """LXT's primitives in gradient-times-input form, put where its patches put them; LRP-0 in linear layers."""
    peers.import_lxt()
    from lxt.efficient.patches import layer_norm_forward
    from lxt.efficient.rules import divide_gradient, identity_rule_implicit, stop_gradient

    model = randomize(ViT())
    x = images.clone().requires_grad_()
    h = model.patch(x).flatten(2).transpose(1, 2)
    h = torch.cat([model.token.expand(len(h), -1, -1), h], 1) + model.position
    for block in model.blocks:
        qkv = block.attn.qkv(layer_norm_forward(block.norm1, h))
        q, k, v = qkv.reshape(*h.shape[:2], 3, block.attn.heads, -1).permute(2, 0, 3, 1, 4)
        if attention == "attnlrp":
            q, k, v = divide_gradient(q, 4), divide_gradient(k, 4), divide_gradient(v, 2)
        else:
            q, k = stop_gradient(q), stop_gradient(k)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(h.shape)
        h = h + block.attn.proj(attended)
        hidden = block.fc1(layer_norm_forward(block.norm2, h))
        h = h + block.fc2(identity_rule_implicit(F.gelu, hidden))
    logits = model.head(layer_norm_forward(model.norm, h)[:, 0])
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), x)

    found = relevance(model, images, 3, composite=Composite(Zero(), Zero(), attention=attention))
    torch.testing.assert_close(found.input, gradient * images, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("self_attention", [True, False])
@pytest.mark.parametrize("composite", ["attnlrp", "cp_lrp"])
def test_multihead_attention(composite: str, need_weights: bool, batch_first: bool, self_attention: bool) -> None:
    """The module gives the same as the same attention written with functions; its parameters are named neurons."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(12, 3, batch_first=batch_first)
            self.head = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            other = x if self_attention else x.flip(1)
            query, key = (x, other) if batch_first else (x.transpose(0, 1), other.transpose(0, 1))
            key = query if self_attention else key
            y, weights = self.attn(query, key, key, need_weights=need_weights)
            assert (weights is None) == (not need_weights)
            return self.head(y.mean(1 if batch_first else 0))

    class Written(Module):
        def forward(self, x: Tensor) -> Tensor:
            weights, biases = self.attn.in_proj_weight.chunk(3), self.attn.in_proj_bias.chunk(3)
            other = x if self_attention else x.flip(1)
            q, k, v = (
                F.linear(t, w, b).unflatten(-1, (3, -1)).transpose(1, 2)
                for t, w, b in zip((x, other, other), weights, biases, strict=True)
            )
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return self.head(F.linear(y, self.attn.out_proj.weight, self.attn.out_proj.bias).mean(1))

    model = randomize(Module())
    nn.init.normal_(model.attn.in_proj_bias)
    written = randomize(Written())
    written.load_state_dict(model.state_dict())
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    first, second = (relevance(m, x, 1, composite=composite) for m in (model, written))
    torch.testing.assert_close(first.logits, model(x))
    torch.testing.assert_close(first.input, second.input)
    assert list(first.neurons) == ["attn.in_proj_weight", "attn.heads", "attn.out_proj", "head"]
    assert first.neurons["attn.in_proj_weight"].shape == (2, 36)
    for name, units in second.neurons.items():
        torch.testing.assert_close(first.neurons[name], units)


def test_multihead_attention_masks() -> None:
    attn = nn.MultiheadAttention(12, 3, batch_first=True, add_bias_kv=True, add_zero_attn=True)
    head = nn.Linear(12, 4)
    padding = torch.tensor([[False, False, False, True, True], [False] * 5])
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)

    class Model(nn.Module):
        need_weights, last = False, 0

        def __init__(self) -> None:
            super().__init__()
            self.attn, self.head = attn, head

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.attn(x, x, x, key_padding_mask=padding, attn_mask=causal, need_weights=self.need_weights)
            return self.head(y[:, self.last])

    model = randomize(Model())
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    for last in (2, 4):
        found = []
        for need_weights in (True, False):
            model.need_weights, model.last = need_weights, last
            result = relevance(model, x, 0)
            torch.testing.assert_close(result.logits, model(x))
            found.append(result.input)
        torch.testing.assert_close(*found)
        assert (found[0][:, last + 1 :] == 0).all(), "the future is masked"
        assert (found[0][1, : last + 1] != 0).all()
        assert (found[0][0, 3] == 0).all(), "padding is no key"


def test_transformer_encoder_layer_runs_without_its_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True, norm_first=True, activation="gelu")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x)[:, 0])

    model = randomize(Model())
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    found = relevance(model, x)
    torch.testing.assert_close(found.logits, model(x))
    assert [n for n in found.neurons if n.endswith(".heads")] == [f"encoder.layers.{i}.self_attn.heads" for i in (0, 1)]
