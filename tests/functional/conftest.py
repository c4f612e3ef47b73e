"""Measured numbers, printed at the end of a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Tell = Callable[[str], None]

MEASURED = "measured"


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Adds a line to the terminal summary, from whichever process the test runs in."""

    def add(line: str) -> None:
        request.node.user_properties.append((MEASURED, line))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured, whether or not output is captured."""
    lines = [
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == MEASURED
    ]
    if lines:
        terminalreporter.section(MEASURED)
        for line in lines:
            terminalreporter.line(line)
