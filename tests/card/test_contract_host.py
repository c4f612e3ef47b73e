"""The driver's constants against the tables of docs/understand/apdu.md, both ways."""

from __future__ import annotations

from enum import IntEnum

import pytest

from hsm_signer import types
from hsm_signer.card import apdu, pins
from hsm_signer.core import card_origin
from tests.support.card import contract


def _names(enum: type[IntEnum] | type[types.ProtocolEnum]) -> dict[str, int]:
    return {
        _plain(member.name): member.number if isinstance(member, types.ProtocolEnum) else int(member)
        for member in enum
    }


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _plain_names(table: dict[str, int]) -> dict[str, int]:
    return {_plain(name): value for name, value in table.items()}


def test_identity() -> None:
    assert contract.aid() == apdu.AID
    assert contract.version() == apdu.PROTOCOL_VERSION
    assert contract.key_reference() == apdu.KEY_REFERENCE


def test_commands() -> None:
    ours = {command.name: command for command in apdu.COMMANDS}
    assert len(ours) == len(apdu.COMMANDS)
    assert set(contract.commands()) == set(ours)
    for name, row in contract.commands().items():
        command = ours[name]
        assert (command.cla, command.ins, command.p1, command.p2) == row[:4], name
        assert command.chained == row.chained, name
        assert command.answers == (row.answer_max > 0), name
        assert row.answer_max <= apdu.ANSWER_MAX, name


def test_status_tags() -> None:
    table = {_plain(row.name): tag for tag, row in contract.status_tags().items()}
    assert table == _names(apdu.StatusTag)
    lengths = {tag: row.length_min for tag, row in contract.status_tags().items()}
    assert lengths[apdu.StatusTag.CREDENTIAL_ID] == types.CREDENTIAL_ID_LENGTH
    assert lengths[apdu.StatusTag.SERIAL] == types.SERIAL_LENGTH
    assert lengths[apdu.StatusTag.VERSION] == lengths[apdu.StatusTag.FEATURES] == 2
    others = set(apdu.StatusTag) - {0x80, 0x84, 0x87, 0x88}
    assert {lengths[tag] for tag in others} == {1}


def test_install_tags() -> None:
    table = {_plain(row.name): tag for tag, row in contract.install_tags().items()}
    assert table == _names(apdu.InstallTag)
    longest = sum(2 + row.length_max for row in contract.install_tags().values())
    assert longest == apdu.INSTALL_MAX == contract.limits()["install-max"]


def test_template_tags() -> None:
    assert _plain_names(contract.template_tags()) == _names(apdu.TemplateTag)


def test_features() -> None:
    ours = {_plain(feature.name or ""): int(feature) for feature in apdu.Feature}
    assert ours == _plain_names(contract.features())


@pytest.mark.parametrize(
    ("table", "enum"),
    [
        ("states", apdu.CardState),
        ("schemes", types.Scheme),
        ("combines", types.Combine),
        ("modes", types.Mode),
        ("pin-policies", types.PinPolicy),
        ("pin-checks", types.PinCheck),
        ("algorithms", types.Algorithm),
    ],
)
def test_codes(table: str, enum: type[types.ProtocolEnum]) -> None:
    assert _names(enum) == _plain_names(contract.codes(table))


def test_algorithms() -> None:
    for code, length in contract.algorithm_digest_lengths().items():
        hashed = types.Algorithm.numbered(code).hash
        assert (0 if hashed is None else hashed.length) == length
    assert {a.value: a.number for a in types.Algorithm} == contract.codes("algorithms")


def test_status_words() -> None:
    table = set(contract.status_words().values())
    assert table == set(apdu.StatusWord)


def test_limits() -> None:
    limits = contract.limits()
    assert (limits["pin-min"], limits["pin-max"]) == (pins.PIN_MIN, pins.PIN_MAX)
    assert (limits["puk-min"], limits["puk-max"]) == (pins.PUK_MIN, pins.PUK_MAX)
    assert (limits["tries-min"], limits["tries-max"]) == (1, types.MAX_TRIES)
    assert limits["rolling-values-max"] == types.MAX_ROLLING_VALUES
    assert limits["digests-max"] == types.MAX_DIGESTS
    assert limits["digests-header"] == apdu.DIGESTS_HEADER
    assert limits["short-data-max"] == apdu.SHORT_DATA_MAX
    assert limits["answer-max"] == apdu.ANSWER_MAX
    assert limits["credential-id"] == types.CREDENTIAL_ID_LENGTH
    assert limits["serial"] == types.SERIAL_LENGTH
    assert limits["nonce"] == types.NONCE_LENGTH
    assert types.KEY_LENGTH == types.ROLLING_VALUE_LENGTH == limits["key"]
    assert limits["wrapped-key"] == types.KW_LENGTH
    assert limits["point"] == types.POINT_LENGTH
    assert limits["signature"] == types.RAW_SIGNATURE_LENGTH
    assert limits["compressed-point"] == types.COMPRESSED_POINT_LENGTH
    assert limits["origin-certificate"] == types.ORIGIN_CERTIFICATE_LENGTH
    begin = contract.commands()["BEGIN PERSONALISATION"]
    assert (
        begin.answer_max == begin.answer_min + 2 + types.ORIGIN_CERTIFICATE_LENGTH + 2 + limits["signature"]
    )


def test_the_label_of_the_origin() -> None:
    assert contract.labels()["card-origin"] == card_origin.PROOF_LABEL
