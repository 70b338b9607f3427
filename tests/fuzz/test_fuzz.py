"""A bounded part of `make fuzz`: the same generator, a few seeds."""

import pytest

from tests.fuzz import driver

CALLS = {"ops": 3000, "api": 250, "files": 150}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", CALLS)
def test_no_case_fails(kind: str, seed: int) -> None:
    for case in range(CALLS[kind]):
        try:
            driver.run_case(kind, seed, case)
        except Exception as error:
            raise AssertionError(
                f"python -m tests.fuzz.driver --kind {kind} --seed {seed} --case {case}: {error}"
            ) from error


def test_a_failing_case_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(rng: object) -> None:
        raise AssertionError("on purpose")

    monkeypatch.setitem(driver.KINDS, "ops", fails)
    monkeypatch.setattr("sys.argv", ["driver", "--seed", "7", "--calls", "3", "--kind", "ops"])
    assert driver.main() == 1
    assert "--kind ops --seed 7 --case 0" in capsys.readouterr().err
