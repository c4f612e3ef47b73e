"""Reads the pictures of the documents: as much of Mermaid as they use, and nothing else.

A label's first line is the name of what is drawn; the lines below it (``<br/>``) say more about it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NODE = re.compile(r'\b(\w+)(?:\[\[|\[\(|\(\[|\[)"([^"]+)"')
_SUBGRAPH = re.compile(r'^subgraph (\w+)\["([^"]+)"\]$')
_LINK = re.compile(r' ((?:-->|<-->|==>|-\.->|(?:--|==|-\.) "[^"]*" (?:-->|==>|\.->))) ')
_MESSAGE = re.compile(r"^(\w+)(?:-{1,2}>>|-{1,2}x)(\w+): (.+)$")
_PARTICIPANT = re.compile(r"^participant (\w+)(?: as (.+))?$")
_NOTE = re.compile(r"^Note over (\w+): (.+)$")
_TRANSITION = re.compile(r"^(\w+|\[\*\]) --> (\w+|\[\*\])(?:: (.+))?$")
_STATE = re.compile(r'^state "([^"]+)" as (\w+)( \{)?$')
_SILENT = re.compile(r"^(classDef|class|style|direction|end$|activate|deactivate|%%)")


@dataclass(frozen=True)
class Link:
    """An arrow, by the ids at its ends; ``label`` may be empty."""

    start: str
    end: str
    label: str
    both: bool = False
    """It has two heads."""


@dataclass
class Picture:
    """One block."""

    page: Path
    kind: str
    """flowchart, sequenceDiagram or stateDiagram-v2."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Id of a node, participant or state: the lines of its label."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Id of a subgraph or composite state: the ids of what lies in it."""
    titles: dict[str, str] = field(default_factory=dict)
    """Id of a group: what is written on it."""
    links: list[Link] = field(default_factory=list)
    sayings: list[str] = field(default_factory=list)
    """What the arrows and notes say, in order."""

    def name(self, identity: str) -> str:
        """The first line of a label."""
        return self.names[identity][0]

    @property
    def words(self) -> list[str]:
        """Everything that is written in it but the names."""
        return [
            *self.sayings,
            *self.titles.values(),
            *(line for label in self.names.values() for line in label[1:]),
        ]


def pictures(page: Path) -> list[Picture]:
    """Every picture of a page. AssertionError for a line that is not understood."""
    return [_picture(page, block) for block in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def _picture(page: Path, block: str) -> Picture:
    lines = [line.strip() for line in block.splitlines()]
    head, *rest = [line for line in lines if line and not line.startswith("%%")]
    picture = Picture(page, head.split()[0])
    read = {"flowchart": _flowchart, "sequenceDiagram": _sequence, "stateDiagram-v2": _states}[picture.kind]
    inside: list[str] = []
    for line in rest:
        if line in ("end", "}"):
            inside.pop()
        elif not _SILENT.match(line):
            assert read(picture, line, inside), f"{page.name}: {line}"
    return picture


def _label(text: str) -> list[str]:
    return text.split("<br/>")


def _flowchart(picture: Picture, line: str, inside: list[str]) -> bool:
    if group := _SUBGRAPH.match(line):
        inside.append(group[1])
        picture.groups[group[1]], picture.titles[group[1]] = [], group[2]
        return True
    if (node := _NODE.match(line)) and not _LINK.search(line):
        picture.names[node[1]] = _label(node[2])
        if inside:
            picture.groups[inside[-1]].append(node[1])
        return True
    parts = _LINK.split(line)
    if len(parts) < 3:
        return False
    ends, arrows = [part.split(" & ") for part in parts[::2]], parts[1::2]
    for starts, arrow, following in zip(ends, arrows, ends[1:], strict=False):
        label = "".join(re.findall(r'"(.*)"', arrow))
        picture.links += [Link(start, end, label, arrow == "<-->") for start in starts for end in following]
        picture.sayings += [label] if label else []
    return True


def _sequence(picture: Picture, line: str, inside: list[str]) -> bool:
    if participant := _PARTICIPANT.match(line):
        picture.names[participant[1]] = _label(participant[2] or participant[1])
    elif message := _MESSAGE.match(line):
        picture.links.append(Link(message[1], message[2], message[3]))
        picture.sayings.append(message[3])
    elif note := _NOTE.match(line):
        assert note[1] in picture.names, line
        picture.sayings.append(note[2].replace("<br/>", " "))
    else:
        return False
    return True


def _states(picture: Picture, line: str, inside: list[str]) -> bool:
    if state := _STATE.match(line):
        if state[3]:
            inside.append(state[2])
            picture.groups[state[2]], picture.titles[state[2]] = [], state[1]
        else:
            picture.names[state[2]] = [state[1]]
        return True
    if not (transition := _TRANSITION.match(line)):
        return False
    for end in (transition[1], transition[2]):
        if end != "[*]" and end not in picture.groups:
            picture.names.setdefault(end, [end])
            if inside and end not in picture.groups[inside[-1]]:
                picture.groups[inside[-1]].append(end)
    label = (transition[3] or "").replace("<br/>", " ")
    picture.links.append(Link(transition[1], transition[2], label))
    picture.sayings += [label] if label else []
    return True
