"""What every page must be, whatever the names in it are."""

from html.parser import HTMLParser

EVIL = "<script>alert('&')</script>\"onload="
VOID = {"meta", "img", "br"}
HEADINGS = ("h1", "h2", "h3")


class Checker(HTMLParser):
    """Tags must nest; nothing may be loaded from elsewhere; pictures say what they show, heads of tables what they are
    the head of; headings are in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.level = 0  # of the last heading

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("src", "href"):
                self.sources.append(str(value))
        assert tag != "img" or dict(attributes)["alt"]
        assert tag != "html" or dict(attributes)["lang"] == "en"
        assert tag != "th" or dict(attributes)["scope"] in ("row", "col")
        if tag in HEADINGS:
            level = 1 + HEADINGS.index(tag)
            assert level <= self.level + 1, "no level of headings is left out"
            self.level = level

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open and "script" not in checker.seen
    assert all(source.startswith("data:image/") for source in checker.sources)
    assert "url(" not in page and "@import" not in page and "default-src 'none'" in page
    return checker
