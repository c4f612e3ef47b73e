"""The pictures of the documents are of this code: what they name exists, and leads where they say."""

from __future__ import annotations

import re
from itertools import chain, product
from pathlib import Path

import pytest
from msgspec.structs import replace

from card_applet_sim import SimulatedCard
from hsm_signer.errors import StatusUnsuitable, WrongKey, all_errors
from hsm_signer.server.credentials import CHANGES
from hsm_signer.server.server import Server
from hsm_signer.service.wire.frames import Kind
from hsm_signer.testing import PIN, Person, make_person
from hsm_signer.types import FAILURES_BEFORE_LOCK, CredentialRecord, Event, KeySpec, PinCheck, Scheme, Status
from tests.functional import test_trace as trace
from tests.support.card import contract
from tests.support.card.host import OK, Host, Profile, stream, wrong_pin
from tests.support.enrolments import pending
from tests.support.mermaid import Picture, pictures
from tests.support.scenes import authorise, passing_wrong_pins, rewrite

from .test_borders import ROOMS as BORDERS
from .test_docs import PAGES, ROOT, STEPS, section

EVERY_PICTURE = [picture for page in PAGES for picture in pictures(page)]

OUTSIDE = {"client"}
"""What is drawn and is not ours."""
ACRONYMS = {"APDUS", "HSM", "HTTPS", "MAC", "PIN", "PKCS", "POST", "PUK", "SQL", "UNIX"}
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "hsm_signer").rglob("*.py")))
DEPLOYED = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "deploy").rglob("*.*")))
ROOMS = {path.name for path in (ROOT / "hsm_signer").rglob("*") if path.is_dir()} | {
    path.stem for path in (ROOT / "hsm_signer").rglob("*.py")
}


def of(page: str, kind: str) -> Picture:
    """The only picture of this kind on a page."""
    (found,) = [picture for picture in EVERY_PICTURE if picture.page == ROOT / page and picture.kind == kind]
    return found


def indexed(name: str) -> str:
    """A key's name as section 1 of docs/understand/protocol.md spells it: T_1 is a T_i, W(V_x) a W(K)."""
    name = re.sub(r"(?<=[TQD])_\d\b", "_i", re.sub(r"(?<=_x)\+\d\b", "", name))
    return re.sub(r"W\(V_x\)", "W(K)", name)


def protocol_names() -> set[str]:
    """What section 1 of docs/understand/protocol.md gives a name to, and the card's two blinded keys of 4."""
    rows = [line.split("|")[1] for line in section(1).splitlines() if line.startswith("|")]
    return {name.strip() for row in rows for name in re.split(r",|/", row)} | {
        "KW",
        "PKREV",
        "PUKREV",
        "Q",
        "R",
        "W",
    }


def figure_numbers() -> set[tuple[str, str]]:
    """(name, number in the patent's figures), as protocol.md and the packages say it."""
    found = {
        (name.strip(), number)
        for name, number in re.findall(r"(?m)^\| (\w+)[^|]* \| [a-z ]+ (\d{3}) \|", section(1))
    }
    for room in ("server", "workstation"):
        text = (ROOT / "hsm_signer" / room / "__init__.py").read_text(encoding="utf-8")
        found |= {(room, number) for number in re.findall(r"figure 1 \((\d{3})\)", text)}
    return found


def is_ours(name: str) -> bool:
    """Whether something of that name exists."""
    if numbered := re.fullmatch(r"(\w+) \((\d{3})\)", name):
        return (numbered[1], numbered[2]) in figure_numbers()
    if user := re.fullmatch(r"user (\S+)", name):
        return f"\nUser={user[1]}\n" in DEPLOYED
    if name.startswith("/"):
        return name in DEPLOYED
    if "/" in name:
        return (ROOT / name).exists()
    return (
        name.split()[0] in ROOMS
        or indexed(name) in protocol_names()
        or (ROOT / "deploy" / "systemd" / name).exists()
        or name in contract.codes("states")
        or name.upper() in Status.__members__
    )


def identities(picture: Picture) -> str:
    return f"{picture.page.stem} {picture.kind}"


def test_there_is_a_picture_of_everything_that_wants_one() -> None:
    assert {(each.page.name, each.kind) for each in EVERY_PICTURE} >= {
        ("README.md", "flowchart"),
        ("architecture.md", "flowchart"),
        ("protocol.md", "sequenceDiagram"),
        ("protocol.md", "flowchart"),
        ("protocol.md", "stateDiagram-v2"),
        ("apdu.md", "stateDiagram-v2"),
        ("deployment.md", "flowchart"),
        ("service.md", "sequenceDiagram"),
    }


