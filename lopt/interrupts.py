"""Ctrl-C in a command: while its libraries load, it ends at once; from then on it is KeyboardInterrupt, as ever.

JAX and what else a command imports take seconds, in which Python answers Ctrl-C with a long traceback, or loses it
where a library catches everything. A command therefore begins and ends like this:

    from lopt import interrupts

    if __name__ == "__main__":
        interrupts.end_while_loading()  # before any other import

    import jax
    ...

    if __name__ == "__main__":
        sys.exit(interrupts.run(main))
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

STATUS = 130  # as shells have it: 128 and the number of SIGINT


def end_while_loading() -> None:
    """Ctrl-C ends the process with status 130 from here to `run`; not where whoever started it has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def run(main: Callable[[], int | None]) -> int | None:
    """Calls `main` with Ctrl-C as KeyboardInterrupt; where that ends it, so does the process, with status 130."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = _raise_again
    try:
        status = main()
    except KeyboardInterrupt:
        status = STATUS
    except SystemExit as stop:  # so absl's commands end
        if stop.code != STATUS:
            raise
        status = STATUS
    if status == STATUS:
        with contextlib.suppress(OSError):  # whoever read the output has gone
            sys.stdout.flush()
            sys.stderr.flush()
        _end()  # JAX that was interrupted while it compiled may crash when Python tidies up
    return status


def _raise_again(unraisable: Any) -> None:
    """Ctrl-C that comes within a destructor or a callback is printed and lost there, so it is sent again.

    A thread sends it, a moment later: within this function it would be lost like the first one.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        main_thread = threading.main_thread().ident
        again = threading.Timer(0.1, signal.pthread_kill, (main_thread, signal.SIGINT))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(unraisable)


def _end(*signal_and_frame: object) -> NoReturn:
    os._exit(STATUS)  # no exception, as imports lose those
