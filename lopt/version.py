"""The version, which is written only here, and those of the libraries that a result may depend on."""

import importlib.metadata

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """The versions of lopt and of the libraries that a result may depend on, by name."""
    installed = {name: importlib.metadata.version(name) for name in ("flax", "jax", "numpy", "optax")}
    return {**installed, "lopt": __version__}
