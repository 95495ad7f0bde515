"""Meta-training runs, watched while they go on: `python -m lopt.monitor RUN [RUN...]`.

In a terminal, a dashboard that refreshes itself; with --html or --png, the same as a file; with --serve, as a page in a
browser. Nothing is written into the runs. What it shows and warns of: docs/monitor.md.
"""

from lopt import extras, interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds
    extras.end_without("monitor", "rich")

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from lopt.extras import need
from lopt.files import write_atomic
from lopt.monitor.page import render
from lopt.monitor.runs import Watcher
from lopt.monitor.serve import LOOPBACK, Site
from lopt.monitor.terminal import Dashboard, changes_no_more
from lopt.names import InputError

PORT = 8710
EVERY = 3.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lopt.monitor",
        description="Shows meta-training runs while they go on: curves, a table, and what is to be done.",
        epilog="Without --html, --png and --serve: in the terminal, until Ctrl-C or until no run goes on.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run's folder (--workdir), or a folder of runs, such as a sweep's"
    )
    parser.add_argument("--html", metavar="FILE", help="write one page that opens from disk, and end")
    parser.add_argument("--png", metavar="FILE", help="write one picture, and end")
    parser.add_argument("--serve", action="store_true", help="show the page in a browser; it refreshes itself")
    parser.add_argument("--port", type=int, default=PORT, help=f"of --serve; 0: any that is free; default: {PORT}")
    parser.add_argument(
        "--host", default=LOOPBACK, help=f"address that --serve listens on; default: {LOOPBACK}, this machine alone"
    )
    parser.add_argument("--every", type=float, default=EVERY, help=f"seconds between looks; default: {EVERY:g}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        _check(args)
        watcher = Watcher(args.runs)
        if args.html or args.png:
            _write(watcher, args.html, args.png)
        elif args.serve:
            _serve(watcher, args.host, args.port, args.every)
        else:
            _show(watcher, args.every)
    except (InputError, OSError) as error:
        print(f"monitor: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def _check(args: argparse.Namespace) -> None:
    if not (math.isfinite(args.every) and args.every >= 0.1):
        raise InputError(f"--every={args.every:g}: seconds between looks, at least 0.1")
    if args.serve and (args.html or args.png):
        raise InputError("--serve shows the page, --html and --png write files: ask for one of the two")
    if not args.serve and (args.host != LOOPBACK or args.port != PORT):
        raise InputError("--host and --port belong to --serve")
    if args.png:
        need("a picture", "matplotlib")
    for flag, suffix in (("html", ".html"), ("png", ".png")):
        if (name := getattr(args, flag)) is None:
            continue
        if Path(name).suffix != suffix:
            raise InputError(f"--{flag}={name}: give the name of a file that ends with {suffix}")
        if not Path(name).parent.is_dir():
            raise InputError(f"--{flag}={name}: there is no folder {Path(name).parent}")


def _write(watcher: Watcher, html: str | None, png: str | None) -> None:
    runs = watcher.look()
    if png:
        from lopt.monitor.picture import picture  # here, as it needs matplotlib

        write_atomic(png, picture(runs))
        print(png)
    if html:
        write_atomic(html, render(runs))
        print(html)


def _serve(watcher: Watcher, host: str, port: int, every: float) -> None:
    watcher.look()  # what is wrong with the folders is said before anything is shown
    with Site(watcher.look, host=host, port=port, every=every) as site:
        print(f"{site.url} (Ctrl-C ends it)", flush=True)
        site.serve_forever()


def _show(watcher: Watcher, every: float) -> None:
    """On a terminal, until nothing changes any more; elsewhere once."""
    console = Console()
    runs = watcher.look()
    if not console.is_terminal or changes_no_more(runs):
        console.print(Dashboard(runs, whole=not console.is_terminal))
        return
    with Live(Dashboard(runs), console=console, auto_refresh=False) as live:
        while not changes_no_more(runs):
            time.sleep(every)
            runs = watcher.look()
            live.update(Dashboard(runs), refresh=True)


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
