"""The simulator's constants against the tables of docs/understand/apdu.md, both ways."""

from __future__ import annotations

from enum import IntEnum

import pytest

from card_applet_sim import constants as c
from tests.support.card import contract


def test_identity() -> None:
    assert contract.aid() == c.AID
    assert contract.version() == c.VERSION
    assert contract.key_reference() == c.KEY_REFERENCE


def test_commands() -> None:
    assert set(contract.commands()) == set(c.COMMANDS)
    for name, row in contract.commands().items():
        mine = c.COMMANDS[name]
        assert row[:7] == (mine.cla, mine.ins, mine.p1, mine.p2, mine.chained, mine.nc_min, mine.nc_max), name
        assert row.states == mine.states, name


@pytest.mark.parametrize("name", ["VERIFY", "CHANGE REFERENCE DATA", "RESET RETRY COUNTER"])
def test_pin_commands_name_the_key_reference(name: str) -> None:
    assert contract.commands()[name].p2 == contract.key_reference()


@pytest.mark.parametrize(
    ("table", "enum"),
    [
        ("states", c.State),
        ("schemes", c.Scheme),
        ("combines", c.Combine),
        ("modes", c.Mode),
        ("pin-policies", c.PinPolicy),
        ("pin-checks", c.PinCheck),
    ],
)
def test_codes(table: str, enum: type[IntEnum]) -> None:
    written = {name.upper().replace(" ", "_"): code for name, code in contract.codes(table).items()}
    assert written == {member.name: member.value for member in enum}


def test_features() -> None:
    written = {name.upper().replace(" ", "_"): mask for name, mask in contract.features().items()}
    assert written == {member.name: member.value for member in c.Feature}


def test_pin_check_bytes() -> None:
    assert contract.pin_check_bytes() == {check: check.kept for check in c.PinCheck}


def test_algorithms() -> None:
    assert contract.algorithm_digest_lengths() == c.ALGORITHM_DIGEST_LENGTH


def test_status_words() -> None:
    names = {
        c.Sw.OK: "ok",
        c.Sw.MORE_DATA: "more data",
        c.Sw.WRONG_SECRET: "wrong PIN or PUK",
        c.Sw.MEMORY_FAILURE: "memory failure",
        c.Sw.WRONG_LENGTH: "wrong length",
        c.Sw.NO_CHAINING: "chaining not supported",
        c.Sw.NOT_VERIFIED: "not verified",
        c.Sw.BLOCKED: "blocked",
        c.Sw.CONDITIONS: "conditions not satisfied",
        c.Sw.WRONG_DATA: "wrong data",
        c.Sw.NOT_FOUND: "not found",
        c.Sw.WRONG_P1P2: "wrong P1 P2",
        c.Sw.NO_REFERENCE_DATA: "no such reference data",
        c.Sw.UNKNOWN_INSTRUCTION: "unknown instruction",
        c.Sw.UNKNOWN_CLASS: "unknown class",
    }
    assert set(names) == set(c.Sw)
    words = contract.status_words()
    assert words.pop("wrong Le") == 0x6C00
    assert words == {name: word.value for word, name in names.items()}


