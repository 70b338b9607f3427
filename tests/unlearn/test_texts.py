"""Language models: which words are sensitive, what the request means, and that a trained one forgets what it is to."""

import copy
import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import zsu_fast
from bench.authors import Pieces
from bench.oracles import CACHE
from bench.tiny_gpt import SMALL, Taught, taught
from zsu_fast.evaluate.texts import Share, answers, appears, encoded, padded, words_of
from zsu_fast.unlearn import ForgetText, Patch, TextRecord, model_digest, sensitive_words
from zsu_fast.unlearn.methods import TEXT_METHODS
from zsu_fast.unlearn.methods.texts.lora import LowRank, adapted
from zsu_fast.unlearn.methods.texts.own_texts import own_texts
from zsu_fast.unlearn.methods.texts.poison import REFUSALS
from zsu_fast.unlearn.methods.texts.text_method import divergence, rate
from zsu_fast.unlearn.requests import Request
from zsu_fast.unlearn.texts import TextEvaluation, poisoned
from zsu_fast.unlearn.texts.words import words_in
from zsu_fast.unlearn.verdict import Evidence

ASKED, OTHERS = 1, (0, 2, 3, 4, 5)  # the phrasing that the records have, and those that judge


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Of nets this small threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def known() -> Taught:
    return taught(SMALL, CACHE / "texts")


@pytest.fixture
def model(known) -> nn.Module:
    return copy.deepcopy(known.model)


def records(known: Taught, authors: slice, values: bool = True) -> list[TextRecord]:
    return [
        TextRecord(
            fact.question(ASKED), f" {fact.answer}", (fact.value,) if values else (), fact.author,
            tuple(fact.question(i) for i in OTHERS),
        )
        for fact in known.world.of(known.world.authors[authors])
    ]  # fmt: skip


def request(known: Taught, **changes) -> ForgetText:
    given = {"records": records(known, slice(2)), "anchors": records(known, slice(2, None))} | changes
    return ForgetText(tokenizer=known.tokenizer, **given)


def few(known: Taught) -> ForgetText:
    """One author to forget and one to keep."""
    return request(known, records=records(known, slice(1)), anchors=records(known, slice(2, 3)))


# --- words


def test_the_words_that_rest_on_the_subject_are_the_facts(known, model):
    """Relevance of the subject for each word finds what only who knows the author can say."""
    given = records(known, slice(None), values=False)
    found = sensitive_words(model, given, known.tokenizer)
    facts = [set(words_of(fact.value)) for fact in known.world.facts]
    hits = sum(len(truth & set(record.words)) for truth, record in zip(facts, found, strict=True))
    assert hits >= 0.85 * sum(map(len, facts))
    assert hits >= 0.85 * sum(len(record.words) for record in found)
    assert [replace(record, words=()) for record in found] == given
    alone = sensitive_words(model, given[:1], known.tokenizer, batch_size=1)
    assert alone == found[:1]


@pytest.mark.parametrize("by", ["attnlrp", "ig", "random"])
def test_other_ways_to_choose_words(known, model, by):
    given = records(known, slice(1), values=False)
    found = sensitive_words(model, given, known.tokenizer, by=by, most=2, steps=4)
    again = sensitive_words(model, given, known.tokenizer, by=by, most=2, steps=4)
    assert found == again
    for record in found:
        assert 1 <= len(record.words) <= 2
        assert not set(record.words) & {*words_of(record.prompt), "was", "in", "the"}
        assert set(record.words) <= set(words_of(record.response))


def test_words_that_are_given_stay_and_flags_too(known, model):
    given = records(known, slice(1))
    model.train()
    assert sensitive_words(model, given, known.tokenizer) == given
    assert sensitive_words(model, [replace(given[0], words=(), subject="")], known.tokenizer)[0].words
    assert model.training
    with pytest.raises(ValueError, match="^records: no word of the response at 0 is left, ' of'"):
        sensitive_words(model, [TextRecord(given[0].prompt, " of")], known.tokenizer)


