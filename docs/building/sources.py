"""The state of the code, as one short text: outputs of notebooks are kept for as long as it stays the same."""

import hashlib
from pathlib import Path

CODE = ("lopt", "tasks", "presets", "docs")
EXAMPLES = ("tune_optax.py",)  # those that a page runs


def digest(root: Path) -> str:
    """A checksum over the Python files and trained optimizers that the pages of the site run."""
    files = [path for place in CODE for path in (root / place).rglob("*.py")]
    files += [*(root / "checkpoints").rglob("*.*"), *(root / "examples" / name for name in EXAMPLES)]
    parts = hashlib.sha256()
    for path in sorted(files):
        if path.name != "conf.py" and "building" not in path.parts:
            parts.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return parts.hexdigest()[:16]
