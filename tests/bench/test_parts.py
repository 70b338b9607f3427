"""Benchmarks in parts: what is asked for is measured anew, the rest stays, the table goes to its page."""

import json
import sys

from bench.parts import measured_on, run_parts


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
    found["machine"] |= {"cpu": "an older one", "date": "2020-01-01"}
    del found["measured"]  # as in files from before there was this
    file.write_text(json.dumps(found))
    again = run("--parts", "two")
    assert again["parts"] == {"one": [{"value": 11}], "two": [{"value": 14}]}
    assert again["measured"]["one"].startswith("an older one, ") and "2020-01-01" in again["measured"]["one"]
    assert measured_on(again) == f"one: {again['measured']['one']}; two: {again['measured']['two']}"
    assert measured_on({"parts": again["parts"], "machine": again["machine"]}) == again["measured"]["two"]
    run("--table")
    assert page.read_text() == "before\n<!-- a -->\n2\n<!-- b -->\nafter\n"
