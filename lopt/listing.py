"""The trained optimizers that ship with lopt, a line each: `python -m lopt.listing`. In Python: `lopt.shipped`."""

from lopt import interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds

import argparse
import os
import sys

from lopt.names import InputError
from lopt.trained.shipped import listed, shipped

NOTES = """
reads: what tx.update is given, value=loss for the loss; num_steps is an argument of lopt.load.
weights: numbers that were learned. state: numbers kept per parameter of a large matrix; Adam keeps 2.
Compare a demonstration with Adam before you trust it on other tasks or longer trainings.
Load one by lopt.load(NAME), the first by lopt.load(). lopt inspect NAME draws what it does; lopt eval --checkpoint=NAME
compares it with Adam."""


def main(arguments: list[str] | None = None) -> int:
    argparse.ArgumentParser(
        prog="python -m lopt.listing", description="Lists the trained optimizers that ship with lopt."
    ).parse_args(arguments)
    try:
        print(f"{listed(shipped())}\n{NOTES}", flush=True)
    except InputError as error:
        print(f"list: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has gone: lopt list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
