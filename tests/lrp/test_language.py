"""Relevance of texts, by hand: a model that is linear in the embeddings of its tokens. Targets, padding, refusals."""

import pytest
import torch
from torch import Tensor, nn

from zsu_fast import lrp, relevance


class Linear(nn.Module):
    """Each position's logits are W times the sum of the embeddings so far. It takes a mask, and numbers of places."""

    def __init__(self, classes: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.classes = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False), classes
        self.double().eval()

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        x = self.table(input_ids) if inputs_embeds is None else inputs_embeds
        x = x if attention_mask is None else x * attention_mask[..., None]
        return self.head(x.sum(1) if self.classes else x.cumsum(1))


SMALL = torch.tensor([[1, 4, 2, 8], [3, 0, 5, 7]])
MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]])


def by_hand(model: Linear, mask: Tensor, columns: list[int], tokens: list[int]) -> Tensor:
    """R of token s is W_v e_s, if it is not after the position, nor padding."""
    parts = (model.table(SMALL) @ model.head.weight[tokens][:, :, None])[..., 0]
    places = torch.arange(SMALL.shape[1])
    return (parts * mask * (places <= torch.tensor(columns)[:, None])).detach()


@pytest.mark.parametrize(("target", "columns", "tokens"), [
    ((2, 5), [2, 2], [5, 5]),
    ((-1, 5), [3, 3], [5, 5]),
    ((-3, torch.tensor([1, 2])), [1, 1], [1, 2]),
    ((torch.tensor([0, -1]), torch.tensor([7, 0], dtype=torch.int32)), [0, 3], [7, 0]),
])  # fmt: skip
def test_a_linear_model_by_hand(target, columns, tokens):
    model = Linear()
    found = relevance(model, {"input_ids": SMALL}, target)
    expected = by_hand(model, torch.ones_like(SMALL), columns, tokens)
    torch.testing.assert_close(found.input, expected, rtol=1e-4, atol=1e-7)  # the stabiliser of epsilon is 1e-6
    assert torch.equal(found.logits, model(SMALL)[[0, 1], columns])


@pytest.mark.parametrize(("position", "columns"), [(-1, [3, 1]), (-2, [2, 0]), (1, [1, 1])])
def test_positions_count_from_the_end_of_each_text(position, columns):
    model = Linear()
    found = relevance(model, {"input_ids": SMALL, "attention_mask": MASK}, (position, 3))
    expected = by_hand(model, MASK, columns, [3, 3])
    torch.testing.assert_close(found.input, expected, rtol=1e-4, atol=1e-7)


def test_no_token_is_the_largest_logit_and_no_target_the_last_position():
    model = Linear()
    given = {"input_ids": SMALL, "attention_mask": MASK}
    whole, best = relevance(model, given), relevance(model, given, (-1, None))
    largest = model(SMALL, MASK)[[0, 1], [3, 1]].argmax(1)
    assert torch.equal(whole.input, best.input)
    assert torch.equal(best.input, relevance(model, given, (-1, largest)).input)


def test_several_targets_are_as_each_alone():
    model = Linear()
    targets = [(-1, 5), (torch.tensor([1, 2]), None), None, (0, torch.tensor([2, 3]))]
    together = relevance(model, {"input_ids": SMALL}, targets)
    assert isinstance(together, tuple)
    for target, found in zip(targets, together, strict=True):
        alone = relevance(model, {"input_ids": SMALL}, target)
        assert torch.equal(found.input, alone.input) and torch.equal(found.logits, alone.logits)
        assert found.neurons.keys() == {"head"} and torch.equal(found.neurons["head"], alone.neurons["head"])


@pytest.mark.parametrize("init", ["one", "probability"])
def test_where_relevance_starts(init):
    model = Linear()
    target = (torch.tensor([1, 3]), torch.tensor([2, 6]))
    plain = relevance(model, {"input_ids": SMALL}, target)
    found = relevance(model, {"input_ids": SMALL}, target, init=init)
    logit = plain.logits.gather(1, target[1][:, None])
    start = 1.0 if init == "one" else plain.logits.softmax(1).gather(1, target[1][:, None])
    torch.testing.assert_close(found.input, plain.input / logit * start)
    torch.testing.assert_close(found.neurons["head"].sum(1, keepdim=True), start * torch.ones(2, 1).double())


def test_in_inference_mode():
    """Also with what was made there."""
    with torch.inference_mode():
        given, target = {"input_ids": SMALL + 0, "attention_mask": MASK + 0}, (-1 + 0 * SMALL[:, 0], SMALL[:, 1] + 0)
        found = relevance(Linear(), given, target)
    expected = relevance(Linear(), {"input_ids": SMALL, "attention_mask": MASK}, (-1, SMALL[:, 1]))
    assert torch.equal(found.input, expected.input)


def test_gradient_times_input_where_that_is_the_law():
    """LRP-0 of a net of ReLUs without biases."""
    torch.manual_seed(0)
    table, hidden, head = nn.Embedding(9, 6), nn.Linear(6, 12, bias=False), nn.Linear(12, 9, bias=False)

    def model(input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor:
        x = table(input_ids) if inputs_embeds is None else inputs_embeds
        return head(hidden(x.cumsum(1)).relu())

    nn.ModuleList([table, hidden, head]).double()
    embedded = table(SMALL).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(inputs_embeds=embedded)[:, 2, 5].sum(), embedded)
    rules = lrp.Composite(lrp.Zero(), lrp.Zero())
    found = relevance(model, {"input_ids": SMALL}, (2, 5), composite=rules)
    torch.testing.assert_close(found.input, (gradient * embedded).detach().sum(-1))


