"""A stand-in for hypothesis where it is not installed (a GPU machine without network): its tests skip, the rest run."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest


class _Anything:
    """Every attribute and every call is itself: strategies can be described, not drawn from."""

    def __getattr__(self, name: str) -> "_Anything":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> "_Anything":
        return self

    def __or__(self, other: object) -> "_Anything":
        return self


class _Settings:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, test: Callable[..., None]) -> Callable[..., None]:
        return test


def _given(*args: Any, **kwargs: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def skipped(test: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.skip(reason="hypothesis is not installed")
        def test_of_hypothesis() -> None:
            raise AssertionError("must not run")

        test_of_hypothesis.__name__ = test.__name__
        return test_of_hypothesis

    return skipped


def install() -> None:
    """Put the stand-in where `import hypothesis` finds it, unless the real one is there."""
    try:
        import hypothesis  # noqa: F401
    except ImportError:
        module, anything = ModuleType("hypothesis"), _Anything()
        attributes = {"given": _given, "settings": _Settings, "strategies": anything, "HealthCheck": anything}
        for name, value in {**attributes, "assume": anything, "example": lambda *a, **k: lambda test: test}.items():
            setattr(module, name, value)
        module.__spec__ = ModuleSpec("hypothesis", None)  # torch asks whether it could be imported
        sys.modules["hypothesis"] = module
        sys.modules["hypothesis.strategies"] = anything  # type: ignore[assignment]