@pytest.mark.parametrize("picture", EVERY_PICTURE, ids=identities)
def test_every_name_is_of_something_that_exists(picture: Picture) -> None:
    names = [lines[0] for lines in picture.names.values()]
    titles = [title for group, title in picture.titles.items() if picture.kind == "flowchart"]
    assert names
    assert [name for name in (*names, *titles) if not is_ours(name) and name not in OUTSIDE] == []


@pytest.mark.parametrize("picture", EVERY_PICTURE, ids=identities)
def test_every_arrow_is_between_things_that_are_drawn(picture: Picture) -> None:
    drawn = {*picture.names, *picture.groups, *(["[*]"] if picture.kind.startswith("state") else [])}
    assert picture.links
    assert {end for link in picture.links for end in (link.start, link.end)} <= drawn


@pytest.mark.parametrize("picture", EVERY_PICTURE, ids=identities)
def test_every_word_that_can_be_looked_up_is_right(picture: Picture) -> None:
    codes = {error.code for error in all_errors()}
    commands = set(chain.from_iterable(name.split() for name in contract.commands()))
    capitals = ACRONYMS | commands | set(Kind.__members__) | set(Event.__members__) | protocol_names()
    for text in picture.words:
        for path in re.findall(r"\S+/[\w/.-]+", text):
            assert (ROOT / path).exists() or path in DEPLOYED or f'"{path}"' in SOURCES, path
        for dotted in re.findall(r"(?<![\w/])[a-z]+\.[a-z-]+\b(?!/)", text):
            assert dotted in codes or f'"{dotted}"' in SOURCES, dotted
        for step in re.findall(r"\bsteps? (\d+)", text):
            assert 1 <= int(step) <= 10, text
        for number in re.findall(r"\((\d{3})\)", text):
            assert int(number) in STEPS or number in {number for _, number in figure_numbers()}, number
        for word in re.findall(r"(?<![\w/.#])[A-Z][A-Z\d]*(?:_\w+)?(?:\+\d)?(?![\w/])", text):
            known = (word, word.upper(), indexed(word.removeprefix("KW_")))
            assert any(each in capitals for each in known), (word, text)


# --- figure 1 --------------------------------------------------------------------------------------------


def test_rooms_of_figure_1_use_each_other_as_the_borders_allow() -> None:
    picture = of("docs/understand/architecture.md", "flowchart")
    rooms = {
        identity: lines[0].removeprefix("hsm_signer/").removesuffix(".py")
        for identity, lines in picture.names.items()
        if lines[0].startswith("hsm_signer/")
    }
    # Over HTTPS and the workers' socket nobody imports anybody, and the supervisor starts processes.
    apart = {("workstation", "service/front"), ("service/front", "service/worker")}
    found = 0
    for link in picture.links:
        if link.start not in rooms or link.end not in rooms:
            continue
        user, used = rooms[link.start], rooms[link.end]
        if (user, used) in apart or user == "service/supervisor":
            continue
        assert used in BORDERS[user].may or (link.both and user in BORDERS[used].may), (user, used)
        found += 1
    assert found >= 5


# --- one signature ---------------------------------------------------------------------------------------


def test_the_signature_has_its_ten_steps_in_order() -> None:
    said = of("docs/understand/protocol.md", "sequenceDiagram").sayings
    steps = [int(number) for text in said for number in re.findall(r"step (\d+):", text)]
    assert steps == sorted(steps)
    assert set(steps) == set(range(1, 11))


def test_the_signature_has_every_step_of_figures_8_and_9() -> None:
    said = " ".join(of("docs/understand/protocol.md", "sequenceDiagram").sayings)
    numbers: set[int] = set()
    for first, last in re.findall(r"\((\d{3})(?: to (\d{3}))?\)", said):
        numbers |= set(range(int(first), int(last or first) + 1))
    assert numbers == {410, *range(880, 897)}


# --- keys ------------------------------------------------------------------------------------------------


def test_keys_are_wrapped_as_the_trace_shows() -> None:
    picture = of("docs/understand/protocol.md", "flowchart")
    shown = {
        *trace.expected_wraps_of_an_enrolment(Scheme.ROLLING, KeySpec.P256),
        *trace.expected_wraps_of_a_signature(Scheme.ROLLING),
    }
    wrapped = {(re.sub(r"_x\+1|_1(?=\)|$)", "_x", under), key) for under, key, _ in shown}
    wrapped |= {("T_1", "V_x")}  # the card's, which the self-test of the trace has, too
    found = set()
    for identity, lines in picture.names.items():
        match = re.fullmatch(r"(?:(\w+) )?wrapped under (\S+)", lines[-1])
        if match is None:
            continue
        under, key = match[2], match[1] or lines[0]
        assert (under, key) in wrapped
        openers = [link.start for link in picture.links if (link.end, link.label) == (identity, "opens")]
        assert [picture.name(opener) for opener in openers] == [under]
        assert key in [picture.name(link.end) for link in picture.links if link.start == identity]
        found.add(key)
    assert found == {"KCAR", "V_x", "S", "SK"}


