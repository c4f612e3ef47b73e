"""Runs with pkcs11-spy between us and the token and counts the calls of single signatures."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from hsm_signer.config import installation as configuration
from hsm_signer.server.initialise import (
    NewInstallation,
    initialise,
)
from hsm_signer.server.installation import (
    Installation,
    no_prompt,
)
from hsm_signer.token.uri import TokenUri
from hsm_signer.types import KeySpec, Scheme

from .__main__ import SOFTHSM_CONF, enrolled, message

CALL = re.compile(rb"^\d+: C_", re.MULTILINE)


def main() -> None:
    """FOLDER SPY: enrol and sign once warm, once counted, per scheme; counts go to FOLDER.json."""
    folder, spy = Path(sys.argv[1]), sys.argv[2]
    log = Path(os.environ["PKCS11SPY_OUTPUT"])
    initialise(NewInstallation(folder, softhsm_conf=SOFTHSM_CONF), no_prompt)
    path = folder / configuration.CONFIG_FILE
    config = configuration.load(folder)
    uri = str(replace(TokenUri.parse(config.token.uri), module_path=spy))
    path.write_text(path.read_text().replace(config.token.uri, uri), encoding="utf-8")
    counts: dict[str, int] = {}
    with Installation.open(folder).server() as server:
        for scheme in Scheme:
            for key in (KeySpec.P256, KeySpec.RSA2048):
                signer = enrolled(server, folder, key, scheme)
                server.sign(signer.request(message(0)))
                request = signer.request(message(1))
                before = len(CALL.findall(log.read_bytes()))
                server.sign(request)
                name = f"{scheme.value} {key.value}"
                counts[name] = len(CALL.findall(log.read_bytes())) - before
    folder.with_suffix(".json").write_text(json.dumps(counts), encoding="utf-8")


if __name__ == "__main__":
    main()
