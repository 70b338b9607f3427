"""Texts in colour: the colour is that of the relevance, the page needs nothing else, and what is told is escaped."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from zsu_fast import Relevance, plot
from zsu_fast.plot.colours import MISSING, NEGATIVE, POSITIVE

VALUES = torch.tensor([[2.0, -1.0, 0.0, 4.0], [0.0, -3.0, 1.5, float("nan")]])
TOKENS = [["The", " <b>", " &", "\n"], ["a", "b", "c", "d"]]


class Spans(HTMLParser):
    """(colour, text) of each span, and every other text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found, self.open, self.others = [], None, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "img", "b")
        if tag == "span":
            self.open = re.search("background:(#[0-9a-f]{6})", dict(attributes)["style"]).group(1)

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        self.found.append((self.open, data)) if self.open else self.others.append(data)


def test_colours_are_those_of_the_relevance(tmp_path):
    found = plot.text(Relevance(VALUES, {}, torch.zeros(2, 3)), TOKENS, samples=["one", "t<o"])
    found.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    spans = Spans(page)
    assert [text for _, text in spans.found] == ["The", " <b>", " &", "↵\n", "a", "b", "c", "d"]
    colours = [colour for colour, _ in spans.found]
    assert colours[3] == POSITIVE and colours[5] == NEGATIVE and colours[7] == MISSING
    assert colours[2] == colours[4] == "#ffffff"
    half = [round(255 + (int(POSITIVE[i : i + 2], 16) - 255) / 2) for i in (1, 3, 5)]
    assert colours[0] == colours[6] == "#" + "".join(f"{part:02x}" for part in half)
    assert "t<o" in spans.others and "http" not in page
    assert found.html() in page and found.html() in found._repr_html_()


def test_padding_is_left_out_and_titles_are_one_below_the_other():
    found = plot.text({"7": VALUES, "8": -VALUES}, TOKENS, mask=torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]))
    assert [(p.title, list(p.tokens)) for p in found.passages] == [
        ("7", [*TOKENS[0][:3], "↵\n"]), ("8", [*TOKENS[0][:3], "↵\n"]), ("7", ["c", "d"]), ("8", ["c", "d"]),
    ]  # fmt: skip
    assert found.passages[0].limit == 4 and found.passages[2].limit == 1.5
    np.testing.assert_array_equal(found.passages[1].values, -found.passages[0].values)
    single = plot.text(VALUES[0].bfloat16(), TOKENS[0], clip=50)
    assert single.passages[0].shares() == [1, -1 / 1.5, 0, 1]
    assert plot.text(torch.zeros(4), TOKENS[0]).passages[0].shares() == [0] * 4


def test_in_a_terminal():
    rich = pytest.importorskip("rich.console")
    for color, escapes in (("truecolor", True), (None, False)):
        file = io.StringIO()
        console = rich.Console(file=file, force_terminal=color is not None, color_system=color, width=60)
        console.print(plot.text(VALUES, TOKENS))
        printed = file.getvalue()
        red = ";".join(str(int(POSITIVE[i : i + 2], 16)) for i in (1, 3, 5))
        assert (f"48;2;{red}" in printed) == escapes
        assert "<b>" in printed and "full colour at 4" in printed


@pytest.mark.parametrize(("text", "given", "more"), [
    (r"relevance must be that of tokens, \[N, T\], got float64 \[2, 4, 1\]", VALUES[..., None], {}),
    (r"relevance of 'b': expected \[2, 4\] as the first, got \[1, 4\]", {"a": VALUES, "b": VALUES[:1]}, {}),
    ("relevance: expected at least one title", {}, {}),
    (r"tokens: expected 2 texts of 4 tokens, got \[4\]", VALUES, {"tokens": TOKENS[0]}),
    (r"tokens: expected 2 texts of 4 tokens, got \[4, 3\]", VALUES, {"tokens": [TOKENS[0], TOKENS[1][:3]]}),
    (r"mask: expected \[2, 4\], got \[2, 3\]", VALUES, {"mask": torch.ones(2, 3)}),
    ("samples: expected 2 texts, got 1", VALUES, {"samples": ["one"]}),
    (r"clip must be a percentile", VALUES, {"clip": 0}),
])  # fmt: skip
def test_what_is_wrong_is_named(text, given, more):
    with pytest.raises(ValueError, match=f"^{text}"):
        plot.text(given, **{"tokens": TOKENS} | more)


def test_only_pages_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"must be written as .html, got 'page.png'"):
        plot.text(VALUES, TOKENS).save(tmp_path / "page.png")
    assert not list(tmp_path.iterdir())
