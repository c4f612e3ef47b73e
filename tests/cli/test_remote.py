"""`hsm-signer --server`: a workstation's commands, each a process of its own, against the real service."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hsm_signer.card.address import open_card
from hsm_signer.card.apdu import CardState
from hsm_signer.config import installation as config
from hsm_signer.core.certificates import from_pem, to_pem
from hsm_signer.testing import PIN, PUK, WRONG_PIN, Home
from tests.support.authority import Authority
from tests.support.commandline import Cli, Process, Ran
from tests.support.far import Far, far_service


@pytest.fixture(scope="module")
def far(template_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """One service, for all tests of the module."""
    folder = tmp_path_factory.mktemp("far")
    with far_service(template_home, folder) as found:
        yield found
    shutil.rmtree(folder)


@dataclass
class Workstation:
    """A folder to work in, a home without installation, a card reader's cards beside it."""

    far: Far
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    """The environment's, besides the home."""

    @property
    def home(self) -> Path:
        return self.folder / "workstation"

    @property
    def identity(self) -> tuple[str, ...]:
        """The option that says which installation is behind it."""
        return ("--identity", self.far.fingerprint)

    @property
    def there(self) -> tuple[str, ...]:
        """The options that lead to the service."""
        return ("--server", self.far.service.url, "--ca", str(self.far.service.ca))

    def __call__(self, *arguments: str | Path, status: int = 0, pin: str | None = None) -> Ran:
        ran = Process(self.home, self.folder, self.variables)(*arguments, status=status, pin=pin)
        for token in self.far.tokens.values():
            assert token not in ran.out + ran.err
        return ran.tells_nothing()

    def configure(self, **settings: str | Path) -> None:
        """config.toml with these in [server]."""
        self.home.mkdir(mode=0o700, exist_ok=True)
        lines = [f"{name} = {json.dumps(str(value))}" for name, value in settings.items()]
        (self.home / config.CONFIG_FILE).write_text("\n".join(["format = 1", "[server]", *lines, ""]))


@pytest.fixture
def desk(far: Far, tmp_path: Path) -> Workstation:
    """As the client ``app``, its token in the environment."""
    return Workstation(far, tmp_path, {config.SERVER_TOKEN_VARIABLE: far.tokens["app"]})