# --- the life of a credential ----------------------------------------------------------------------------

Arrow = tuple[str, str, str]
"""State before, event, state after."""


def arrows(picture: Picture) -> set[Arrow]:
    """Of a picture of states; an arrow from a group goes from everything in it."""
    names = {"[*]": "[*]"} | {identity: lines[0] for identity, lines in picture.names.items()}
    return {
        (names[start], event, names[link.end])
        for link in picture.links
        for start in picture.groups.get(link.start, [link.start])
        for event in link.label.split(" or ")
    }


def become(server: Server, person: Person, record: CredentialRecord) -> None:
    """Write the record as given, under the next version."""
    rewrite(server, person.record(server), lambda _: record)


def test_a_credential_lives_as_drawn(server: Server, tmp_path: Path) -> None:
    """Every change of status that a real installation makes, and no other."""
    found: set[Arrow] = set()
    person, request_info = pending(server, tmp_path)
    record = person.record(server)
    found.add(("[*]", "ENROL", record.status.name.lower()))

    lives = [(status, 0) for status in (Status.PENDING, Status.ACTIVE, Status.SUSPENDED)]
    locked = [(status, FAILURES_BEFORE_LOCK) for status in (Status.PENDING, Status.LOCKED, Status.SUSPENDED)]
    for (status, failures), event in product(lives + locked, CHANGES):
        before = replace(record, status=status, failures=failures)
        become(server, person, before)
        try:
            server.change_status(record.credential_id, event)
        except StatusUnsuitable:
            continue
        after = person.record(server).status
        if after is not status:
            found.add((status.name.lower(), event.name, after.name.lower()))
    become(server, person, record)

    person.sign(server, request_info)
    found.add(("pending", "ACTIVATE", person.record(server).status.name.lower()))
    dave = make_person(server, tmp_path, "dave", pin_check=PinCheck.SERVER)
    become(server, dave, replace(dave.record(server), failures=FAILURES_BEFORE_LOCK - 1))
    (pin,) = passing_wrong_pins(dave, 1, PIN)
    with pytest.raises(WrongKey):
        server.sign(authorise(server, dave, pin=pin))
    found.add(("active", "SIGN", dave.record(server).status.name.lower()))
    server.change_status(record.credential_id, Event.REVOKE)
    (tmp_path / "another").mkdir()
    given_up, _ = pending(server, tmp_path / "another")
    server.give_up_enrolment(given_up.record(server).credential_id)
    found.add(("pending", "EXPIRE", "[*]"))

    assert found == arrows(of("docs/understand/protocol.md", "stateDiagram-v2"))


# --- the life of a card ----------------------------------------------------------------------------------


def test_a_card_lives_as_drawn(tmp_path: Path) -> None:
    """Every command in every state, with data that it accepts and with a wrong PIN on its last try."""
    profile = Profile(pin_tries=1, puk_tries=1)
    names = {code: name for name, code in contract.codes("states").items()}
    found: set[Arrow] = {("[*]", "", "blank")}
    for state, command, right in product(names.values(), contract.commands(), (True, False)):
        card_path = tmp_path / "card"
        card_path.unlink(missing_ok=True)
        SimulatedCard.create(card_path, random=stream("serial"))
        with SimulatedCard(card_path, random=stream("card"), lock_timeout=0) as card:
            host = Host(card)
            assert host.select()[1] == OK
            if state != "blank":
                assert host.install(profile) == OK
            if state == "PIN blocked":
                host.verify(wrong_pin(profile))
            assert names[host.status()[0x81][0]] == state
            play(host, profile, state, command, profile.pin if right else wrong_pin(profile))
            after = names[host.status()[0x81][0]]
        if after != state:
            found.add((state, command, after))
    assert found == arrows(of("docs/understand/apdu.md", "stateDiagram-v2"))


def play(host: Host, profile: Profile, state: str, command: str, pin: bytes) -> None:
    """One command, with what it needs before it and data that a card of this profile takes."""
    new = b"246810"
    if command == "VERIFY":
        host.verify(pin)
    elif command == "CHANGE REFERENCE DATA":
        host.change(pin, new)
    elif command == "RESET RETRY COUNTER":
        host.unblock(profile.puk or b"", new)
    elif command == "INSTALL" and state == "blank":
        host.install(profile)
    elif command == "FACTORY RESET":
        # With the PIN verified, or with PIN and PUK both blocked.
        if state == "PIN blocked":
            host.unblock(b"0" * 16, new)
        elif state == "active":
            host.verify(profile.pin)
        host.send(command)
    else:
        host.send(command)