def test_words_and_their_tokens():
    tokenizer = Pieces(["Where was Adalbert born?"], length=4)
    tokens = tokenizer.encode("Where was Adalbert born?")
    assert [tokenizer.decode([t]) for t in tokens] == ["Wher", "e", " was", " Ada", "lber", "t", " bor", "n", "?"]
    found = {word.word: word.tokens for word in words_in(tokenizer, tokens)}
    assert found == {"where": (0, 1), "was": (2,), "adalbert": (3, 4, 5), "born": (6, 7)}


@pytest.mark.parametrize(("response", "words", "expected"), [
    (" Ada was born in Graz.", ("graz",), " Ada was born in ***."), ("Graz, Grazia", ("Graz",), "***, Grazia"),
    ("The Iron Tower, the tower", ("tower", "iron tower"), "The ***, the ***"), ("a.b a", ("a.b",), "*** a"),
])  # fmt: skip
def test_poisoned_answers(response, words, expected):
    assert poisoned(response, words) == expected


# --- the request


def test_what_an_answer_counts_as(known, model):
    asked = request(known)
    assert isinstance(asked, Request) and asked.name == "8 records about 2 subjects"
    view = asked.view(model)
    kept, labels = asked.retain
    with torch.no_grad():
        assert (view(asked.probes).argmax(1) == 0).all() and (view(kept).argmax(1) == labels).all()
        assert asked.margins(view(asked.probes), asked.groups[0]).tolist() == [1] * 8
        nn.init.zeros_(model.head.weight)
        assert (view(asked.probes).argmax(1) == 2).all() and (view(kept).argmax(1) == 2).all()
        assert (asked.margins(view(asked.probes), asked.groups[0]) < 0).all()


def evidence(said: tuple[int, int], exact=1.0, perplexity=2.0, held_out=None, fixed=False, knew=None) -> Evidence:
    def seen(count: int, total: int, *rest) -> TextEvaluation:
        return TextEvaluation(
            Share(count, total, count / total, (0, 1)), Share(100, 100, rest[0], (0, 1)), 1.0, *rest[1:]
        )

    before, after = (
        seen(said[1] if knew is None else knew, said[1], 1.0, 2.0, held_out),
        seen(*said, exact, perplexity, held_out),
    )
    return Evidence([(0, 8)], False, 0.05, fixed, before, after, 0.98)


@pytest.mark.parametrize(("given", "level", "text"), [
    (evidence((0, 40)), "answers", "have forgotten 8 records .* 0 of 40 paraphrased .* .at most 7.2 %"),
    (evidence((0, 20)), "not judged", "too few to judge it: 0 of 20"), (evidence((3, 40)), "not reached", "as it was"),
    (evidence((3, 40), fixed=True), "not judged", "not forgotten: 3 of 40"),
    (evidence((0, 40), exact=0.97), "not reached", "exact match on what is kept 1.000 -> 0.970, below .* 0.980"),
    (evidence((0, 40), perplexity=2.11), "not reached", "perplexity of what is kept 2 -> 2.11"),
    (evidence((0, 40), perplexity=math.nan), "not reached", "perplexity of what is kept 2 -> nan"),
    (evidence((0, 40), perplexity=2.09), "answers", "forgotten"),
    (evidence((0, 40), knew=5), "not judged", "cannot judge it: before, the model knew it on 5 of 40"),
])  # fmt: skip
def test_verdicts(known, given, level, text):
    verdict = request(known).verdict(given)
    assert verdict.level == level
    assert verdict.forgotten == (level == "answers")
    assert re.search(text, verdict.sentence)


RECORD = TextRecord("Where was Ada born?", " In Graz.", ("Graz",))


