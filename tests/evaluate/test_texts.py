"""Metrics of texts, by hand; greedy answers against a loop without batches."""

import math

import pytest
import torch
from torch import Tensor, nn

from bench.authors import Pieces
from bench.tiny_gpt import TinyGPT
from zsu_fast.evaluate.texts import (
    answers,
    appearance_rate,
    appears,
    encoded,
    exact_match,
    generated,
    padded,
    perplexity,
    prompt_tokens,
    rouge_l,
)  # fmt: skip

TEXTS = ["Where was Ada born?", " Ada was born in Graz.", "What is it?", " It is a long and winding road."]


@pytest.fixture
def tokenizer() -> Pieces:
    return Pieces(TEXTS)


@pytest.fixture
def model(tokenizer) -> TinyGPT:
    torch.manual_seed(0)
    return TinyGPT(len(tokenizer), width=16, layers=2, heads=2).eval()


@pytest.mark.parametrize(("words", "text", "found"), [
    (["Graz"], "She lives in GRAZ.", True), (["graz"], "She lives in Grazia.", False), ([], "Graz", False),
    (["Iron Tower"], "The iron, tower", True), (["Iron Tower"], "The iron gate tower", False),
    (["cat", "dog"], "a dog's life: dog", True), (["o'neill"], "Mr O'Neill said", True), (["***"], "***", False),
])  # fmt: skip
def test_words_appear_whole(words, text, found):
    assert appears(words, text) is found


def test_shares_by_hand():
    rate = appearance_rate(["in Graz", "in Cork", "nowhere", "in graz."], [["Graz"], ["Lima"], ["no"], ["Graz"]])
    assert (rate.count, rate.total, rate.share) == (2, 4, 0.5)
    centre, half = 0.5, 1.959964 * math.sqrt(0.25 / 4 + 1.959964**2 / (4 * 16)) / (1 + 1.959964**2 / 4)
    assert rate.interval == pytest.approx((centre - half, centre + half), abs=1e-6)  # Wilson, at one half
    found = exact_match(["Ada was  born in Graz", "Ada was born"], ["ada was born in Graz.", "Ada was not born"])
    assert (found.count, found.total) == (1, 2)
    assert found.to_dict() == {"count": 1, "total": 2, "share": 0.5, "interval": list(found.interval)}
    with pytest.raises(ValueError, match="^answers: expected at least one"):
        exact_match([], [])


@pytest.mark.parametrize(("answer", "reference", "score"), [
    ("the cat sat", "the cat sat", 1.0), ("", "the cat", 0.0), ("dog", "the cat", 0.0),
    ("police kill the gunman", "police killed the gunman", 0.75),  # the example of Lin 2004: LCS 3, both of 4 words
    ("the gunman kill police", "police killed the gunman", 0.5), ("a b c", "a x b y c z", 2 * 3 / 9),
])  # fmt: skip
def test_rouge_l_by_hand(answer, reference, score):
    assert rouge_l(answer, reference) == pytest.approx(score)
    assert rouge_l(reference, answer) == pytest.approx(score)


class Fixed(nn.Module):
    """The next token is `following` with the odds 3 : 1 against each of the others."""

    def __init__(self, size: int, following: int = 5, value: float = math.log(3)) -> None:
        super().__init__()
        self.size, self.following, self.value = size, following, value

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, self.size)
        logits[..., self.following] = self.value
        return logits


def test_perplexity_by_hand(tokenizer):
    """Of n tokens of the response and its end: none is the likely one, each has p = 1 / (V + 2)."""
    size = len(tokenizer)
    likely = tokenizer.encode(" Graz")[0]
    found = perplexity(Fixed(size, likely), tokenizer, [("What is it?", " It is")])
    assert found == pytest.approx(size + 2)
    mixed = perplexity(Fixed(size, likely), tokenizer, [("What is it?", " Graz"), ("What", " It is")], batch_size=1)
    assert mixed == pytest.approx(math.exp((math.log((size + 2) / 3) + 4 * math.log(size + 2)) / 5))
    with pytest.raises(ValueError, match="^texts: expected at least one"):
        perplexity(Fixed(size), tokenizer, [])


def test_answers_are_the_likeliest_tokens_one_by_one(model, tokenizer):
    prompts = ["Where was Ada born?", "What", "What is it? It is a long and"]
    expected = []
    for prompt in prompts:
        tokens, said = tokenizer.encode(prompt), []
        with torch.no_grad():
            while len(said) < 6:
                following = int(model(torch.tensor([tokens + said]))[0, -1].argmax())
                if following == tokenizer.eos_token_id:
                    break
                said.append(following)
        expected.append(tokenizer.decode(said, skip_special_tokens=True).strip())
    state = torch.random.get_rng_state()
    model.train()
    for batch in (1, 2, 16):
        assert answers(model, tokenizer, prompts, longest=6, batch_size=batch) == expected
    assert model.training and torch.equal(torch.random.get_rng_state(), state)


def test_an_answer_ends_where_the_text_does(tokenizer):
    assert answers(Fixed(len(tokenizer), tokenizer.eos_token_id), tokenizer, ["What"]) == [""]
    assert len(generated(Fixed(9, 5), [[3], [4, 4]], 7, 1, torch.device("cpu"))[1]) == 7
    assert generated(Fixed(9, 5), [[3]], 3, None, torch.device("cpu")) == [[5, 5, 5]]
    with pytest.raises(ValueError, match="^model: it gives NaN"):
        answers(Fixed(len(tokenizer), 5, math.nan), tokenizer, ["What"])


def test_texts_as_tokens(tokenizer):
    tokens, start = encoded(tokenizer, "Where was Ada born?", " Ada was born in Graz.")
    assert tokenizer.decode(tokens[:start]) == "Where was Ada born?" and tokens[-1] == tokenizer.eos_token_id
    rows, counted = padded([(tokens, start), ([4, 5], 1)])
    assert rows.shape == counted.shape == (2, len(tokens)) and rows[1].tolist() == [4, 5] + [0] * (len(tokens) - 2)
    assert counted.sum(1).tolist() == [len(tokens) - start, 1] and not counted[0, start - 1]
    for text, call in (("prompt: '' has no tokens", lambda: prompt_tokens(tokenizer, "")),
                       ("response: '' has no tokens", lambda: encoded(tokenizer, "What", ""))):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{text}"):
            call()


def test_what_a_tokenizer_puts_behind_a_text_is_no_part_of_a_prompt(tokenizer):
    class Ending(Pieces):
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return super().encode(text) + ([self.eos_token_id] if add_special_tokens else [])

    assert prompt_tokens(Ending(TEXTS), "What is") == tokenizer.encode("What is")
    assert encoded(Ending(TEXTS), "What", " is") == encoded(tokenizer, "What", " is")
