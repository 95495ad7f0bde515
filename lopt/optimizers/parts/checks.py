"""Checks of settings that rules share."""

from lopt.names import InputError


def check_hidden_sizes(hidden_sizes: tuple[int, ...]) -> None:
    """Raises InputError unless they are one or more positive widths."""
    if not hidden_sizes or min(hidden_sizes) < 1:
        raise InputError(f"hidden_sizes must be one or more widths of at least 1, not {hidden_sizes}")


def check_keys(name: str, keys: tuple[str, ...]) -> None:
    """Raises InputError unless `keys` is a tuple of words: one word alone would be read as its letters."""
    if not isinstance(keys, tuple) or not all(isinstance(key, str) and key for key in keys):
        raise InputError(f'{name} must be a tuple of parts of paths, as ("embedding",), not {keys!r}')
