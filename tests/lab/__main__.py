"""A lab by hand: ``python -m tests.lab up 3``, and ``python -m tests.lab clean``."""

from __future__ import annotations

import argparse
import shlex
import signal

from . import Lab, LabError, clean, missing


def main() -> None:
    """Do what the command line says."""
    arguments = _parser().parse_args()
    if arguments.deed == "clean":
        for folder in clean():
            print(f"removed {folder}")
        return
    lacking = missing(sshfs=arguments.sshfs or arguments.rate is not None)
    if lacking:
        raise SystemExit(f"a lab needs {lacking}")
    _up(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    deeds = parser.add_subparsers(dest="deed", required=True)
    deeds.add_parser("clean", help="remove what labs of dead owners left behind")
    up = deeds.add_parser("up", help="make hosts, and keep them until Ctrl-C")
    up.add_argument("hosts", type=int)
    up.add_argument("--without-share", type=int, default=0, help="so many do not mount the share")
    up.add_argument("--sshfs", action="store_true", help="the share is on a file server")
    up.add_argument("--variable", action="append", default=[], metavar="NAME=VALUE",
                    help="set in whatever starts on a host, such as PVM_ALLOW_ROOT=1")  # fmt: skip
    up.add_argument("--rate", help="the file server's rate limit, such as 20mbit")
    return parser


def _up(arguments: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = {name: getattr(arguments, name) for name in ("without_share", "sshfs", "rate")}
    variables = dict(given.partition("=")[::2] for given in arguments.variable)
    try:
        with Lab(arguments.hosts, variables=variables, **options) as lab:
            _tell(lab)
            signal.pause()
    except LabError as exc:
        raise SystemExit(str(exc)) from None
    except KeyboardInterrupt:
        print()


def _tell(lab: Lab) -> None:
    for host in lab.hosts:
        share = host.share or "no share"
        print(f"{host.name}  {host.address}  {share}  local storage {host.storage}")
    print(f"the share here: {lab.share}")
    print(f"to get in:      {lab.ssh_command} {lab.hosts[0].name}")
    print("for programs here:")
    for name, value in {**lab.environment, **lab.variables}.items():
        print(f"  export {name}={shlex.quote(value)}")
    print("Ctrl-C takes it down", flush=True)


if __name__ == "__main__":
    main()
