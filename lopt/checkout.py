"""Where the parts of lopt are that lie beside this package in a checkout, and inside it once a wheel is installed.

A wheel has no top-level package `tasks`, which a person's own `tasks.py` would hide: `pyproject.toml` puts the folder
into it as `lopt.tasks`, and the others likewise. Imports within them are relative, so that both names work.
"""

import importlib.util

# The name in an installed lopt, and in a checkout; `pyproject.toml` says the same in paths.
BESIDE = {"lopt.tasks": "tasks", "lopt.presets": "presets", "lopt.train": "meta_train", "lopt.eval": "meta_eval"}


def module_name(installed: str) -> str:
    """What a module of an installed lopt is called here; one that is not within `BESIDE` has one name.

    Args:
      installed: such as `lopt.tasks.sweeps`, which is `tasks.sweeps` in a checkout.
    """
    within = next((part for part in BESIDE if f"{installed}.".startswith(f"{part}.")), None)
    if within is None or importlib.util.find_spec(within) is not None:
        return installed
    return BESIDE[within] + installed.removeprefix(within)
