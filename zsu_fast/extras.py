"""Optional dependencies: imported where they are used, by name of the extra that brings them."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which the extra `extra` of this package installs.

    Raises:
        ImportError: it is not installed, or its own imports fail; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            problem = f"{package} is not installed"
        else:
            problem = f"{package} does not import ({error})"
        raise ImportError(f'{problem}; it comes with: pip install "zsu-fast[{extra}]"', name=module) from error
