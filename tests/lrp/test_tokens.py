"""Relevance of tokens: by hand where the model is linear, by another way into a transformer; IG beside captum."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.tiny_gpt import TinyGPT
from tests import peers
from zsu_fast.lrp import relevance
from zsu_fast.lrp.embedded import embeddings
from zsu_fast.lrp.tokens import integrated_gradients, log_probability, token_relevance

TOKENS = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2]])
COUNTED = torch.tensor([[False, False, False, True, True], [False, False, True, False, False]])


class Sum(nn.Module):
    """Each position's logits are W times the sum of the embeddings so far."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.tokens(tokens).cumsum(1))


@pytest.fixture
def gpt() -> TinyGPT:
    torch.manual_seed(0)
    return TinyGPT(11, width=16, layers=2, heads=2).double().eval()


def scored(logits: Tensor) -> Tensor:
    """The first-order part of F, written out."""
    found = []
    for row in range(len(TOKENS)):
        total = 0
        for t in COUNTED[row].nonzero()[:, 0].tolist():
            at = logits[row, t - 1]
            slope = F.one_hot(TOKENS[row, t], logits.shape[-1]) - at.detach().softmax(-1)
            total = total + (at * slope).sum()
        found.append(total)
    return torch.stack(found)[:, None]


def test_a_linear_model_by_hand():
    """R of token s is the sum over counted t > s of (1[token t] - p_t) W e_s."""
    torch.manual_seed(0)
    model = Sum().double().eval()
    with torch.no_grad():
        logits, embedded = model(TOKENS), model.tokens(TOKENS)
        expected = torch.zeros(2, 5, dtype=torch.float64)
        for row, t in COUNTED.nonzero().tolist():
            slope = F.one_hot(TOKENS[row, t], 9) - logits[row, t - 1].softmax(-1)
            for s in range(t):
                expected[row, s] += slope @ model.head.weight @ embedded[row, s]
    (found,) = token_relevance(model, TOKENS, [COUNTED])
    torch.testing.assert_close(found.input, expected, rtol=1e-4, atol=1e-7)  # the stabiliser of epsilon is 1e-6
    torch.testing.assert_close(found.logits[:, 0], log_probability(logits, TOKENS, COUNTED))


def test_log_probability_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]]])
    tokens = torch.tensor([[0, 1, 0]])
    both = torch.tensor([[False, True, True]])
    expected = torch.tensor(0.5).log() + 2 - torch.tensor(2.0).exp().add(1).log()
    torch.testing.assert_close(log_probability(logits, tokens, both), expected[None])


def test_a_transformer_as_from_its_embeddings(gpt):
    """The same as `relevance` of a function that is given the embeddings and runs the rest of the model."""

    def behind(x: Tensor) -> Tensor:
        x = x + gpt.places(torch.arange(x.shape[1]))
        for block in gpt.blocks:
            x = block(x)
        return scored(gpt.head(gpt.norm(x)))

    expected = relevance(behind, gpt.tokens(TOKENS).detach(), 0, composite="attnlrp", layers=[])
    (found,) = token_relevance(gpt, TOKENS, [COUNTED], layers=None)
    torch.testing.assert_close(found.input, expected.input.sum(-1))
    assert {"blocks.0.up", "blocks.1.down", "blocks.0.heads"} <= set(found.neurons)
    assert found.neurons["blocks.0.up"].shape == (2, 64)
    assert (found.input[1, 2:] == 0).all()  # after the last counted token nothing counts, nor the token itself


def test_sets_share_a_pass_and_texts_do_not_touch_each_other(gpt):
    sets = [COUNTED, COUNTED.roll(1, 1) | COUNTED]
    sets[1][:, 0] = False
    together = token_relevance(gpt, TOKENS, sets)
    for counted, found in zip(sets, together, strict=True):
        torch.testing.assert_close(found.input, token_relevance(gpt, TOKENS, [counted])[0].input)
        longer = F.pad(TOKENS[:1], (0, 3), value=6), F.pad(counted[:1], (0, 3))
        alone = token_relevance(gpt, longer[0], [longer[1]])[0]
        torch.testing.assert_close(alone.input[:, :5], found.input[:1])
        assert (alone.input[:, 5:] == 0).all()