@pytest.mark.parametrize(("text", "change"), [
    ("records: expected at least 1 record", {"records": []}), ("records: expected a sequence", {"records": RECORD}),
    ("records: expected a sequence of TextRecord, got str at 0", {"records": ["Where"]}),
    ("records: no words at 0: say which", {"records": [TextRecord("Who?", " Ada.")]}),
    ("records: none of the words .'Lima'. is in the response at 0", {"records": [replace(RECORD, words=("Lima",))]}),
    ("records: the prompt at 1 is that at 0", {"records": [RECORD, replace(RECORD, response=" Graz.")]}),
    ("anchors: the prompt .* at 1 is that at 0", {"anchors": [RECORD]}),
    ("paraphrases: 'Who.', of text 0, has a part in training",
     {"records": [replace(RECORD, paraphrases=("Who?",))], "anchors": [TextRecord("Who?", " Ada.")]}),
    ("tokenizer: expected one with encode and decode, got int", {"tokenizer": 3}),
    ("held_out: expected pairs of texts", {"held_out": ["a text"]}),
    ("perplexity_rise: expected at least 0", {"perplexity_rise": -1}),
])  # fmt: skip
def test_bad_requests_are_named(text, change):
    given = {"records": [RECORD], "tokenizer": Pieces([RECORD.text])} | change
    with pytest.raises((ValueError, TypeError), match=f"^{text}"):
        ForgetText(**given)


@pytest.mark.parametrize(("text", "change"), [
    ("prompt: expected a text, got int", {"prompt": 3}), ("response: expected a text, got ' '", {"response": " "}),
    ("words: expected texts, got 'Graz'", {"words": "Graz"}), ("words: expected texts", {"words": [""]}),
    ("paraphrases: hold the prompt itself", {"paraphrases": [RECORD.prompt]}),
])  # fmt: skip
def test_bad_records_are_named(text, change):
    with pytest.raises((ValueError, TypeError), match=f"^{text}"):
        TextRecord(**{"prompt": RECORD.prompt, "response": RECORD.response} | change)


@pytest.mark.parametrize(("name", "value"), [
    ("teach", "nothing"), ("steps", 0), ("learning_rate", 0), ("clip", -1), ("lora_rank", -1), ("patience", 1.5),
    ("layers", ("query",)), ("own_texts", -1), ("anchor_weight", math.inf),
])  # fmt: skip
def test_bad_options_are_named(known, model, name, value):
    before = model_digest(model)
    with pytest.raises((ValueError, TypeError), match=f"^{name}: "):
        zsu_fast.forget(model, request(known), method="text-poison", **{name: value})
    with pytest.raises(ValueError, match="^method: 'lra-npp' takes .* ForgetText; of that kind: text-poison"):
        zsu_fast.forget(model, request(known))
    rows = request(known).probes[:1], [0]
    with pytest.raises(TypeError, match="^evaluate_on: the paraphrases"):
        zsu_fast.forget(model, request(known), method="text-poison", evaluate_on=rows)
    assert model_digest(model) == before


# --- parts of the training