def test_tags() -> None:
    names = {
        c.Tag.VERSION: "version",
        c.Tag.STATE: "state",
        c.Tag.SCHEME: "scheme",
        c.Tag.COMBINE: "combine",
        c.Tag.CREDENTIAL_ID: "credential id",
        c.Tag.PIN_LEFT: "PIN tries left",
        c.Tag.PUK_LEFT: "PUK tries left",
        c.Tag.SERIAL: "serial",
        c.Tag.FEATURES: "features",
        c.Tag.PIN_POLICY: "PIN policy",
        c.Tag.PIN_CHECK: "PIN check",
    }
    assert names == {tag: row.name for tag, row in contract.status_tags().items()}
    install = {
        c.Tag.CREDENTIAL_ID: "credential id",
        c.Tag.SCHEME: "scheme",
        c.Tag.COMBINE: "combine",
        c.Tag.PIN_POLICY: "PIN policy",
        c.Tag.PIN_CHECK: "PIN check",
        c.Tag.POINT: "token point",
        c.Tag.WRAPPED_KCAR: "wrapped KCAR",
        c.Tag.WRAPPED_KEK: "wrapped KEK",
        c.Tag.PIN: "PIN",
        c.Tag.PUK: "PUK",
        c.Tag.TRIES: "tries",
    }
    assert install == {tag: row.name for tag, row in contract.install_tags().items()}
    templates = contract.template_tags()
    assert templates == {
        "file control information": c.Tag.FCI,
        "AID": c.AID_TAG,
        "proprietary": c.Tag.PROPRIETARY,
        "card point": c.Tag.POINT,
        "serial": c.Tag.SERIAL,
        "certificate of origin": c.Tag.ORIGIN_CERTIFICATE,
        "proof of origin": c.Tag.ORIGIN_PROOF,
        "origin point": c.Tag.ORIGIN_POINT,
    }
    origin = {c.Tag.ORIGIN_CERTIFICATE, c.Tag.ORIGIN_PROOF, c.Tag.ORIGIN_POINT}
    everything = {*names, *install, *origin, c.Tag.FCI, c.Tag.PROPRIETARY}
    assert everything == set(c.Tag), "a tag that no table names"


def test_install_max_is_the_sum_of_the_longest_tlvs() -> None:
    longest = sum(2 + row.length_max for row in contract.install_tags().values())
    assert longest == contract.limits()["install-max"] == c.INSTALL_MAX


def test_limits() -> None:
    assert contract.limits() == {
        "pin-min": c.PIN_MIN,
        "pin-max": c.PIN_MAX,
        "puk-min": c.PUK_MIN,
        "puk-max": c.PUK_MAX,
        "tries-min": c.TRIES_MIN,
        "tries-max": c.TRIES_MAX,
        "rolling-values-max": c.ROLLING_VALUES_MAX,
        "digests-max": c.DIGESTS_MAX,
        "digests-header": c.DIGESTS_HEADER,
        "install-max": c.INSTALL_MAX,
        "short-data-max": c.SHORT_DATA_MAX,
        "extended-data-max": c.EXTENDED_DATA_MAX,
        "answer-max": c.ANSWER_MAX,
        "credential-id": c.CREDENTIAL_ID_LENGTH,
        "serial": c.SERIAL_LENGTH,
        "nonce": c.NONCE_LENGTH,
        "salt": c.SALT_LENGTH,
        "key": c.KEY_LENGTH,
        "signature": c.SIGNATURE_LENGTH,
        "wrapped-key": c.WRAPPED_KEY_LENGTH,
        "point": c.POINT_LENGTH,
        "compressed-point": c.COMPRESSED_POINT_LENGTH,
        "origin-certificate": c.ORIGIN_CERTIFICATE_LENGTH,
    }


def test_labels() -> None:
    assert contract.labels() == {
        "digests": c.LABEL_DIGESTS,
        "authorise": c.LABEL_AUTHORISE,
        "position": c.LABEL_POSITION,
        "blind": c.LABEL_BLIND,
        "powf": c.LABEL_POWF,
        "personalise": c.LABEL_PERSONALISE,
        "card-origin": c.LABEL_CARD_ORIGIN,
    }


def test_order_of_checks_is_the_protocols() -> None:
    # docs/understand/protocol.md, section 9; 6A88 has its place from docs/understand/apdu.md.
    words = [word for _, word in contract.order_of_checks()]
    assert words == [
        *(0x6E00, 0x6D00, 0x6884, 0x6A86, 0x6985, 0x6A88, 0x6700, 0x6A80, 0x6985, 0x6983, 0x6982, 0x63C0)
    ]
