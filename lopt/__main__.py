"""The command `lopt`: `lopt VERB ...`, and `python -m lopt VERB ...` where it is not installed.

A verb runs a module as `python -m` does, with the arguments that follow; `lopt VERB --help` shows them.
"""

import runpy
import sys

from lopt import interrupts
from lopt.checkout import module_name
from lopt.names import InputError, check_known

VERBS = {
    "train": ("lopt.train", "meta-trains a learned optimizer"),
    "eval": ("lopt.eval", "compares a trained optimizer with tuned baselines"),
    "launch": ("lopt.launch", "starts several processes here that do one run together"),
    "list": ("lopt.listing", "lists the trained optimizers that ship with lopt"),
    "inspect": ("lopt.inspect", "draws what a trained optimizer does"),
    "monitor": ("lopt.monitor", "shows meta-training runs, while they go on too"),
    "tasks": ("lopt.tasks", "lists, prepares and shows tasks and data sets"),
}
_LINES = "\n".join(f"  {verb:<8}  {does}" for verb, (_, does) in VERBS.items())
USAGE = f"""usage: lopt VERB ...

{_LINES}

lopt VERB --help says more; where lopt is not installed: python -m lopt VERB ..."""


def main() -> int | None:
    """Runs the verb that the command line names; it ends the process with its own status."""
    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    try:
        check_known("verb", verb, VERBS)
    except InputError as error:
        print(f"lopt: {error}", file=sys.stderr)
        return 2
    sys.argv[1:] = arguments
    runpy.run_module(module_name(VERBS[verb][0]), run_name="__main__", alter_sys=True)
    return None


def command() -> int | None:
    """What an installed `lopt` calls."""
    return interrupts.run(main)


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
