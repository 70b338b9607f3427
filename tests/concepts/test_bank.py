"""Banks of concepts: a planted one is found, one that is none is refused; files; what a reading gives."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.concepts_data import with_square
from zsu_fast.concepts import ConceptBank, Reading, activations, concept_bank
from zsu_fast.concepts.reading import classifier_of, pooled
from zsu_fast.evaluate.probe import features
from zsu_fast.lrp import relevance


def test_the_planted_concept_is_known_and_a_random_one_refused(planted_net):
    inside, without = planted_net.sides(0, 60)
    bank = concept_bank(planted_net.net, {"square": inside}, without)
    (evidence,) = bank.evidence
    assert bank.layer == "head" and evidence["accuracy"] >= 0.95 and evidence["p_value"] <= 0.001
    fresh, others = planted_net.sides(200, 50)
    for images, above in ((fresh, 1.0), (others, 0.0)):
        found, _ = activations(planted_net.net, images, bank.layer)
        assert (bank.margins(found)[:, 0] > 0).float().mean().item() == pytest.approx(above, abs=0.05)
    nothing = planted_net.x[120:180]
    with pytest.raises(ValueError, match=r"concepts\['nothing'\]: at chance: .* does not tell these images"):
        concept_bank(planted_net.net, {"nothing": nothing}, without)
    kept = concept_bank(planted_net.net, {"nothing": nothing, "square": inside}, without, at_chance="drop")
    assert kept.names == ("square",)
    with pytest.raises(ValueError, match="all are at chance"):
        concept_bank(planted_net.net, {"nothing": nothing}, without, at_chance="drop")


@pytest.mark.parametrize("layer", ["conv2", "bn2", "hidden"])
def test_other_layers(planted_net, layer):
    inside, without = planted_net.sides(0, 30)
    bank = concept_bank(planted_net.net, {"square": inside}, without, layer)
    assert bank.evidence[0]["accuracy"] >= 0.95
    found, logits = activations(planted_net.net, inside, layer, batch_size=7)
    if layer != "bn2":  # which is no linear layer: there `features` does not pool
        torch.testing.assert_close(found, features(planted_net.net, inside, layer))
    with torch.no_grad():
        torch.testing.assert_close(logits, planted_net.net(inside))


def test_what_is_wrong_is_named(planted_net):
    inside, without = planted_net.sides(0, 20)
    for concepts, random, options, text in (
        ({"a": inside[:9]}, without, {}, r"concepts\['a'\]: expected at least 10 images, got 9"),
        ({"a": torch.cat([inside, inside[:2]])}, without, {}, r"concepts\['a'\]: 2 of 22 images are there twice"),
        ({"a": torch.cat([inside, without[:3]])}, without, {}, r"concepts\['a'\]: 3 of its images are among random"),
        ({"a": inside * torch.nan}, without, {}, r"concepts\['a'\]: expected finite values"),
        ({"a": inside}, without, {"layer": "nowhere"}, "layer: the model has no module 'nowhere'"),
        ({"a": inside}, without, {"alpha": 2}, "alpha: expected a share"),
        ({"a": inside}, without, {"at_chance": "keep"}, "at_chance: expected"),
    ):
        with pytest.raises(ValueError, match=text):
            concept_bank(planted_net.net, concepts, random, **options)
    with pytest.raises(TypeError, match="concepts: expected images by name"):
        concept_bank(planted_net.net, inside, without)


def test_more_concepts_ask_for_more_each(planted_net):
    """p of 0.001 is the least that 999 draws can give; shared out among twenty concepts more are drawn."""
    inside, without = planted_net.sides(0, 20)
    many = {str(i): with_square(planted_net.x[40 + 12 * i : 52 + 12 * i]) for i in range(20)}
    bank = concept_bank(planted_net.net, many | {"square": inside}, without)
    assert len(bank.names) == 21 and all(one["p_value"] <= 0.01 / 21 for one in bank.evidence)


def test_a_file_holds_the_bank(planted_net, tmp_path):
    inside, without = planted_net.sides(0, 20)
    bank = concept_bank(planted_net.net, {"square": inside}, without)
    bank.save(tmp_path / "bank.safetensors")
    found = ConceptBank.load(tmp_path / "bank.safetensors")
    assert (found.names, found.layer, found.evidence) == (bank.names, bank.layer, bank.evidence)
    assert torch.equal(found.vectors, bank.vectors) and torch.equal(found.offsets, bank.offsets)
    save_file({"vectors": torch.ones(1, 2)}, tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("no tensors")
    for name in ("other.safetensors", "text"):
        with pytest.raises(ValueError, match="is no bank of concepts"):
            ConceptBank.load(tmp_path / name)


def test_a_bank_by_hand():
    bank = ConceptBank(("a", "b"), torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([5.0, -2.0]), "fc", ({}, {}))
    np.testing.assert_allclose(bank.margins(torch.tensor([[1.0, 1.0]])), [[12 / 5, 0.0]], rtol=1e-6)
    with pytest.raises(ValueError, match="concept: the bank has a, b, got 'c'"):
        bank.index("c")
    with pytest.raises(ValueError, match=r"activations: expected \[N, 2\]"):
        bank.margins(torch.ones(1, 3))
    for change, text in (({"names": ("a", "a")}, "names"), ({"vectors": torch.zeros(2, 2)}, "no length"),
                         ({"offsets": torch.ones(3)}, "vectors"), ({"evidence": ()}, "evidence")):  # fmt: skip
        values = {"names": bank.names, "vectors": bank.vectors, "offsets": bank.offsets, "layer": "fc"}
        with pytest.raises(ValueError, match=text):
            ConceptBank(**(values | {"evidence": bank.evidence} | change))


# --- reading


def test_a_reading_is_the_model_and_more(planted_net):
    inside, without = planted_net.sides(0, 20)
    bank = concept_bank(planted_net.net, {"square": inside}, without)
    reading = Reading(planted_net.net, bank.layer, *bank.unit()).eval()
    with torch.no_grad():
        found, logits = reading(inside), planted_net.net(inside)
    assert torch.equal(reading.answers(found), logits)
    torch.testing.assert_close(found[:, 10:11], bank.margins(found[:, 11:]))
    assert reading.state_dict().keys() == {f"model.{name}" for name in planted_net.net.state_dict()}


def test_relevance_of_a_concept_lies_where_the_concept_is(planted_net):
    """Summed over the picture, the square's four pixels hold most of the relevance for the margin."""
    inside, without = planted_net.sides(0, 60)
    bank = concept_bank(planted_net.net, {"square": inside}, without)
    reading = Reading(planted_net.net, bank.layer, *bank.unit()).eval()
    at_input = relevance(reading, inside[:20], 10, composite="epsilon_plus").input.sum(1).clamp(min=0)
    share = at_input[:, :3, :3].sum((1, 2)) / at_input.sum((1, 2))
    assert share.mean() > 0.5


def test_pooling_and_the_classifier():
    assert pooled(torch.arange(8.0).view(1, 2, 2, 2)).tolist() == [[1.5, 5.5]]
    assert pooled(torch.arange(6.0).view(1, 3, 2)).tolist() == [[2.0, 3.0]]
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2))
    assert classifier_of(net, torch.ones(1, 1, 2, 2)) == "2"
    with pytest.raises(ValueError, match="layer: no linear module runs"):
        classifier_of(nn.Flatten(), torch.ones(1, 1, 2, 2))
