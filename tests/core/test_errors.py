"""The tree of errors in the docstring of errors.py is the one that the classes make."""

from __future__ import annotations

import inspect

from hsm_signer import errors


def drawn() -> dict[str, str]:
    """Each error's base class as the docstring has it."""
    _, _, tree = (inspect.getdoc(errors) or "").partition("base class:\n")
    bases: dict[str, str] = {}
    above: list[tuple[int, str]] = [(-1, "Exception")]
    for line in filter(str.strip, tree.splitlines()):
        depth = len(line) - len(line.lstrip())
        while above[-1][0] >= depth:
            above.pop()
        for name in line.strip().rstrip(",").split(", "):
            assert name not in bases, f"{name} is drawn twice"
            bases[name] = above[-1][1]
        above.append((depth, name))
    return bases


def test_the_docstring_draws_the_tree() -> None:
    assert drawn() == {kind.__name__: kind.__bases__[0].__name__ for kind in errors.all_errors()}
    assert all(len(kind.__bases__) == 1 for kind in errors.all_errors())
