"""Values as people type them."""

import pytest

from zsu_fast.cli.parsing import (
    count_or_share,
    parse_bytes,
    parse_latent,
    parse_model,
    parse_numbers,
    parse_range,
    parse_setting,
    parse_size,
)


def test_what_is_understood() -> None:
    assert parse_numbers("0.5,1", "--mean") == (0.5, 1.0) and parse_numbers(None, "--mean") is None
    assert parse_size("224") == (224, 224) and parse_size("24x32") == (24, 32)
    assert parse_bytes("5GB") == 5 * 10**9 and parse_bytes("1.5kb") == 1500 and parse_bytes(None) is None
    assert parse_latent("64") == (64,) and parse_latent("100x1x1") == (100, 1, 1)
    assert parse_model("timm:resnet18") == ("timm", "resnet18") and parse_model("python:a.b:c") == ("python", "a.b:c")
    assert parse_range("-1,1") == (-1.0, 1.0)
    assert count_or_share("40", "--k") == 40 and count_or_share("0.1", "--k") == 0.1
    assert isinstance(count_or_share("1", "--k"), int) and isinstance(count_or_share("1.0", "--k"), float)
    assert parse_setting("layers=[1, 2]") == ("layers", [1, 2]) and parse_setting("a=b=c") == ("a", "b=c")


@pytest.mark.parametrize(
    ("parse", "flag", "values"),
    [
        (parse_numbers, "--mean", ("a,b", "", "1,", "nan", "inf,1")),
        (parse_bytes, "--max-shard-size", ("", "5", "GB", "0MB", "-1GB", "1e3MB", "9" * 400 + "GB")),
        (parse_size, "--size", ("x", "1x2x3", "1.5")),
        (parse_range, "--range", ("1", "1,0", "0,0", "a,b", "-inf,1")),
        (parse_latent, "--latent", ("", "2xy", "0", "-4x2", "absent.npz")),
        (count_or_share, "--budget", ("many", "1x")),
        (parse_setting, "--set", ("epochs",)),
        (parse_model, "--judge", ("", "resnet18", "timm:", "jax:resnet18", "python:net", "python:net:", "python::net")),
    ],
)
def test_what_is_refused(parse, flag: str, values: tuple[str, ...]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"^{flag}.*{value!r}"):
            parse(value, flag)