def test_classes_of_whole_texts():
    model = Linear(classes=True)
    found, own = relevance(model, {"input_ids": SMALL, "attention_mask": MASK}, [torch.tensor([4, 1]), None])
    expected = by_hand(model, MASK, [3, 3], [4, 1])
    torch.testing.assert_close(found.input, expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(own.logits, model(SMALL, MASK))


def test_other_arguments_and_layers():
    model = Linear()
    embedded = model.table(SMALL).detach()
    by_ids = relevance(model, {"input_ids": SMALL, "inputs_embeds": None}, (-1, 1), conservation=True)
    other = relevance(model, {"inputs_embeds": embedded}, (-1, 1))
    assert torch.equal(by_ids.input, other.input)
    assert by_ids.check().ok
    above = relevance(model, {"input_ids": SMALL}, (-1, 1), at_input=False, layers="head")
    assert above.input.shape == (2, 0) and torch.equal(above.neurons["head"], by_ids.neurons["head"])
    rules = lrp.Composite(names={"head": lrp.Gamma(0.5)})
    assert not torch.equal(relevance(model, {"input_ids": SMALL}, (-1, 1), composite=rules).input, by_ids.input)
    with pytest.raises(ValueError, match="layers: 'body' matches no layer that ran; there are head$"):
        relevance(model, {"input_ids": SMALL}, (-1, 1), layers="body")


@pytest.mark.parametrize(("text", "target", "change"), [
    ("inputs: expected 'input_ids'.* got attention_mask", None, {"input_ids": None}),
    ("inputs: expected 'input_ids'.* got input_ids, .* inputs_embeds", None, {"inputs_embeds": torch.ones(2, 4, 6)}),
    ("inputs: expected 'input_ids'.* got 'input_ids' torch.float64", None, {"input_ids": SMALL.double()}),
    (r"inputs: expected 'input_ids'.* got 'input_ids' torch.int64 \[4\]", None, {"input_ids": SMALL[0]}),
    (r"inputs: expected 'input_ids'.* \[0, 4\]", None, {"input_ids": SMALL[:0]}),
    (r"inputs\['input_ids'\]: .* got list; .*return_tensors", None, {"input_ids": [[1, 2]]}),
    (r"inputs\['attention_mask'\]: expected \[2, 4\].* got \[2, 3\]", None, {"attention_mask": MASK[:, :3]}),
    (r"inputs\['pixels'\]: expected one entry for each of the 2 texts, got \[3\]", None, {"pixels": torch.ones(3)}),
    ("inputs: 'past_key_values' hold tokens", None, {"past_key_values": ()}),
    ("inputs: expected names of arguments", None, {3: SMALL}),
    (r"inputs\['input_ids'\]: .* 0..8, got 9 in text 1 at 2", None, {"input_ids": SMALL + 4 * (SMALL == 5)}),
    (r"inputs\['input_ids'\]: .* 0..8, got -1 in text 0 at 0", None, {"input_ids": SMALL - 2 * (SMALL == 1)}),
    (r"target\[0\]: text 1 has 2 tokens, at 0..1; got position 3", (3, 1), {}),
    (r"target\[0\]: text 0 has 3 tokens, at 1..3; got position 4", (4, 1), {}),
    (r"target\[0\]: text 0 has 3 tokens, at 1..3; got position 0", (0, 1), {}),
    (r"target\[0\]: text 1 has 2 tokens, at 0..1; got position -3", (-3, 1), {}),
    (r"target\[1\]\[0\]: text 1 has 2 tokens, .* -4", [(-1, 1), (torch.tensor([-1, -4]), 1)], {}),
    (r"target\[0\]: text 0 has 0 tokens; got position -1", (-1, 1), {"attention_mask": 0 * MASK}),
    (r"target\[0\]: expected a position, an int .* got str", ("last", 1), {}),
    (r"target\[0\]: expected a position, an int .* got bool", (True, 1), {}),
    (r"target\[0\]: expected a position, an int .* got torch.float32", (torch.ones(2), 1), {}),
    (r"target\[0\]: expected a position for each of 2 texts, got \[3\]", (torch.ones(3).long(), 1), {}),
    (r"target\[1\] must be an int or integers \[2\]", (-1, torch.ones(3).long()), {}),
    (r"target\[1\] must be an int, a tensor .N. or None, got str", (-1, "cat"), {}),
    ("target: expected .position, token., got 3 entries", (1, 2, 3), {}),
    ("target must be in 0..8, got 9", (-1, 9), {}),
    (r"target must be in 0..8, got \[1, 9\]", (-1, torch.tensor([1, 9])), {}),
    ("target is empty", [], {}),
    (r"target: the model has logits \[2, 4, 9\]: give .position, token.", 3, {}),
    (r"target\[1\]: the model has logits \[2, 4, 9\]: give .position, token.", [(-1, 1), 3], {}),
])  # fmt: skip
def test_refusals(text, target, change):
    given = {"input_ids": SMALL, "attention_mask": MASK} | change
    with pytest.raises((ValueError, TypeError), match=f"^{text}"):
        relevance(Linear(), given, target)


def test_more_refusals():
    with pytest.raises(ValueError, match=r"^target: the model has logits \[2, 9\] of whole texts: give a class"):
        relevance(Linear(classes=True), {"input_ids": SMALL}, (-1, 1))
    with pytest.raises(ValueError, match="^plan: there are plans for one tensor"):
        relevance(Linear(), {"input_ids": SMALL}, plan=True)
    with pytest.raises(ValueError, match="^model: it looks up no embeddings"):
        relevance(lambda input_ids: input_ids.double()[..., None], {"input_ids": SMALL})