def test_the_model_is_left_as_it_is(gpt):
    gpt.blocks[0].train()  # nothing in it acts in training
    before, flags = copy.deepcopy(gpt.state_dict()), [module.training for module in gpt.modules()]
    token_relevance(gpt, TOKENS, [COUNTED])
    integrated_gradients(gpt, TOKENS, COUNTED, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in gpt.state_dict().items())
    assert [module.training for module in gpt.modules()] == flags
    assert all(p.grad is None and p.requires_grad for p in gpt.parameters())
    assert torch.equal(embeddings(gpt, TOKENS), gpt.tokens(TOKENS))


def test_integrated_gradients_as_captum_has_them(gpt):
    captum = peers.import_captum()

    def behind(x: Tensor) -> Tensor:
        x = x + gpt.places(torch.arange(x.shape[1]))
        for block in gpt.blocks:
            x = block(x)
        many = len(x) // len(TOKENS)  # captum runs the steps as one batch
        return log_probability(gpt.head(gpt.norm(x)), TOKENS.repeat(many, 1), COUNTED.repeat(many, 1))

    embedded = gpt.tokens(TOKENS).detach()
    for baseline in (None, 6):
        nothing = torch.zeros_like(embedded) if baseline is None else gpt.tokens(torch.full_like(TOKENS, 6)).detach()
        expected = captum.attr.IntegratedGradients(behind).attribute(
            embedded, nothing, n_steps=32, method="riemann_middle"
        )
        found, error = integrated_gradients(gpt, TOKENS, COUNTED, steps=32, baseline=baseline)
        torch.testing.assert_close(found, expected.sum(-1))
        change = behind(embedded) - behind(nothing)
        torch.testing.assert_close(error, (expected.sum((1, 2)) - change).abs() / change.abs())
        assert (integrated_gradients(gpt, TOKENS, COUNTED, steps=256, baseline=baseline)[1] < 1e-3).all()


@pytest.mark.models
@pytest.mark.parametrize("name", ["GPT2", "Llama", "Qwen2"])
def test_models_of_transformers(name):
    """As from `inputs_embeds`, which is another way into the same model."""
    transformers = peers.import_transformers()
    sizes = {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 1}
    if name == "GPT2":
        config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, **sizes)
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = getattr(transformers, f"{name}Config")(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            **sizes,
        )  # fmt: skip
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    model = model.double().eval()
    table = model.get_input_embeddings()
    other = FromEmbeddings(model).eval()
    expected = relevance(other, table(TOKENS).detach(), 0, composite="attnlrp", layers=[])
    (found,) = token_relevance(model, TOKENS, [COUNTED])
    torch.testing.assert_close(found.input, expected.input.sum(-1))
    assert found.input.abs().sum() > 0
    _, error = integrated_gradients(model, TOKENS, COUNTED, steps=64, baseline=6)
    assert (error < 0.05).all()


class FromEmbeddings(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, x: Tensor) -> Tensor:
        return scored(self.inner(inputs_embeds=x).logits)


class OneHot(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return F.one_hot(tokens, 9).float()


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tokens(tokens).mean(1)


@pytest.mark.parametrize(("text", "change"), [
    ("tokens: expected int64 .B, T., got torch.float32", {"tokens": TOKENS.float()}),
    ("tokens: expected int64 .B, T., got torch.int64 .5,.", {"tokens": TOKENS[0]}),
    ("counted: expected bool .2, 5., got torch.int64", {"counted": COUNTED.long()}),
    ("counted: expected at least one", {"counted": torch.zeros_like(COUNTED)}),
    ("counted: expected at least one token of each text, and not its first", {"counted": torch.ones_like(COUNTED)}),
    ("model: it looks up no embeddings", {"model": OneHot()}),
    ("model: expected logits .2, 5, vocabulary.", {"model": Pooled()}),
])  # fmt: skip
def test_refusals(text, change):
    given = {"model": Sum().eval(), "tokens": TOKENS, "counted": COUNTED} | change
    with pytest.raises((ValueError, TypeError), match=f"^{text}"):
        token_relevance(given["model"], given["tokens"], [given["counted"]])
    with pytest.raises((ValueError, TypeError), match=f"^{text}"):
        integrated_gradients(**given)
    with pytest.raises(ValueError, match="^steps: expected at least 1, got 0"):
        integrated_gradients(Sum(), TOKENS, COUNTED, steps=0)
