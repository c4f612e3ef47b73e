"""`verify`: under a user's keys, revoked ones too, or under a public key anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_signer.testing import PIN, Home
from tests.support.commandline import Cli, changed, tree


@pytest.fixture
def signature(run: Cli, home: Home, note: Path) -> Path:
    """Alice's, of the note."""
    run("sign", note, "--card", home["alice"].address, pin=PIN)
    return note.with_name("note.txt.sig")


def test_json(run: Cli, note: Path, signature: Path) -> None:
    ran = run("verify", note, "--signature", signature, "--user", "alice", "--json")
    shown = run("credential", "show", "alice", "--json").json
    assert ran.json == {
        "file": str(note),
        "signature": str(signature),
        "valid": True,
        "algorithm": "ecdsa-sha256",
        "owner": "alice",
        "credential_id": shown["credential_id"],
        "credential_status": "active",
    }
    by_id = run("verify", note, "--signature", signature, "--user", shown["credential_id"].upper())
    assert by_id.out == f"{note}: good signature by alice (ecdsa-sha256)\n"


def test_public_key_works_without_any_installation(
    run: Cli, nowhere: Cli, note: Path, signature: Path
) -> None:
    run("credential", "public-key", "alice", "-o", "alice.pem")
    ran = nowhere("verify", note, "--signature", signature, "--public-key", "alice.pem")
    assert ran.out == f"{note}: good signature (ecdsa-sha256)\n"
    found = nowhere("verify", note, "--signature", signature, "--public-key", "alice.pem", "--json").json
    assert (found["owner"], found["valid"]) == (None, True)
    assert nowhere.home is not None
    assert not nowhere.home.exists()


def test_bad_signatures_are_exit_status_7(run: Cli, home: Home, note: Path, signature: Path) -> None:
    run("credential", "public-key", "bob", "-o", "bob.pem")
    raw = signature.read_bytes()
    (run.folder / "flipped").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    (run.folder / "empty").write_bytes(b"")
    (run.folder / "long").write_bytes(raw + b"\0")
    (run.folder / "changed").write_text("I owe Bob eleven euros.\n")
    before = tree(run.folder)
    for file, sig, whose in (
        (note, "flipped", ("--user", "alice")),
        (note, "empty", ("--user", "alice")),
        (note, "long", ("--user", "alice")),
        ("changed", signature, ("--user", "alice")),
        (note, signature, ("--user", "bob")),
        (note, signature, ("--public-key", "bob.pem")),
        (note, signature, ("--user", "alice", "--algorithm", "ecdsa-sha384")),
    ):
        ran = run("verify", file, "--signature", sig, *whose, "--json", status=7)
        assert (ran.code, ran.out) == ("signature.invalid", "")
    assert not changed(before, tree(run.folder))
    del home


@pytest.mark.parametrize(
    ("file", "arguments", "status", "code"),
    [
        ("gone", ("--signature", "note.txt.sig", "--user", "alice"), 2, "file.unusable"),
        ("folder", ("--signature", "note.txt.sig", "--user", "alice"), 2, "file.unusable"),
        ("note.txt", ("--signature", "gone", "--user", "alice"), 2, "file.unusable"),
        ("note.txt", ("--signature", "huge", "--user", "alice"), 2, "input.invalid"),
        ("note.txt", ("--signature", "note.txt.sig", "--user", "zoe"), 3, "credential.unknown"),
        ("note.txt", ("--signature", "note.txt.sig", "--user", "ab" * 16), 3, "credential.unknown"),
        ("note.txt", ("--signature", "note.txt.sig", "--public-key", "gone"), 2, "file.unusable"),
        ("note.txt", ("--signature", "note.txt.sig", "--public-key", "huge"), 2, "input.invalid"),
        ("note.txt", ("--signature", "note.txt.sig", "--public-key", "note.txt"), 2, "input.invalid"),
        ("note.txt", ("--signature", "note.txt.sig", "--public-key", "other.pem"), 2, "input.invalid"),
        (
            "note.txt",
            ("--signature", "note.txt.sig", "--user", "alice", "--algorithm", "rsa-pss-sha256"),
            2,
            "algorithm.unsuitable",
        ),
    ],
)
def test_wrong_input(
    run: Cli, note: Path, signature: Path, file: str, arguments: tuple[str, ...], status: int, code: str
) -> None:
    assert note.exists()
    assert signature.exists()
    (run.folder / "folder").mkdir()
    (run.folder / "huge").write_bytes(b"x" * 70000)
    brainpool = ec.generate_private_key(ec.BrainpoolP256R1()).public_key()
    pem = brainpool.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (run.folder / "other.pem").write_bytes(pem)
    ran = run("verify", file, *arguments, status=status)
    assert (ran.code, ran.out) == (code, "")


def test_what_revoked_keys_signed_stays_signed(run: Cli, home: Home, note: Path, signature: Path) -> None:
    first = run("credential", "show", "alice", "--json").json["credential_id"]
    run("credential", "revoke", "alice", "--yes")
    run("card", "reset", home["alice"].address, "--yes", pin=PIN)
    run("enrol", "alice", "--card", home["alice"].address, "--key", "rsa2048", pin=PIN)
    ran = run("verify", note, "--signature", signature, "--user", "alice", "--json")
    assert (ran.json["credential_id"], ran.json["credential_status"]) == (first, "revoked")
    ran = run("verify", note, "--signature", signature, "--user", "alice")
    assert "warning: the credential is revoked now" in ran.err
    run("sign", note, "--card", home["alice"].address, "-o", "new", pin=PIN)
    assert "rsa-pkcs1-sha256" in run("verify", note, "--signature", "new", "--user", "alice").out
    assert run("verify", note, "--signature", "new", "--user", first, status=7).code == "signature.invalid"
    shown = run("credential", "show", "alice", "--json").json
    assert [each["credential_id"] for each in shown["other_credentials"]] == [first]


def test_keys_of_others(nowhere: Cli, note: Path) -> None:
    """Ed25519, and RSA of a size that is not enrolled here."""
    message = note.read_bytes()
    key = ed25519.Ed25519PrivateKey.generate()
    odd = rsa.generate_private_key(public_exponent=65537, key_size=2560)
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    for private, signature, algorithm in (
        (key, key.sign(message), "ed25519"),
        (odd, odd.sign(message, padding.PKCS1v15(), hashes.SHA384()), "rsa-pkcs1-sha384"),
    ):
        pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (nowhere.folder / "key.pem").write_bytes(pem)
        (nowhere.folder / "sig").write_bytes(signature)
        ran = nowhere("verify", note, "--signature", "sig", "--public-key", "key.pem", "--json")
        assert ran.json["algorithm"] == algorithm
