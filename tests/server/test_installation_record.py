"""The installation's own row: changed, put back, removed, or another installation's."""

from __future__ import annotations

from typing import Any

import pytest

from hsm_signer.errors import EvidenceDamaged, InstallationDamaged, InstallationOutdated, SignerError
from hsm_signer.evidence import findings
from hsm_signer.server.installation import no_prompt
from hsm_signer.testing import Home
from hsm_signer.types import INSTALLATION_CHAIN, Event
from tests.support.installation_rows import installation_of
from tests.support.scenes import columns, sql, still_signs


def refuses(home: Home, error: type[SignerError], match: str) -> None:
    """Nothing is opened, and so nothing is signed."""
    with pytest.raises(error, match=match), home.server():
        pass


def works(home: Home) -> None:
    with home.server() as server:
        still_signs(server, home["alice"])


def row(home: Home) -> tuple[Any, ...]:
    return sql(home, "SELECT * FROM installation")[0]


def put(home: Home, values: tuple[Any, ...]) -> None:
    sql(home, "DELETE FROM installation")
    sql(home, f"INSERT INTO installation VALUES ({', '.join('?' * len(values))})", *values)


def test_other_settings_are_evidence_and_the_same_ones_are_not(home: Home) -> None:
    installation = home.installation
    with home.server() as server:
        for settings in (b"one", b"one", b"two", b"one"):
            installation.note_settings(server, settings)
        events = [entry.event for _, entry in server.entries(INSTALLATION_CHAIN)]
        assert events == [Event.BEGIN, *[Event.SETTINGS] * 3]
        assert server.audit().good
    assert installation_of(home).version == 4
    works(home)


def test_an_old_row_put_back(home: Home) -> None:
    old = row(home)
    with home.server() as server:
        home.installation.note_settings(server, b"other settings")
    good = row(home)
    put(home, old)
    refuses(home, InstallationOutdated, "an old row was put back")
    with home.installation.server(no_prompt, for_audit=True) as server:
        found = {(finding.code, finding.credential_id) for finding in server.audit().findings}
    assert found == {(findings.RECORD_OUTDATED, INSTALLATION_CHAIN)}
    put(home, good)
    works(home)


def test_every_field_is_under_the_mac(home: Home) -> None:
    good = row(home)
    for place, name in enumerate(columns(home, "installation")):
        if name == "id":
            continue
        value = good[place]
        changed = (
            bytes(32) if value is None else value + 1 if isinstance(value, int) else value[:-1] + b"\x07"
        )
        put(home, (*good[:place], changed, *good[place + 1 :]))
        with pytest.raises(SignerError), home.server():
            pass
    put(home, good)
    works(home)


def test_no_row_two_rows_another_row(home: Home) -> None:
    good = row(home)
    sql(home, "DELETE FROM installation")
    refuses(home, InstallationDamaged, "lacks the installation's own row")
    put(home, good)
    sql(home, f"INSERT INTO installation VALUES ({', '.join('?' * len(good))})", 2, *good[1:])
    refuses(home, InstallationDamaged, "has 2 installations' rows")
    put(home, good)
    place = columns(home, "installation").index("installation_id")
    put(home, (*good[:place], bytes(8), *good[place + 1 :]))
    refuses(home, InstallationDamaged, "is that of installation 0000000000000000, not of")
    put(home, good)
    works(home)


def test_its_evidence_changed(home: Home) -> None:
    sql(home, "UPDATE evidence SET actor = 'somebody else' WHERE credential_id = ?", INSTALLATION_CHAIN)
    refuses(home, EvidenceDamaged, "evidence about the installation itself was changed")
    with home.installation.server(no_prompt, for_audit=True) as server:
        codes = {finding.code for finding in server.audit().findings}
    assert {findings.ENTRY_MAC, findings.RECORD_HEAD} <= codes
