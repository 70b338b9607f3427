"""Relevance in language models of transformers as they are: beside LXT, by conservation, by other ways into a model."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zsu_fast
from tests import peers
from tests.lrp.language_models import CAUSAL, ENCODERS, VOCABULARY, language_model, vision_language_model
from zsu_fast import lrp, relevance

pytestmark = pytest.mark.models

IDS = torch.tensor([[3, 7, 4, 9, 11, 6], [5, 20, 8, 12, 3, 4]])
LEFT = {"input_ids": IDS, "attention_mask": torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])}
RIGHT = {"input_ids": IDS.roll(-2, 1), "attention_mask": torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])}


@pytest.mark.parametrize(("family", "kind"), [
    *((family, "attnLRP") for family in ("Llama", "Qwen2", "Qwen3", "Gemma3", "GPT2", "Bert")),
    ("GPT2", "cp_LRP"),  # in gated MLPs LXT's CP-LRP holds the gate constant too
])  # fmt: skip
def test_same_as_lxt(family, kind):
    peers.import_lxt()
    changes = {"position_embedding_type": "absolute"} if family == "Bert" else {}
    model = language_model(family, **changes)
    rules = {"attnLRP": lrp.attnlrp, "cp_LRP": lrp.cp_lrp}[kind](1e-14)  # LXT has no stabiliser
    found = relevance(model, {"input_ids": IDS}, (torch.tensor([5, 3]), 7), composite=rules)
    with peers.lxt_patches(family.lower(), kind):
        theirs = model
        if family == "Bert":  # which LXT replaces as a whole
            theirs = language_model(family, **changes)
            theirs.load_state_dict(model.state_dict())
        embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
        logits = theirs(inputs_embeds=embedded).logits[[0, 1], [5, 3]]
        (gradient,) = torch.autograd.grad(logits[:, 7].sum(), embedded)
    expected = (gradient * embedded).detach().sum(-1)
    torch.testing.assert_close(found.logits, logits.detach())
    assert (found.input - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("family", [*CAUSAL, *ENCODERS])
def test_families(family):
    """Logits, conservation, padding on either side, and the embeddings as another way in."""
    model = language_model(family)
    targets = [(-1, None), (torch.tensor([3, -2]), 7)]
    found, other = relevance(model, LEFT, targets, composite="attnlrp", conservation=True)
    torch.testing.assert_close(found.logits, model(**LEFT).logits[:, -1].detach())
    books = found.check()
    assert books.ok, books
    kept = sum(books.totals.values())
    torch.testing.assert_close(found.input.sum().item() + kept, books.start)
    assert found.input.isfinite().all() and found.input[0].abs().min() > 0 and (found.input[1, :2] == 0).all()
    assert {"heads": 4}.items() <= {n.rpartition(".")[2]: r.shape[1] for n, r in found.neurons.items()}.items()

    embedded = model.get_input_embeddings()(IDS).detach()
    if family == "Gemma3":
        embedded = model.get_input_embeddings().weight[IDS].detach() * 4  # the scale is part of its look-up
    again = relevance(model, {**LEFT, "input_ids": None, "inputs_embeds": embedded}, targets[1], composite="attnlrp")
    torch.testing.assert_close(again.input, other.input, rtol=1e-6, atol=1e-9)

    right, short = relevance(model, RIGHT, (-1, 7), composite="attnlrp"), RIGHT["input_ids"][1:, :4]
    alone = relevance(model, {"input_ids": short}, (-1, 7), composite="attnlrp")
    torch.testing.assert_close(right.input[1:, :4], alone.input, rtol=1e-5, atol=1e-7)
    assert (right.input[1, 4:] == 0).all()
    for name, units in alone.neurons.items():
        torch.testing.assert_close(right.neurons[name][1:], units, rtol=1e-5, atol=1e-7)


def test_only_the_logits_asked_for_are_computed():
    """The same as from those of all positions."""
    model = language_model("Llama")
    targets = [(4, 7), (1, 3), (torch.tensor([0, 4]), 2)]
    widths = []
    with model.lm_head.register_forward_hook(lambda module, given, result: widths.append(result.shape[1])):
        found = relevance(model, {"input_ids": IDS}, targets)
        whole = relevance(model, {"input_ids": IDS, "logits_to_keep": 0}, targets)
    assert widths == [3, 6]
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one.input, other.input)
        torch.testing.assert_close(one.neurons, other.neurons)
        torch.testing.assert_close(one.logits, other.logits)


def test_as_many_texts_as_tokens():
    """The shape of an output does not tell which dimension is which."""
    model = language_model("Qwen3")
    square = torch.stack([IDS[0], IDS[1], *torch.arange(8, 20).view(2, 6)])[:, :4]
    together = relevance(model, {"input_ids": square}, (-1, 7))
    for row in range(4):
        alone = relevance(model, {"input_ids": square[row : row + 1]}, (-1, 7))
        for name, units in alone.neurons.items():
            torch.testing.assert_close(together.neurons[name][row : row + 1], units, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", ["Mixtral", "Olmoe"])
def test_experts(family):
    """However they are called; units by expert, and text by text although a router mixes the tokens of all."""
    model = language_model(family)
    found = relevance(model, LEFT, (-1, 7), composite="attnlrp")
    units = found.neurons["model.layers.0.mlp.experts.gate_up_proj"]
    assert units.shape == (2, 4 * 48)
    assert (found.neurons["model.layers.1.mlp.gate"] == 0).all()  # the router's weights are gates
    for row in range(2):
        alone = relevance(
            model, {name: value[row : row + 1] for name, value in LEFT.items()}, (-1, 7), composite="attnlrp"
        )
        torch.testing.assert_close(found.input[row : row + 1], alone.input, rtol=1e-6, atol=1e-10)
        for name, values in alone.neurons.items():
            torch.testing.assert_close(found.neurons[name][row : row + 1], values, rtol=1e-6, atol=1e-10)
    model.set_experts_implementation("grouped_mm")
    grouped = relevance(model, LEFT, (-1, 7), composite="attnlrp")
    torch.testing.assert_close(grouped.neurons, found.neurons, rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(grouped.input, found.input, rtol=1e-6, atol=1e-10)
    model.float()
    torch.testing.assert_close(relevance(model, LEFT, (-1, 7)).logits, model(**LEFT).logits[:, -1].detach())


def test_experts_that_no_token_goes_to_have_no_relevance():
    model = language_model("Mixtral", num_experts_per_tok=1)
    chosen = []
    with model.model.layers[0].mlp.gate.register_forward_hook(lambda module, given, result: chosen.append(result[2])):
        model(IDS[:1])
    units = relevance(model, {"input_ids": IDS[:1]}, (-1, 7)).neurons["model.layers.0.mlp.experts.down_proj"]
    used = units.unflatten(1, (4, -1)).abs().sum((0, 2)) > 0
    assert not used.all() and torch.equal(used.nonzero()[:, 0], chosen[0].unique())


def test_embeddings_tied_to_the_head():
    """The table is an input there and a layer here: as if they were two."""
    tied = language_model("GPT2")
    assert tied.lm_head.weight is tied.transformer.wte.weight
    untied = copy.deepcopy(tied)
    untied.lm_head.weight = nn.Parameter(tied.lm_head.weight.detach().clone())
    one, other = (relevance(model, LEFT, (-1, 7)) for model in (tied, untied))
    assert torch.equal(one.input, other.input)
    assert torch.equal(one.neurons["transformer.wte"], other.neurons["lm_head"])
    assert one.neurons["transformer.wte"].count_nonzero() == 2  # that of the token, in each text


def test_heads_are_those_of_the_queries():
    """Their relevance is what the output projection sends back, head by head."""
    model = language_model("Llama")
    found = relevance(model, {"input_ids": IDS}, (-1, 7), composite=lrp.attnlrp(1e-12))
    name = "model.layers.1.self_attn"
    given = []
    with model.get_submodule(f"{name}.o_proj").register_forward_hook(lambda m, i, o: given.append((i[0], o))):
        model(IDS)
    ((heads, output),) = given
    weight = model.get_submodule(f"{name}.o_proj").weight
    above = relevance(model, {"input_ids": IDS}, (-1, 7), composite=lrp.attnlrp(1e-12), conservation=True)
    assert found.neurons[f"{name}.heads"].shape == (2, 4) and above.check().ok
    # Only the last position of the last layer counts, so that R of the projection's units tells c = R / y there.
    c = found.neurons[f"{name}.o_proj"] / output[:, -1]
    expected = (c @ weight * heads[:, -1]).unflatten(1, (4, -1)).sum(-1)
    torch.testing.assert_close(found.neurons[f"{name}.heads"], expected.detach(), rtol=1e-6, atol=1e-9)


def test_classes_of_texts():
    model = language_model("Bert", "ForSequenceClassification", num_labels=3)
    found, own = relevance(model, RIGHT, [torch.tensor([2, 0]), None], composite="attnlrp")
    assert torch.equal(found.logits, own.logits) and found.logits.shape == (2, 3)
    assert found.input.abs().sum() > 0 and (found.input[1, 4:] == 0).all()
    with pytest.raises(ValueError, match="of whole texts: give a class"):
        relevance(model, LEFT, (-1, 7))


def test_images_beside_a_text():
    """Relevance reaches the pixels; texts do not touch each other; what is missing elsewhere is in the books."""
    model = vision_language_model()
    torch.manual_seed(1)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    given = {"input_ids": torch.tensor([[1, 5, 5, 5, 5, 7], [5, 5, 5, 5, 9, 3]]), "pixel_values": images}
    found = relevance(model, given, (-1, 7), composite="attnlrp", conservation=True)
    pixels = found.others["pixel_values"]
    assert pixels.shape == images.shape and pixels.abs().sum() > 0
    assert (found.input[0, 1:5] == 0).all() and found.input[0, 5].abs() > 0  # images stand where these tokens were
    assert any("vision_tower" in name for name in found.neurons)
    books = found.check()
    assert books.ok, books
    torch.testing.assert_close((pixels.sum() + found.input.sum()).item(), books.input)
    for row in range(2):
        one = {name: value[row : row + 1] for name, value in given.items()}
        alone = relevance(model, one, (-1, 7), composite="attnlrp")
        torch.testing.assert_close(pixels[row : row + 1], alone.others["pixel_values"], rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(found.input[row : row + 1], alone.input, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", ["lra-npp", "channels"])
def test_a_token_is_no_class_to_forget(method):
    model = language_model("Llama")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="got .1, 6, 23.; what a language model says is forgotten by a ForgetText"):
        zsu_fast.forget(model, 7, IDS, method=method)
    with pytest.raises(TypeError, match="^probes: .* got dict"):
        zsu_fast.forget(model, 7, {"input_ids": IDS}, method=method)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_model_is_left_as_it_is():
    model = language_model("Gemma3")
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    relevance(model, LEFT, (-1, None))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state) and not model.training and model.config.use_cache


def test_tokenizers_give_what_is_taken():
    transformers = peers.import_transformers()
    batch = transformers.BatchEncoding({"input_ids": IDS, "attention_mask": LEFT["attention_mask"]})
    model = language_model("Llama")
    assert torch.equal(relevance(model, batch).input, relevance(model, LEFT).input)
    with pytest.raises(ValueError, match=f"expected numbers in 0..{VOCABULARY - 1}, got 23 in text 0 at 5"):
        relevance(model, {"input_ids": F.pad(IDS[:, :5], (0, 1), value=VOCABULARY)})