def test_a_whole_session(desk: Workstation, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("I owe Bob ten euros.\n")
    (tmp_path / "puk").write_text(PUK)
    desk("card", "new", "sim:hanna.card")
    ran = desk(
        *("enrol", "hanna", "--card", "sim:hanna.card", "--no-puk", "--csr", "hanna.csr", "--json"),
        *desk.there,
        *desk.identity,
        pin=PIN,
    )
    assert (ran.json["owner"], ran.json["scheme"]) == ("hanna", "rolling")
    assert desk("sign", "note.txt", "--card", "sim:hanna.card", *desk.there, pin=PIN).out == "note.txt.sig\n"
    (tmp_path / "large").write_bytes(os.urandom(1 << 20))
    desk("sign", "note.txt", "large", "--card", "sim:hanna.card", "--force", *desk.there, pin=PIN)
    desk("credential", "public-key", "hanna", "-o", "hanna.pem", *desk.there)
    for name in ("note.txt", "large"):
        desk("verify", name, "--signature", f"{name}.sig", "--public-key", "hanna.pem")

    shown = desk("credential", "show", "hanna", "--json", *desk.there).json
    assert (shown["status"], shown["counter"], shown["other_credentials"]) == ("active", "4", [])
    by_id = desk("credential", "show", shown["credential_id"], "--json", *desk.there).json
    assert by_id == shown
    users = [each["owner"] for each in desk("credential", "list", "--json", *desk.there).json]
    assert {"hanna", "alice", "basil"} <= set(users)
    assert desk("credential", "request", "hanna", *desk.there).out == (tmp_path / "hanna.csr").read_text()

    for command, status in (("suspend", "suspended"), ("resume", "active")):
        assert f"is {status}" in desk("credential", command, "hanna", *desk.there).err
    unlock = desk("credential", "unlock", "hanna", *desk.there, status=3)
    assert unlock.code == "credential.status-unsuitable"
    assert desk("credential", "revoke", "hanna", *desk.there, status=2).code == "input.invalid"
    desk("credential", "revoke", "hanna", "--yes", *desk.there)
    again = desk("sign", "note.txt", "--card", "sim:hanna.card", "--force", *desk.there, status=3, pin=PIN)
    assert again.code == "credential.revoked"


def test_verbose_names_the_service_and_each_request(desk: Workstation) -> None:
    """And no token: the desk looks for that in every line."""
    url = desk.far.service.url
    ran = desk("--verbose", "credential", "list", *desk.there)
    assert f"info: server: the service at {url}" in ran.err.splitlines()
    assert f"debug: GET {url}/v1/credentials: 200" in ran.err.splitlines()
    with_password = url.replace("https://", "https://user:unspeakable@")
    ran = desk("--verbose", "credential", "list", "--server", with_password, status=2)
    assert "unspeakable" not in ran.err


# --- which installation is behind it -----------------------------------------------------------------------


@pytest.fixture
def at_terminal(
    desk: Workstation, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """`enrol` at the desk, in this process; ``types``: what is answered, None without a terminal."""
    command = Cli(desk.home, desk.folder, monkeypatch, capfd)

    def enrol(*arguments: str, types: str | None = None, status: int = 0) -> Ran:
        with monkeypatch.context() as patch:
            patch.setattr(sys.stdin, "isatty", lambda: types is not None)
            patch.setattr("click.termui.visible_prompt_func", lambda _: types)
            return command("enrol", *arguments, "--no-puk", status=status, pin=PIN, env=desk.variables)

    command("card", "new", "sim:ida.card")
    return enrol


IDA = ("ida", "--card", "sim:ida.card")


def is_blank(folder: Path, card: str) -> bool:
    with open_card(f"sim:{folder / card}") as session:
        return session.status().state is CardState.BLANK


def test_at_a_terminal_the_first_enrolment_asks_and_keeps_the_answer(
    desk: Workstation, far: Far, at_terminal: Callable[..., Ran]
) -> None:
    desk.configure(url=far.service.url, ca=far.service.ca)
    file = desk.home / config.CONFIG_FILE
    file.write_text("# ours\n" + file.read_text().replace("[server]", "[server]  # the bank's"))
    before = file.read_text()

    refused = at_terminal(*IDA, types="n", status=2)
    assert far.fingerprint in refused.err
    assert "not confirmed; nothing was changed" in refused.error
    assert (file.read_text(), is_blank(desk.folder, "ida.card")) == (before, True)

    assert "is enrolled" in at_terminal(*IDA, types="y").err
    line = f'identity = "{far.fingerprint}"\n'
    assert file.read_text() == before.replace("bank's\n", f"bank's\n{line}")

    at_terminal(*IDA, status=3)  # credential.exists: so it is known who answers, with no terminal to ask at
    file.write_text(file.read_text().replace(far.fingerprint, OTHER))
    desk("card", "new", "sim:ilse.card")
    changed = at_terminal("ilse", "--card", "sim:ilse.card", types="y", status=7)
    assert (changed.code, far.fingerprint in changed.error) == ("identity.changed", True)
    assert is_blank(desk.folder, "ilse.card")


OTHER = "-".join(["0a1b"] * 10)


def test_without_a_terminal_the_installation_has_to_be_named(
    desk: Workstation, at_terminal: Callable[..., Ran]
) -> None:
    unknown = at_terminal(*IDA, *desk.there, status=2)
    assert (unknown.code, "--identity FINGERPRINT" in unknown.err) == ("identity.unknown", True)
    wrong = at_terminal(*IDA, *desk.there, "--identity", OTHER, status=7)
    assert wrong.code == "identity.changed"
    malformed = at_terminal(*IDA, *desk.there, "--identity", OTHER[:-1], status=2)
    assert "ten groups of four" in malformed.error
    assert is_blank(desk.folder, "ida.card")


def test_a_service_that_no_configuration_names_is_asked_about_each_time(
    desk: Workstation, at_terminal: Callable[..., Ran]
) -> None:
    asked = at_terminal("iris", "--card", "sim:ida.card", *desk.there, types="y")
    assert "It counts for this command" in asked.err
    assert not (desk.home / config.CONFIG_FILE).exists()


def test_the_installation_tells_its_identity(far: Far, tmp_path: Path) -> None:
    here = Process(far.home.path, tmp_path)
    assert here("identity").out == f"{far.fingerprint}\n"
    told = here("identity", "--json").json
    assert set(told) == {"identity", "installation_id", "public_key"}
    digest = hashlib.sha256(base64.b64decode(told["public_key"])).hexdigest()
    assert told["identity"].replace("-", "") == digest[:40]


def test_certificates_of_a_credential(desk: Workstation, tmp_path: Path) -> None:
    desk("card", "new", "sim:cleo.card")
    desk("enrol", "cleo", "--card", "sim:cleo.card", "--no-puk", *desk.there, *desk.identity, pin=PIN)
    assert desk("credential", "certificate", "cleo", *desk.there, status=2).code == "certificate.unsuitable"
    chain = Authority().chain(desk("credential", "request", "cleo", *desk.there).out)
    (tmp_path / "cleo.pem").write_text(to_pem(chain))
    kept = desk("credential", "certificate", "cleo", "--import", "cleo.pem", *desk.there)
    assert "2 certificates kept for cleo" in kept.err
    assert from_pem(desk("credential", "certificate", "cleo", *desk.there).out.encode()) == tuple(chain)
    desk("credential", "certificate", "cleo", "--export", "out.pem", *desk.there)
    assert (tmp_path / "out.pem").read_text() == to_pem(chain)
    wrong = desk("credential", "certificate", "alice", "--import", "cleo.pem", *desk.there, status=2)
    assert wrong.code == "certificate.unsuitable"
    desk("credential", "certificate", "cleo", "--remove", *desk.there)
    assert desk("credential", "certificate", "cleo", *desk.there, status=2).code == "certificate.unsuitable"


def test_scheme_basic_by_a_client_certificate(desk: Workstation, far: Far, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("note")
    desk.variables.clear()
    mutual = (
        *desk.there,
        *("--client-certificate", str(far.identity.certificate_file)),
        *("--client-key", str(far.identity.key_file)),
    )
    desk("card", "new", "sim:bea.card")
    desk("enrol", "bea", "--scheme", "basic", "--card", "sim:bea.card", *mutual, *desk.identity)
    desk("sign", "note.txt", "--card", "sim:bea.card", *mutual)
    desk.variables[config.SERVER_TOKEN_VARIABLE] = far.tokens["app"]
    refused = desk("sign", "note.txt", "--card", "sim:bea.card", "--force", *desk.there, status=3)
    assert refused.code == "channel.unsuitable"


def test_a_configuration_in_place_of_options(desk: Workstation, far: Far, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("note")
    desk.variables.clear()
    desk.configure(url=far.service.url, ca=far.service.ca, token_file="token")
    (desk.home / "token").write_text(far.tokens["signer"] + "\n")
    alice = far.home["alice"].address
    desk("sign", "note.txt", "--card", alice, pin=PIN)
    assert desk("card", "info", alice, "--json").json["owner"] == "alice"
    refused = desk("credential", "suspend", "alice", status=9)
    assert refused.code == "client.not-permitted"
    assert desk("sign", "note.txt", "--card", alice, "-o", desk.home / "token", status=2, pin=PIN).code in (
        "input.invalid",
        "file.unusable",
    )
    forced = desk(
        "sign", "note.txt", "--card", alice, "--force", "-o", desk.home / "token", status=2, pin=PIN
    )
    assert "never overwritten" in forced.error
    here = desk("audit", "list", status=2)
    assert here.code == "config.not-initialised"
    assert "it is a workstation's" in here.error


def test_the_token_of_a_configuration_goes_to_its_service_alone(
    desk: Workstation, far: Far, tmp_path: Path
) -> None:
    desk.variables.clear()
    desk.configure(url="https://elsewhere.invalid", ca=far.service.ca, token_file="token")
    (desk.home / "token").write_text(far.tokens["app"])
    assert desk("credential", "list", *desk.there, status=9).code == "client.not-authenticated"
    desk.variables[config.SERVER_VARIABLE] = far.service.url
    untrusted = desk("credential", "list", status=9)
    assert untrusted.code == "service.unreachable"


def test_the_environment_names_a_service(desk: Workstation, far: Far) -> None:
    desk.variables[config.SERVER_VARIABLE] = far.service.url
    assert "alice" in desk("credential", "list", "--ca", far.service.ca).out


def test_who_is_nobodys_client(desk: Workstation, far: Far) -> None:
    desk.variables[config.SERVER_TOKEN_VARIABLE] = "hsc_" + "A" * 43
    wrong = desk("credential", "list", *desk.there, status=9)
    assert wrong.code == "client.not-authenticated"
    del desk.variables[config.SERVER_TOKEN_VARIABLE]
    assert config.SERVER_TOKEN_VARIABLE in desk("credential", "list", *desk.there, status=9).err
    desk.variables[config.SERVER_TOKEN_VARIABLE] = "two words"
    malformed = desk("credential", "list", *desk.there, status=2)
    assert malformed.code == "input.invalid"
    assert "two words" not in malformed.err


def test_a_certificate_that_nobody_trusts(desk: Workstation, far: Far) -> None:
    ran = desk("credential", "list", "--server", far.service.url, status=9)
    assert ran.code == "service.unreachable"
    assert "not trusted" in ran.error
    assert "--ca FILE" in ran.err


def test_nobody_is_there(desk: Workstation, far: Far) -> None:
    ran = desk("credential", "list", "--server", "https://127.0.0.1:1", status=9)
    assert (ran.code, "refused" in ran.error) == ("service.unreachable", True)
    ran = desk("credential", "list", "--server", "https://nobody.invalid", status=9)
    assert ran.code == "service.unreachable"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--server", "http://127.0.0.1:8443"),
        ("--server", "ftp://127.0.0.1"),
        ("--server", "127.0.0.1:8443"),
        ("--server", "https://"),
        ("--server", "https://user:password@host"),
        ("--server", "https://host/?query"),
        ("--server", "https://127.0.0.1:1", "--ca", "nothing.pem"),
        ("--server", "https://127.0.0.1:1", "--client-key", "nothing.pem"),
        ("--server", "https://127.0.0.1:1", "--client-certificate", "nothing.pem"),
    ],
)
def test_what_is_no_way_to_a_service(desk: Workstation, arguments: tuple[str, ...]) -> None:
    ran = desk("credential", "list", *arguments, status=2)
    assert ran.code == "input.invalid"
    assert "password" not in ran.err


def test_options_without_a_service(desk: Workstation, far: Far) -> None:
    ran = desk("credential", "list", "--ca", far.service.ca, status=2)
    assert (ran.code, "go with --server" in ran.error) == ("usage", True)


@pytest.mark.parametrize(
    "command", [("audit", "list"), ("doctor",), ("store", "upgrade"), ("client", "list")]
)
def test_what_works_where_the_installation_is(desk: Workstation, command: tuple[str, ...]) -> None:
    ran = desk(*command, *desk.there[:2], status=2)
    assert (ran.code, "--server" in ran.error) == ("usage", True)


def test_a_wrong_pin(desk: Workstation, far: Far, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("note")
    bob = far.home["bob"].address
    ran = desk("sign", "note.txt", "--card", bob, *desk.there, status=4, pin=WRONG_PIN)
    assert ran.code == "card.pin-wrong"


def test_a_key_with_a_passphrase_is_not_asked_for(desk: Workstation, far: Far, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "pkey", "-in", far.identity.key_file, "-aes256", "-passout", "pass:x", "-out", locked],
        check=True,
        capture_output=True,
    )
    ran = desk(
        *("credential", "list", *desk.there),
        *("--client-certificate", far.identity.certificate_file, "--client-key", locked),
        status=2,
    )
    assert "without a passphrase" in ran.error


def test_authorised_here_and_submitted_there(desk: Workstation, far: Far, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("note")
    paula = far.home["paula"].address
    algorithm = ("--algorithm", "ecdsa-sha256")
    desk("authorise", "note.txt", "--card", paula, "-o", "later.json", *algorithm, pin=PIN)
    assert desk("submit", "later.json", *desk.there).out == "note.txt.sig\n"
    first = (tmp_path / "note.txt.sig").read_bytes()
    assert "carried out before" in desk("submit", "later.json", "--force", *desk.there).err
    assert (tmp_path / "note.txt.sig").read_bytes() == first
    desk("credential", "public-key", "paula", "-o", "paula.pem", *desk.there)
    desk("verify", "note.txt", "--signature", "note.txt.sig", "--public-key", "paula.pem")

    document = json.loads((tmp_path / "later.json").read_text())
    document["message"] = "AAAA"
    (tmp_path / "later.json").write_text(json.dumps(document))
    assert desk("submit", "later.json", "--force", *desk.there, status=3).code == "authorisation.mismatch"
