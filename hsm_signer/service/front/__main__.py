"""``python -m hsm_signer.service.front``: what `hsm-signer serve` starts."""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

import msgspec

from hsm_signer.config.service import load
from hsm_signer.errors import SignerError
from hsm_signer.service.logs import configure


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 stopped as asked, 2 the settings are not usable."""
    parser = argparse.ArgumentParser(
        prog="python -m hsm_signer.service.front", description="The HTTPS side of the signing service."
    )
    parser.add_argument(
        "--settings", type=Path, required=True, metavar="FILE", help="service.toml; it need not be there"
    )
    parser.add_argument(
        "--sockets", type=Path, metavar="FOLDER", help="the workers' sockets, instead of worker.sockets"
    )
    parser.add_argument("--bind", metavar="HOST:PORT", help="instead of bind")
    parser.add_argument("--workers", type=int, metavar="N", help="instead of worker.count")
    options = parser.parse_args(arguments)
    # Bearer tokens are in memory: no core file keeps them.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    configure(sys.stderr, part="front")
    try:
        settings = load(options.settings)
        if options.bind is not None:
            settings = msgspec.structs.replace(settings, bind=options.bind)
        if options.workers is not None:
            worker = msgspec.structs.replace(settings.worker, count=options.workers)
            settings = msgspec.structs.replace(settings, worker=worker)
        folder = options.settings.absolute().parent
        sockets = options.sockets if options.sockets is not None else folder / settings.worker.sockets
        # Here and not above: a settings file that cannot be read need not wait for it.
        from .listener import run

        run(settings, folder, sockets)
    except SignerError as error:
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        if error.hint is not None:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
