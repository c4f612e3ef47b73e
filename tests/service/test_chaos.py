"""Two nodes, four workers, one PostgreSQL, hundreds of credentials, and processes that are killed at random.

What was acknowledged is in evidence exactly once and verifies; every credential signs at the end; the audit
finds nothing.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest

from hsm_signer.card.address import create_card
from hsm_signer.card.pins import CardPin
from hsm_signer.errors import SignerError
from hsm_signer.server.initialise import (
    NewInstallation,
    initialise,
)
from hsm_signer.server.installation import (
    Installation,
    no_prompt,
)
from hsm_signer.service.roles import Role
from hsm_signer.testing import PIN, Home, Person
from hsm_signer.types import Digest, DigestList, KeySpec, PinCheck, Scheme, SignOutcome
from hsm_signer.workstation.enrolment import (
    Enrolment,
    enrol,
)
from hsm_signer.workstation.remote import RemoteServer
from hsm_signer.workstation.signing import (
    sign_content,
)
from tests.support import processes
from tests.support.people import SOFTHSM_CONF
from tests.support.postgresql import Postgresql
from tests.support.scenes import check_evidence
from tests.support.service import Service, add_client, free_port, serving

# A connection that a killed process broke in its handshake is left to the garbage collector by the HTTP
# client: its complaint is about nothing here, and must not fall upon another file's test.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


CREDENTIALS = 240
CLIENTS = 8
WORKERS = 2
KILLED = ("node",) * 2 + ("worker",) * 8
"""In an order that the dice choose; and in that order again, until enough is signed."""
SIGNED = 80
"""So many authorisations acknowledged meanwhile, at least."""
BETWEEN_KILLS = (0.4, 1.6)
"""Seconds."""
PATIENCE = 120.0
"""Seconds for all of that."""
SEED = 19950418
"""Of what is killed when: a run that fails can be had again, as far as the machine allows."""
RATES = "[limits]\nrate = 1000000.0\nburst = 1000000\ncredential_requests = 1000000\n"
SCHEMES = (Scheme.ROLLING, Scheme.ROLLING, Scheme.ROLLING, Scheme.PIN)


def enrol_many(home: str, first: int, last: int) -> None:
    """In a process of its own."""
    with Installation.open(Path(home)).server() as server:
        for number in range(first, last):
            person = person_of(Path(home), number)
            create_card(person.address)
            wanted = Enrolment(
                owner=person.name,
                scheme=person.scheme,
                key=person.key,
                pin=CardPin(PIN, source="test"),
                puk=None,
                pin_check=PinCheck.CARD,
            )
            enrol(server, person.card, wanted)


def person_of(home: Path, number: int) -> Person:
    """User and card, by number."""
    scheme = SCHEMES[number % len(SCHEMES)]
    return Person(f"user-{number}", scheme, KeySpec.P256, home / "cards" / f"{number}.card")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, postgresql: Postgresql) -> Iterator[tuple[Home, Home]]:
    """Two homes with one database and clones of one token; everybody is enrolled."""
    folder = tmp_path_factory.mktemp("chaos")
    database = postgresql.make()
    path = folder / "one"
    initialise(
        NewInstallation(path, softhsm_conf=SOFTHSM_CONF, store_url=postgresql.url(database)), no_prompt
    )
    (path / "cards").mkdir()
    middle = CREDENTIALS // 2
    enrolling = [
        processes.start(enrol_many, str(path), first, last)
        for first, last in ((0, middle), (middle, CREDENTIALS))
    ]
    assert [processes.finish(each) for each in enrolling] == [0, 0]
    one = Home(path, {each.name: each for each in (person_of(path, n) for n in range(CREDENTIALS))})
    yield one, one.copy_to(folder / "two")
    postgresql.drop(database)


@dataclass
class Node:
    """One node that can be killed and started again, at the same port."""

    home: Home
    port: int
    stack: ExitStack = field(default_factory=ExitStack)
    service: Service | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        return self.home.path / "tls" / "server.pem"

    def start(self, *, ready: bool) -> None:
        """As an operator, or systemd, does."""
        arguments = ("--bind", f"127.0.0.1:{self.port}")
        self.service = self.stack.enter_context(
            serving(self.home, workers=WORKERS, settings=RATES, arguments=arguments, ready=ready)
        )

    def kill(self) -> None:
        """All of it at once."""
        assert self.service is not None
        self.service.destroy()

    def kill_worker(self, slot: int) -> None:
        """One of its workers, wherever it is with its work."""
        assert self.service is not None
        for started in reversed(self.service.find("started", child=f"worker-{slot}")):
            try:
                self.service.kill(int(started["pid"]))
            except ProcessLookupError:
                continue  # between two lives
            return


@contextmanager
def both(homes: tuple[Home, Home]) -> Iterator[list[Node]]:
    """Running, each ready."""
    found = [Node(home, free_port()) for home in homes]
    try:
        for node in found:
            node.start(ready=True)
        yield found
    finally:
        for node in found:
            node.stack.close()


@dataclass
class Load:
    """Threads that sign, and what they were told."""

    nodes: list[Node]
    people: list[Person]
    token: str
    acknowledged: list[tuple[DigestList, SignOutcome]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[BaseException] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, share: int, pick: Callable[[random.Random], Person | None]) -> None:
        """One client: signs for whom ``pick`` says until there is none, or until told to stop."""
        dice = random.Random(SEED + share)
        try:
            with ExitStack() as stack:
                servers = [
                    stack.enter_context(RemoteServer(node.url, token=self.token, ca=node.ca))
                    for node in self.nodes
                ]
                while not self.stop.is_set() and (person := pick(dice)) is not None:
                    self._sign(dice, servers[dice.randrange(len(servers))], person)
        except BaseException as error:  # a thread's end has to be seen
            self.failures.append(error)

    def _sign(self, dice: random.Random, server: RemoteServer, person: Person) -> None:
        content = DigestList(tuple(Digest(dice.randbytes(32)) for _ in range(dice.choice((1, 1, 1, 5)))))
        try:
            outcome = sign_content(server, person.card, content, algorithm=None, ask_pin=person.pin)
        except SignerError as error:
            if not error.retryable:
                raise
            self.refused[error.code] += 1
            self.stop.wait(0.2)  # nobody is there: do not spin
        else:
            self.acknowledged.append((content, outcome))


def threads(load: Load, picks: list[Callable[[random.Random], Person | None]]) -> list[threading.Thread]:
    """Started."""
    made = [threading.Thread(target=load.run, args=(share, pick)) for share, pick in enumerate(picks)]
    for each in made:
        each.start()
    return made


def anybody(share: list[Person], dice: random.Random) -> Person:
    """For ever."""
    return dice.choice(share)


def the_next(share: Iterator[Person], _: random.Random) -> Person | None:
    """Each once."""
    return next(share, None)


def test_nothing_acknowledged_is_lost(
    nodes: tuple[Home, Home], record_property: Callable[[str, object], None]
) -> None:
    people = list(nodes[0].people.values())
    # A card is in one reader at a time: each client has cards of its own.
    shares = [people[share::CLIENTS] for share in range(CLIENTS)]
    token = add_client(nodes[0], "load", [Role.SIGNER])
    assert token is not None
    dice = random.Random(SEED)
    killed: Counter[str] = Counter()
    with both(nodes) as running:
        load = Load(running, people, token)
        signing = threads(load, [partial(anybody, share) for share in shares])
        until = time.monotonic() + PATIENCE
        for number, kind in enumerate(cycle(dice.sample(KILLED, len(KILLED)))):
            if load.failures or (number >= len(KILLED) and len(load.acknowledged) >= SIGNED):
                break
            assert time.monotonic() < until, (killed, len(load.acknowledged), load.refused)
            time.sleep(dice.uniform(*BETWEEN_KILLS))
            node = dice.choice(running)
            if kind == "node":
                node.kill()
                node.start(ready=False)
            else:
                node.kill_worker(dice.randrange(WORKERS))
            killed[kind] += 1
        load.stop.set()
        for each in signing:
            each.join(120)
        assert load.failures == []
        assert killed >= Counter(KILLED)

        # Every credential still signs.
        for node in running:
            assert node.service is not None
            node.service.wait_until_ready()
        last = Load(running, people, token)
        for each in threads(last, [partial(the_next, iter(share)) for share in shares]):
            each.join(120)
        assert last.failures == []
        assert last.refused == {}
        assert len(last.acknowledged) == CREDENTIALS

    record_property("measured", f"chaos: {dict(killed)} killed, {len(load.acknowledged)} signed meanwhile")
    with nodes[0].server() as server:
        check_evidence(server, [*load.acknowledged, *last.acknowledged])
