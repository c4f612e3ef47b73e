"""Run under the spy, in a process of its own: init, enrolments and signatures, with places in the log.

    python -m tests.support.spied FOLDER SIGNATURES NAME:SCHEME:KEY...

Prints one line of JSON: a list of [what, first byte, last byte, facts] for each thing done.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from card_applet_sim.constants import Combine
from card_applet_sim.keys import combine
from hsm_signer.card.commands import authorise_content
from hsm_signer.core import algorithms
from hsm_signer.core.canonical import entry_bytes, record_bytes
from hsm_signer.schemes.authorise import position_digests
from hsm_signer.server.initialise import (
    NewInstallation,
    initialise,
)
from hsm_signer.server.installation import (
    Installation,
    no_prompt,
)
from hsm_signer.testing import Person, make_person
from hsm_signer.token import softhsm
from hsm_signer.types import (
    Algorithm,
    Authorisation,
    Content,
    CredentialRecord,
    Digest,
    EvidenceEntry,
    KeySpec,
    Scheme,
    SigningRequest,
)

from . import spy
from .needs import spy_module
from .older import as_older_versions_made_it
from .people import digests
from .scenes import card_keys, chain, message

LABEL = "spied"
PIN = "24681357"


class Log:
    """The spy's file, and where in it things happened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.phases: list[tuple[str, int, int, dict[str, Any]]] = []

    @contextmanager
    def phase(self, what: str) -> Iterator[dict[str, Any]]:
        """Everything in the block is logged under ``what``; facts may be added."""
        facts: dict[str, Any] = {}
        start = self._size()
        yield facts
        self.phases.append((what, start, self._size(), facts))

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0


def make_token(folder: Path) -> str:
    """A SoftHSM2 token without the spy; returns the real module's path."""
    (folder / "tokens").mkdir()
    conf = folder / "softhsm.conf"
    conf.write_text(softhsm.configuration(softhsm.DEFAULT_CONFIGURATION, folder / "tokens"))
    softhsm.use_configuration(conf)
    module = softhsm.find_module()
    softhsm.create_token(module, LABEL, "so-pin-so-pin", PIN)
    (folder / "pin").write_text(f"{PIN}\n")
    return module


def authorised(
    person: Person, record: CredentialRecord, authorisation: Authorisation, entry: EvidenceEntry
) -> dict[str, Any]:
    """D_1, and what card and token had in clear during this authorisation, out of the card's memory."""
    kcar, kek = card_keys(person)
    positions = position_digests(entry.d or Digest(b""), authorisation.rolling_values)
    secrets = {"KEK": kek}
    if person.scheme is not Scheme.BASIC:
        secrets["KCAR"] = kcar
        secrets |= {f"T_{i}": combine(Combine.CBC, kcar, d_i) for i, d_i in enumerate(positions, 1)}
    if person.scheme is Scheme.ROLLING:
        secrets["V_x"] = combine(Combine.CBC, kek, record.rn or b"")
        secrets["V_x+1"] = combine(Combine.CBC, kek, record.rn_next or b"")
    return {
        "d_1": positions[0].hex(),
        "secrets": {name: secret.hex() for name, secret in secrets.items()},
    }


def main(folder: Path, signatures: int, people: list[tuple[str, Scheme, KeySpec]]) -> None:
    """Everything, once."""
    os.environ[spy.MODULE_VARIABLE] = make_token(folder)
    log = Log(folder / "spy.log")
    os.environ[spy.OUTPUT_VARIABLE] = str(log.path)
    home = folder / "home"
    with log.phase("init"):
        initialise(
            NewInstallation(home, module=spy_module(), token_label=LABEL, token_pin_file=folder / "pin"),
            no_prompt,
        )
    written: list[str] = []
    with log.phase("life") as life, Installation.open(home).server() as server:
        with log.phase("identity") as identity:
            digest = Digest(hashlib.sha256(b"hsm-signer/2/trace").digest())
            signature = server.environment.vouch(digest).signature
        identity |= {"spki": server.environment.identity_spki.hex(), "digest": digest.hex()}
        algorithms.verifier(server.environment.identity_spki, Algorithm.ECDSA_SHA256)(digest, signature)
        for name, scheme, key in people:
            with log.phase(f"enrol {name}"):
                person = make_person(server, folder, name, scheme=scheme, key=key)
            credential_id = person.record(server).credential_id
            traced, batch = message(b"traced"), digests(*(bytes([i]) for i in range(10)))
            contents: list[tuple[str, Content]] = [("sign", traced)] * signatures
            contents += [("batch", batch), ("move", traced), ("moved", traced)]
            for what, content in contents:
                if what == "move":
                    with log.phase(f"older {name}"):
                        as_older_versions_made_it(server, person)
                with log.phase(f"challenge {name}"):
                    challenge = server.challenge(credential_id)
                with person.card() as card:
                    authorisation = authorise_content(
                        card, challenge, content, key.default_algorithm, person.pin
                    )
                before = server.credential_by_id(credential_id)
                with log.phase(f"{what} {name}") as facts:
                    server.sign(SigningRequest(authorisation, content))
                after = server.credential_by_id(credential_id)
                entry = chain(server, credential_id)[-1]
                written.append(record_bytes(after).hex())
                facts |= authorised(person, before, authorisation, entry)
                facts |= {
                    "scheme": scheme.number,
                    "credential_id": credential_id.hex(),
                    "nonce": authorisation.nonce.hex(),
                    "quantities": [each.hex() for each in authorisation.quantities],
                    "rolling_values": [each.hex() for each in authorisation.rolling_values],
                    "h": (entry.h or b"").hex(),
                    "wrapped_kcar": (before.wrapped_kcar or b"").hex(),
                    "wrapped_sk": (before.wrapped_sk or b"").hex(),
                    "wrapped_sk_after": (after.wrapped_sk or b"").hex(),
                    "parameter": (before.parameter or b"").hex(),
                }
            written += [entry_bytes(each).hex() for each in chain(server, credential_id)]
        with log.phase("self-test"):
            server.environment.self_test()
        # With its write-ahead log, which ends when the database is closed.
        shutil.copytree(home, folder / "living")
        life |= {"written": written, "homes": [str(home), str(folder / "living")]}
    print(json.dumps(log.phases))


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        [
            (name, Scheme[scheme], KeySpec[key])
            for name, scheme, key in (each.split(":") for each in sys.argv[3:])
        ],
    )
