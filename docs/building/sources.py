"""The state of the code, as one short text: outputs of notebooks are kept for as long as it stays the same."""

import hashlib
from pathlib import Path

CODE = ("lopt", "tasks", "presets", "examples", "docs")


def digest(root: Path) -> str:
    """A checksum over the Python files and trained optimizers that the pages of the site run."""
    files = [path for place in CODE for path in (root / place).rglob("*.py")] + [*(root / "checkpoints").rglob("*.*")]
    parts = hashlib.sha256()
    for path in sorted(files):
        if path.name != "conf.py" and "building" not in path.parts:
            parts.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return parts.hexdigest()[:16]
