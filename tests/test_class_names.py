"""Classes by name: as people write them, and from the files that they have."""

from __future__ import annotations

import json

import pytest

from zsu_fast.class_names import ClassNames, given_names, read_class_map, read_class_names

FISH = ClassNames(
    {0: "tench, Tinca tinca", 1: "English springer", 2: "crane", 3: "crane", 4: "great white shark, white shark"},
    {"n01440764": 0},
)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("tench, Tinca tinca", 0),
        ("tench", 0),
        ("TINCA_tinca", 0),
        ("n01440764", 0),
        ("english-springer", 1),
        (" English  springer ", 1),
        ("white shark", 4),
        ("4", 4),
        ("index:3", 3),
        ("name:tench", 0),
        ("99", 99),  # whether the model has it is not for names to say
        ("-1", -1),
    ],
)
def test_found_as_people_write_it(text: str, index: int) -> None:
    assert FISH.find(text, "--target") == index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensh", "--target: 'tensh' is neither a class index nor a class name .did you mean 'tench, Tinca tinca'"),
        ("zebra", "names known: 'tench, Tinca tinca', 'English springer', 'crane', 'crane', 'great white shark"),
        ("crane", r"'crane' names several classes: 2 .crane., 3 .crane.; give the index"),
        ("99999999999", "99999999999 is no class index"),
        ("index:99999999999", "no class index"),
        ("", "'' is neither"),
        ("²", "neither"),
    ],
)
def test_not_found(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FISH.find(text, "--target")


def test_a_digit_that_is_another_class_s_name_is_asked_about() -> None:
    names = ClassNames({0: "1", 1: "0", 2: "2"})
    assert names.find("2", "--target") == 2
    assert names.find("name:1", "--target") == 0 and names.find("index:1", "--target") == 1
    with pytest.raises(ValueError, match="'1' is the name of class 0 and the index of another one: write name:1 or"):
        names.find("1", "--target")


def test_the_narrowest_reading_counts() -> None:
    names = ClassNames({0: "cat, Felis", 1: "Cat", 2: "cat"})
    assert names.find("cat", "") == 2 and names.find("Cat", "") == 1 and names.find("felis", "") == 0
    with pytest.raises(ValueError, match="several classes: 1 .Cat., 2 .cat."):
        names.find("CAT", "")


def test_without_names() -> None:
    assert ClassNames().find("7", "target") == 7
    with pytest.raises(ValueError, match="'cat' is neither .* .no names are known: give the class index"):
        ClassNames().find("cat", "target")


def test_many_names_are_not_all_listed() -> None:
    with pytest.raises(ValueError, match="'class 4' and 995 more"):
        ClassNames((i, f"class {i}") for i in range(1000)).find("zebra", "target")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("n.txt", "tench\r\nshark\n\n"),
        ("n.csv", "index,name\n1,shark\n0,tench\n"),
        ("n.csv", "0,tench\n1,shark\n"),
        ("n.csv", '\ufeff0,"tench"\n1,shark\n'),
        ("n.json", '["tench", "shark"]'),
        ("n.json", '{"1": "shark", "0": "tench"}'),
        ("n.json", '{"id2label": {"0": "tench", "1": "shark"}, "hidden_size": 3}'),
    ],
)
def test_files_of_names(tmp_path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    assert read_class_names(tmp_path / file) == {0: "tench", 1: "shark"}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("n.json", '{"0": ["n01440764", "tench"], "1": ["n01484850", "shark"]}'),
        ("n.csv", "0,tench,n01440764\n1,shark,n01484850"),
    ],
)
def test_ids_of_files(tmp_path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content)
    names = read_class_names(tmp_path / file)
    assert names == {0: "tench", 1: "shark"} and names.ids == {"n01440764": 0, "n01484850": 1}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("n.txt", "", "holds no names"),
        ("n.txt", "a\n\nb\n", "class 1 has ''"),
        ("n.txt", b"\xff\xfe\x00", "cannot read"),
        ("n.csv", "0,a\n0,b\n", "class 0 has 'b'"),
        ("n.csv", "index,name\nx,b\n", "must have the columns"),
        ("n.csv", "0\n", "must have the columns"),
        ("n.json", "{", "cannot read"),
        ("n.json", "[" * 100_000, "cannot read"),
        ("n.json", '{"0": "a", "0": "b"}', "'0' stands there twice"),
        ("n.json", '{"cat": 3}', "must hold a list of names"),
        ("n.json", '{"0": 3}', "class 0 has 3"),
        ("n.json", "3", "must hold a list"),
        ("n.json", '{"99999999999": "a"}', "class 99999999999"),
    ],
)
def test_files_that_are_none(tmp_path, file: str, content: str | bytes, message: str) -> None:
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"--class-names: .*{message}"):
        read_class_names(tmp_path / file)
    with pytest.raises(ValueError, match="--class-names: cannot read"):
        read_class_names(tmp_path / "absent.txt")


def test_maps_of_folders(tmp_path) -> None:
    (tmp_path / "m.json").write_text(json.dumps({"fish_a": "tench", "b": 4, "c": "3"}))
    assert read_class_map(tmp_path / "m.json", FISH) == {"fish_a": 0, "b": 4, "c": 3}
    (tmp_path / "m.csv").write_text("fish_a,tench\nb,4\n")
    assert read_class_map(tmp_path / "m.csv", FISH) == {"fish_a": 0, "b": 4}
    for file, content, message in (
        ("w.json", "[]", "must hold an object of folder -> class"),
        ("w.json", '{"a": true}', "'a' has True"),
        ("w.json", '{"a": 1.5}', "'a' has 1.5"),
        ("w.json", '{"a": "zebra"}', "'zebra' is neither"),
        ("w.csv", "a\n", "two columns"),
        ("w.csv", "a,1\na,2\n", "'a' has '2'"),
    ):
        (tmp_path / file).write_text(content)
        with pytest.raises(ValueError, match=f"--class-map: .*{message}"):
            read_class_map(tmp_path / file, FISH)


def test_names_from_python() -> None:
    assert given_names(["a", "b"]) == given_names({0: "a", 1: "b"}) == {0: "a", 1: "b"}
    assert given_names(None) == {} and given_names(FISH) is FISH
    for wrong in ("ab", 3, {"a", "b"}):
        with pytest.raises(TypeError, match="class_names: expected names in order, or index -> name"):
            given_names(wrong)  # type: ignore[arg-type]
    for pair in ({"cat": 0}, {0: ""}, {-1: "a"}, {True: "a"}, [None]):
        with pytest.raises(ValueError, match="class_names: expected class index -> name"):
            given_names(pair)  # type: ignore[arg-type]