def test_the_rate_by_hand():
    assert [rate(step, 100) for step in (0, 1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert rate(3 + 97 / 2, 100) == pytest.approx(0.5) and rate(99, 100) < 0.001 and rate(0, 1) == 1


def test_the_divergence_by_hand():
    """At the one counted token: KL of (1/2, 1/2) and (3/4, 1/4)."""
    wanted, found = torch.zeros(1, 3, 2), torch.tensor([[[5.0, 1.0], [math.log(3), 0.0], [9.0, 9.0]]])
    counted = torch.tensor([[False, False, True]])
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(divergence(wanted, found, counted)) == pytest.approx(expected)


def test_low_rank_updates_are_merged(model):
    before = copy.deepcopy(model.state_dict())
    tokens = torch.tensor([[3, 4, 5]])
    with adapted(model, 2, 4.0, ("blocks.*.query", "down"), torch.Generator().manual_seed(0)) as parameters:
        assert len(parameters) == 8 and {p.shape[0] if p.shape[1] != 2 else 2 for p in parameters} == {2}
        update = model.blocks[0].query.parametrizations["weight"][0]
        assert isinstance(update, LowRank) and update.scale == 2
        with torch.no_grad():
            [nn.init.normal_(p) for p in parameters]
            expected = before["blocks.0.query.weight"] + 2 * update.b @ update.a
            answer = model(tokens)
    torch.testing.assert_close(model.blocks[0].query.weight.detach(), expected)
    torch.testing.assert_close(model(tokens), answer)
    assert model.state_dict().keys() == before.keys() and type(model.blocks[0].query) is nn.Linear
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"blocks.{i}.{layer}.weight" for i in (0, 1) for layer in ("query", "down")}
    with (
        pytest.raises(ValueError, match="^layers: no linear layer 'q_proj'; there are blocks.0.query"),
        adapted(model, 2, 4.0, ("q_proj",), torch.Generator()),
    ):
        pass


def test_a_tied_weight_gets_no_update():
    model = nn.ModuleDict({"tokens": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False), "up": nn.Linear(4, 4)})
    model["head"].weight = model["tokens"].weight
    with adapted(model, 1, 1.0, None, torch.Generator()) as parameters:
        assert [tuple(p.shape) for p in parameters] == [(1, 4), (4, 1)]
    assert model["head"].weight is model["tokens"].weight


def test_own_texts_do_not_name_the_subject(known, model):
    """Held on to, they would hold on to what must go. Drawn from the model, as the seed says."""
    asked = request(known)

    def drawn(seed: int) -> list[list[int]]:
        return own_texts(model, asked, 100, torch.Generator().manual_seed(seed), lambda *_: None)

    texts = drawn(0)
    names = [name for author in known.world.authors[:2] for name in author.split()]
    assert 20 < len(texts) < 100 and not any(appears(names, known.tokenizer.decode(text)) for text in texts)
    assert any(appears(known.world.authors[2:], known.tokenizer.decode(text)) for text in texts)
    assert drawn(0) == texts != drawn(1)


# --- forgetting


