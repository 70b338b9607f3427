"""Benchmarks in parts: what is asked for is measured anew, the rest stays, the table goes to its page."""

import json
import sys

from bench.parts import run_parts


def test_parts(tmp_path, monkeypatch):
    page, file = tmp_path / "page.md", tmp_path / "rows.json"
    page.write_text("before\n<!-- a -->\n<!-- b -->\nafter\n")
    rows = {"one": 1, "two": 2}

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["bench", "--data", str(tmp_path), "--json", str(file), *options])
        run_parts(
            "what", "a kind", {name: lambda given, name=name: [{"value": rows[name] + given}] for name in rows},
            lambda folder: ((10,), {"folder": folder.name}), lambda results: str(len(results["parts"])), page,
            ("<!-- a -->", "<!-- b -->"),
        )  # fmt: skip
        return json.loads(file.read_text())

    found = run()
    assert found["parts"] == {"one": [{"value": 11}], "two": [{"value": 12}]}
    assert found["kind"] == "a kind" and found["folder"] == tmp_path.name and found["machine"]["torch"]
    rows["one"], rows["two"] = 3, 4
    assert run("--parts", "two")["parts"] == {"one": [{"value": 11}], "two": [{"value": 14}]}
    run("--table")
    assert page.read_text() == "before\n<!-- a -->\n2\n<!-- b -->\nafter\n"
