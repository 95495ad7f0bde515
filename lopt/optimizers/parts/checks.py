"""Checks of settings that rules share."""

from lopt.names import InputError


def check_hidden_sizes(hidden_sizes: tuple[int, ...]) -> None:
    """Raises InputError unless there is at least one width and every width is positive."""
    if not hidden_sizes or min(hidden_sizes) < 1:
        raise InputError(f"hidden_sizes must be one or more widths of at least 1, not {hidden_sizes}")


def check_keys(name: str, keys: tuple[str, ...]) -> None:
    """Raises InputError unless `keys` is a tuple of words: a single string would be read letter by letter."""
    if not isinstance(keys, tuple) or not all(isinstance(key, str) and key for key in keys):
        raise InputError(f'{name} must be a tuple of parts of paths, such as ("embedding",), not {keys!r}')
