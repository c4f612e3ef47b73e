"""The test kit as a user's tests have it: pytest run on a project that knows only hsm_signer.testing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hsm_signer import testing
from hsm_signer.errors import InputError, ServiceUnreachable
from hsm_signer.testing import Home, own_environment, serving
from tests.support import needs
from tests.support.people import ROOT

PAGE = (ROOT / "docs" / "call" / "index.md").read_text(encoding="utf-8")
CONFTEST, EXAMPLE = re.findall(r"::\n\n((?:    .*\n|\n)+)", testing.__doc__ or "")
PROJECT = {
    # It imports the kit before pytest does: that must not warn.
    "conftest.py": f"from hsm_signer.testing import Home\n{textwrap.dedent(CONFTEST)}",
    "test_example.py": EXAMPLE,
    "test_page.py": "".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[-1:]),
    "test_installation.py": """\
        import os
        import pytest
        import hsm_signer
        from hsm_signer.testing import WRONG_PIN

        HOMES = []

        @pytest.mark.parametrize("number", [1, 2])
        def test_own(hsm_signer_home, hsm_signer_server, number):
            alice = hsm_signer_home["alice"]
            assert os.environ["HSM_SIGNER_HOME"] == str(hsm_signer_home.path)
            HOMES.append(hsm_signer_home.path)
            assert len(set(HOMES)) == number
            with pytest.raises(hsm_signer.errors.CardPinWrong) as wrong:
                hsm_signer.sign(hsm_signer_server, alice.address, b"x", pin=hsm_signer.CardPin(WRONG_PIN))
            assert wrong.value.tries_left == 2
            assert len(list(hsm_signer_server.entries())) == 3
            hsm_signer.sign(hsm_signer_server, alice.address, b"x", pin=alice.pin)

        def test_as_before():
            assert os.environ["HSM_SIGNER_HOME"] == "/nowhere"
            assert os.environ["HSM_SIGNER_TOKEN_PIN"] == "not this one's"
            assert "SOFTHSM2_CONF" not in os.environ
        """,
    "test_service.py": """\
        import pytest
        import hsm_signer
        from hsm_signer.errors import NotPermitted

        def test_roles(hsm_signer_service):
            alice = hsm_signer_service.home["alice"]
            url, ca = hsm_signer_service.url, hsm_signer_service.ca
            token = hsm_signer_service.token("signer", user="alice")
            assert hsm_signer_service.token("signer", user="alice") == token
            with hsm_signer.connect(url, token=token, ca=ca) as server:
                outcome = hsm_signer.sign(server, alice.address, b"letter", pin=alice.pin)
                hsm_signer.verify(outcome.spki, b"letter", outcome.signature)
            with hsm_signer.connect(url, token=hsm_signer_service.token("auditor"), ca=ca) as server:
                with pytest.raises(NotPermitted):
                    hsm_signer.sign(server, alice.address, b"letter", pin=alice.pin)

        def test_both(hsm_signer_service, hsm_signer_server):
            assert hsm_signer_server.credential("alice").owner == "alice"
        """,
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What passed when pytest ran the project once, warnings as errors, beside somebody's installation."""
    needs.softhsm_module()
    folder = tmp_path_factory.mktemp("project")
    environment = {**os.environ, "HSM_SIGNER_HOME": "/nowhere", "HSM_SIGNER_TOKEN_PIN": "not this one's"}
    environment.pop("SOFTHSM2_CONF", None)
    # Of other packages: they take seconds to load, and the project knows none.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name, text in PROJECT.items():
        (folder / name).write_text(textwrap.dedent(text))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-W", "error", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return set(re.findall(r"^PASSED (\S+)", ran.stdout, re.MULTILINE))


def test_the_example_of_the_module_is_a_project_that_runs(ran: set[str]) -> None:
    assert "test_example.py::test_the_letter_is_signed" in ran


def test_so_is_the_example_of_the_page(ran: set[str]) -> None:
    assert {
        "test_page.py::test_the_letter_is_signed",
        "test_page.py::test_the_letter_is_signed_far_away",
    } < ran


def test_every_test_has_an_installation_of_its_own(ran: set[str]) -> None:
    assert {f"test_installation.py::test_own[{number}]" for number in (1, 2)} < ran


def test_after_a_test_the_environment_is_as_before(ran: set[str]) -> None:
    assert "test_installation.py::test_as_before" in ran


def test_a_service_and_an_installation_at_once(ran: set[str]) -> None:
    assert {"test_service.py::test_roles", "test_service.py::test_both"} < ran


def test_a_service_that_does_not_start_says_why(home: Home) -> None:
    (home.path / "service.toml").write_text("nonsense = 1\n")
    with pytest.raises(ServiceUnreachable, match=r"the service has ended: error: .*nonsense"), serving(home):
        pass


def test_a_role_that_there_is_not(template_home: Home) -> None:
    tokens: dict[tuple[str | None, ...], str] = {(None, "signer"): "hsc_secret"}
    service = testing.Service(template_home, "https://localhost", Path("ca.pem"), tokens)
    with pytest.raises(InputError, match="'king' is not one of"):
        service.token("king")
    assert "hsc_" not in repr(service)


def test_nothing_of_a_test_stays_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSM_SIGNER_SERVER", "https://outside")
    monkeypatch.delenv("SOFTHSM2_CONF", raising=False)
    with own_environment():
        assert "HSM_SIGNER_SERVER" not in os.environ
        os.environ["SOFTHSM2_CONF"] = "inside"
        os.environ["HSM_SIGNER_HOME"] = "inside"
        os.environ["HSM_SIGNER_SERVER"] = "inside"
    assert os.environ["HSM_SIGNER_SERVER"] == "https://outside"
    assert not {"SOFTHSM2_CONF", "HSM_SIGNER_HOME"} & set(os.environ)
