"""Options of methods on the command line: none left out, any settable."""

import inspect
from dataclasses import fields

import pytest

from zsu_fast.cli.forget_command import forget
from zsu_fast.cli.method_options import parse_settings
from zsu_fast.unlearn.methods import Channels, LraNpp


@pytest.mark.parametrize("method", [LraNpp, Channels])
def test_every_option_is_on_the_command_line(method):
    assert {f.name for f in fields(method.options)} <= set(inspect.signature(forget).parameters)


def test_set_takes_json_or_text():
    assert parse_settings(["k=0.5", "layers=[1, 2]", "mode=zero", "composite=a=b"], "channels") == {
        "k": 0.5, "layers": [1, 2], "mode": "zero", "composite": "a=b",
    }  # fmt: skip
    with pytest.raises(ValueError, match="--set: expected NAME=VALUE"):
        parse_settings(["k"], "channels")
    for text in ("=3", "path=all", "method=lra-npp", "probes=3"):
        with pytest.raises(ValueError, match="--set: method 'channels' has no option"):
            parse_settings([text], "channels")
