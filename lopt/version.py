"""The version, written here alone, and those of the libraries that a result may depend on."""

import importlib.metadata

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    installed = {name: importlib.metadata.version(name) for name in ("flax", "jax", "numpy", "optax")}
    return {**installed, "lopt": __version__}
