"""What stands beside the code: the changelog, the rules, the security policy."""

from __future__ import annotations

import re
import tomllib

import hsm_signer
from tests.support.people import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
"""Of keepachangelog.com."""


def test_the_changelog_has_this_version_and_what_comes_next() -> None:
    versions = re.findall(r"^## \[([^]]+)\](?: - (\d{4}-\d\d-\d\d))?$", CHANGELOG, re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert hsm_signer.__version__ == PROJECT["version"] == versions[1][0]
    assert all(date for _, date in versions[1:])
    assert set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)) <= KINDS


def test_reports_go_to_where_the_project_is() -> None:
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    (home,) = set(re.findall(r"<(https://[^>]+)/security/advisories/new>", policy))
    assert home == PROJECT["urls"]["Homepage"]