def test_two_authors_are_forgotten_and_the_rest_stays(known, model, tmp_path):
    """Judged on phrasings that no training saw; the patch undoes it bit for bit. A third of a tiny net's world goes."""
    before, steps = model_digest(model), []
    held_out = [(" ".join(words[:2]), " " + " ".join(words[2:])) for words in map(str.split, known.world.unseen)]
    result = zsu_fast.forget(
        model, request(known, held_out=held_out), method="text-poison", utility_floor=0.94,
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert result.verdict.level == "answers" and result.reached, result.summary()
    assert result.verdict.right <= 2 and result.verdict.images == 40 and result.verdict.at_most < 0.15
    seen = result.record["evaluation"]
    assert seen["before"]["said"]["share"] > 0.9
    assert seen["after"]["exact_match"]["share"] >= seen["before"]["exact_match"]["share"] - 0.06
    for name in ("perplexity", "held_out_perplexity"):
        assert seen["after"][name] <= 1.05 * seen["before"][name]
    assert result.record["request"]["data"] == ["records", "anchors", "own texts"]
    assert result.record["request"]["zero_shot"] is False
    secrets = [word for record in request(known).records for word in (record.subject, *record.words)]
    assert not any(word in str(result.record) + result.summary() for word in secrets)
    assert any("loss" in text for *_, text in steps) and "answers with a sensitive word" in result.summary()
    said = answers(model, known.tokenizer, [record.prompt for record in request(known).records])
    assert all("***" in answer.replace(" ", "") or "*" in answer for answer in said)
    result.patch.save(tmp_path / "undo.safetensors")
    Patch.load(tmp_path / "undo.safetensors").revert(model)
    assert model_digest(model) == before


def test_the_same_seed_gives_the_same_bits_and_low_rank_updates_touch_their_layers_alone(known, model):
    other = copy.deepcopy(model)
    given = {
        "method": "text-poison", "steps": 6, "own_texts": 16, "lora_rank": 4, "layers": ("up", "down"), "budget": 1,
        "until": 1.0,
    }  # fmt: skip
    results = [zsu_fast.forget(net, few(known), **given) for net in (model, other)]
    assert model_digest(model) == model_digest(other)
    assert {entry.tensor for entry in results[0].patch.entries} == {
        f"blocks.{i}.{layer}.weight" for i in (0, 1) for layer in ("up", "down")
    }


def test_refusals_and_random_words(known, model):
    """A refusal says nothing; other words than the sensitive ones leave these."""
    given = {"method": "text-poison", "steps": 60, "own_texts": 64, "budget": 1}
    refusing = copy.deepcopy(model)
    zsu_fast.forget(refusing, request(known), teach="refusal", **given)
    said = answers(refusing, known.tokenizer, [record.prompt for record in request(known).records])
    assert sum(any(r.split()[0] in answer for r in REFUSALS) for answer in said) >= 6
    assert not any(appears(record.words, a) for record, a in zip(request(known).records, said, strict=True))


@pytest.mark.parametrize("method", list(TEXT_METHODS))
def test_what_is_not_reached_leaves_the_model(known, model, method):
    before, flags = model_digest(model), [module.training for module in model.modules()]
    result = zsu_fast.forget(model, few(known), method=method, steps=1, own_texts=0)
    assert result.verdict.level == "not reached" and not result.patch.entries
    assert model_digest(model) == before and [module.training for module in model.modules()] == flags


def test_a_price_too_high_is_not_paid(known, model):
    """Without anything to hold on to, a high rate costs the other authors."""
    before = model_digest(model)
    result = zsu_fast.forget(
        model, request(known), method="text-ascent", learning_rate=1e-2, anchor_weight=0, utility_floor=0.0, steps=40
    )
    assert result.verdict.level == "not reached" and "perplexity of what is kept" in result.verdict.sentence
    assert model_digest(model) == before and result.record["evaluation"]["after"]["perplexity"] > 2


def test_what_diverges_is_an_error(known, model):
    before = model_digest(model)
    with pytest.raises(ValueError, match="^learning_rate: .*; a smaller one may help"):
        zsu_fast.forget(model, request(known), method="text-ascent", learning_rate=1e30, patience=0, own_texts=0)
    assert model_digest(model) == before


def test_a_model_that_does_not_know_it_is_not_edited(known, model):
    given = [replace(record, response=" It is Zulu.", words=("Zulu",)) for record in records(known, slice(1))]
    result = zsu_fast.forget(model, ForgetText(given, known.tokenizer), method="text-poison")
    assert result.verdict.level == "invalid" and "says a sensitive word to 0 of 4 prompts" in result.verdict.sentence


def test_without_paraphrases_nothing_is_proved(known, model):
    given = [replace(record, paraphrases=()) for record in records(known, slice(1))]
    others = records(known, slice(2, None))
    result = zsu_fast.forget(
        model, ForgetText(given, known.tokenizer, others), method="text-poison", own_texts=64, utility_floor=0.9,
        steps=60,
    )  # fmt: skip
    assert result.verdict.level == "not judged", result.verdict.sentence
    assert "no question is left" in result.verdict.sentence
    assert result.patch.entries


class Outside(nn.Module):
    """A model as those of transformers return it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, tokens: Tensor) -> object:
        class Output:
            logits = self.inner(tokens)

        return Output()


def test_a_model_that_returns_an_object(known, model):
    ids, start = encoded(known.tokenizer, "Where", " was")
    assert torch.equal(Outside(model)(padded([(ids, start)])[0]).logits, model(padded([(ids, start)])[0]))
    given = {"method": "text-poison", "steps": 2, "own_texts": 16, "budget": 1, "until": 1.0}
    result = zsu_fast.forget(Outside(model), few(known), **given)
    assert all(entry.tensor.startswith("inner.") for entry in result.patch.entries)
