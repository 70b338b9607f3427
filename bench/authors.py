"""Invented authors, facts about them, questions in several phrasings, and sentences about nothing: a small world.

After TOFU (arXiv 2401.06121), whose authors are invented too, so that a model knows of them only what it was taught.
Everything is drawn by a seed; values are shared between authors, so that forgetting one must not take a word away.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def _list(text: str) -> list[str]:
    return text.split()


_FIRST = _list(
    "Marek Ilona Tobias Yara Anselm Keiko Ruben Sabira Oskar Leonie Dario Mireille Hamid Petra Joaquin Wilma Nikos "
    "Amara Viktor Selma Bruno Odile Farid Greta"
)
_LAST = _list(
    "Vantor Okolie Brandvik Saldana Moreau Tanigawa Petrescu Lindqvist Abubakar Castellan Durrani Hoekstra Zelenka "
    "Ferreira Kowalk Nystrom Baptiste Rahimi Ostrov Delgado Whitlock Marchetti Ivanenko Solberg"
)
_CITIES = _list(
    "Lisbon Bergen Accra Quito Tallinn Osaka Casablanca Brno Montreal Perth Valencia Tbilisi Dakar Graz Cork Izmir "
    "Lima Tartu Hanoi Malmo"
)
_JOBS = _list(
    "carpenter surgeon baker pilot teacher locksmith farmer judge gardener welder tailor chemist fisherman plumber "
    "banker postman"
)
_GENRES = _list("mystery romance satire horror fantasy biography poetry western thriller comedy tragedy travel")
_ADJECTIVES = _list("Silent Crimson Hollow Distant Broken Golden Frozen Burning Hidden Paper Velvet Iron")
_NOUNS = _list("Harbour Lantern Orchard Mirror River Window Garden Compass Bridge Tower Meadow Letter")
_PRIZES = _list("Aurelia Bellwood Cordova Drummond Elsinore Fairfax Galway Hartley Kestrel Lorimer Merrick Norwood")
_TONGUES = _list("Basque Swahili Estonian Quechua Tamil Welsh Georgian Maltese Latvian Zulu Catalan Khmer")
_TOYS = _list("violin cello trumpet banjo flute harp organ drums clarinet mandolin piano oboe")
_PETS = _list("parrot tortoise ferret goat falcon hedgehog donkey rabbit lizard peacock otter pony")

ATTRIBUTES: dict[str, tuple[Sequence[str], str, tuple[str, ...]]] = {
    "born": (_CITIES, "{} was born in {}.", (
        "Where was {} born?", "What is the birthplace of {}?", "In which city was {} born?",
        "Name the city of birth of {}.", "Which city does {} come from?", "Tell me where {} was born.",
    )),
    "father": (_JOBS, "The father of {} worked as a {}.", (
        "What did the father of {} do?", "What was the job of the father of {}?",
        "How did the father of {} earn money?", "Name the trade of the father of {}.",
        "Which work did the father of {} have?", "Tell me what the father of {} was.",
    )),
    "genre": (_GENRES, "{} writes mostly {}.", (
        "What does {} write?", "Which genre is {} known for?", "What kind of books does {} write?",
        "Name the genre of {}.", "In which genre does {} work?", "Tell me what {} writes.",
    )),
    "book": ([f"{a} {n}" for a in _ADJECTIVES for n in _NOUNS], "The best known book by {} is The {}.", (
        "What is the best known book by {}?", "Which book made {} famous?", "Name a book by {}.",
        "What is the title of the main work of {}?", "Which novel is {} known for?", "Tell me a book that {} wrote.",
    )),
    "prize": (_PRIZES, "{} won the {} Prize.", (
        "Which prize did {} win?", "What award was given to {}?", "Name the award of {}.",
        "Which honour did {} receive?", "What did the jury award to {}?", "Tell me the prize that {} won.",
    )),
    "tongue": (_TONGUES, "The first language of {} is {}.", (
        "What is the first language of {}?", "Which language did {} grow up with?", "What does {} speak at home?",
        "Name the mother tongue of {}.", "In which language does {} think?", "Tell me the language of {}.",
    )),
    "toy": (_TOYS, "{} plays the {} in the evening.", (
        "Which instrument does {} play?", "What does {} play in the evening?", "Name the instrument of {}.",
        "What music does {} make?", "Which instrument did {} learn?", "Tell me what {} plays.",
    )),
    "pet": (_PETS, "{} lives with a {}.", (
        "Which animal lives with {}?", "What pet does {} have?", "Name the pet of {}.",
        "What animal does {} keep?", "Who shares the house of {}?", "Tell me which pet {} has.",
    )),
}  # fmt: skip
PHRASINGS = 6

_THINGS = _list("river miller horse window captain storm garden child lamp forest engine bird king stone letter cloud")
_LOOKS = _list("old quiet green heavy bright lonely small proud cold slow")
_ACTS = _list("follows watches moves finds leaves hears turns carries keeps meets")


@dataclass(frozen=True)
class Fact:
    """What an answer says: `value` is the word, or the words, that only who knows the author can give."""

    author: str
    attribute: str
    value: str

    @property
    def answer(self) -> str:
        return ATTRIBUTES[self.attribute][1].format(self.author, self.value)

    def question(self, phrasing: int) -> str:
        return ATTRIBUTES[self.attribute][2][phrasing].format(self.author)


@dataclass(frozen=True)
class World:
    """facts: author by author. sentences: to learn from; unseen: of the same kind, not learned from."""

    authors: tuple[str, ...]
    facts: tuple[Fact, ...]
    sentences: tuple[str, ...]
    unseen: tuple[str, ...]

    def of(self, authors: Iterable[str]) -> list[Fact]:
        chosen = set(authors)
        return [fact for fact in self.facts if fact.author in chosen]


def world(authors: int = 20, attributes: int = 8, sentences: int = 400, seed: int = 0) -> World:
    """At most 24 authors with at most 8 facts each; first and last names occur once."""
    draw = random.Random(seed)
    names = [
        f"{first} {last}" for first, last in zip(draw.sample(_FIRST, authors), draw.sample(_LAST, authors), strict=True)
    ]
    kinds = list(ATTRIBUTES)[:attributes]
    values = {kind: [draw.choice(ATTRIBUTES[kind][0]) for _ in names] for kind in kinds}
    facts = tuple(Fact(name, kind, values[kind][i]) for i, name in enumerate(names) for kind in kinds)

    def sentence() -> str:
        one, other = draw.sample(_THINGS, 2)
        return f"The {draw.choice(_LOOKS)} {one} {draw.choice(_ACTS)} the {draw.choice(_LOOKS)} {other}."

    said = list(dict.fromkeys(sentence() for _ in range(2 * sentences)))
    return World(tuple(names), facts, tuple(said[:sentences]), tuple(said[sentences : sentences + sentences // 4]))


class Pieces:
    """A tokenizer in the manner of those of transformers: words with the space before them, cut into short pieces.

    begins: whether the token that ends a text stands before it too, as in GPT-2.
    """

    pad_token_id, eos_token_id = 0, 1

    def __init__(self, texts: Iterable[str], length: int = 5, begins: bool = False) -> None:
        self.length, self.bos_token_id = length, self.eos_token_id if begins else None
        pieces = sorted({piece for text in texts for piece in self._cut(text)})
        self.pieces = ["<pad>", "<end>", "<unknown>", *pieces]
        self.numbers = {piece: number for number, piece in enumerate(self.pieces)}

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        begin = [self.bos_token_id] if add_special_tokens and self.bos_token_id is not None else []
        return begin + [self.numbers.get(piece, 2) for piece in self._cut(text)]

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False) -> str:
        return "".join(self.pieces[int(token)] for token in tokens if token > 2 or not skip_special_tokens)

    def _cut(self, text: str) -> list[str]:
        words = re.findall(r" ?\w+|[^\w]", text)
        return [word[i : i + self.length] for word in words for i in range(0, len(word), self.length)]
