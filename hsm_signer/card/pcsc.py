"""Cards in readers, over the machine's PC/SC service: the only import of pyscard.

A call to the service can hang for ever in a driver whose card or reader has stopped answering, and nothing
in PC/SC ends it. So every call is made by a thread of the connection's own, and the caller waits for it only
so long. A connection that has been given up lets go of the card whenever the call comes back.

What the service says becomes one error of ours here, in words that say what to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from hsm_signer.core.job_thread import JobThread
from hsm_signer.errors import (
    CardAnswerMalformed,
    CardError,
    CardInUse,
    CardNotFound,
    CardRemoved,
    InputError,
    SignerError,
)

from . import atr, keypad
from .apdu import EXTENDED_BLOCK
from .commands import CardSession, CardStatus

ANSWER_TIMEOUT = 20.0
"""Seconds after which a card has stopped answering. Real cards make a P-256 key in 0.2 to 2.2 s."""
_POWER_UP = 2.0
"""Seconds a card has at least to answer to reset, however short others may hold it."""
_CLOSE_TIMEOUT = 2.0
"""Seconds to wait for the service to take the card back."""
_RETRY_PAUSE = 0.05
"""Seconds between two attempts at a card that another program holds."""
_POLL = 0.5
"""Seconds of one wait for a change of readers and cards."""
_BUSY_CARD = 1.0
"""Seconds that a look at all cards spends on one which another program holds."""
_RECONNECTIONS = 5
"""Times another program may reset the card between our connecting and our having it to ourselves."""

_SHORT_APDU_MAX = 261
"""CLA INS P1 P2 Lc, 255 bytes, Le."""
_WRONG_LENGTH = b"\x67\x00"
_TOO_LONG = (
    "SCARD_E_NOT_TRANSACTED",
    "SCARD_E_INSUFFICIENT_BUFFER",
    "SCARD_E_INVALID_PARAMETER",
    "SCARD_E_INVALID_VALUE",
    "SCARD_E_UNSUPPORTED_FEATURE",
)
"""What services say of an APDU that is too long for their reader."""

_log = logging.getLogger(__name__)
T = TypeVar("T")


# --- the service, called from a thread -----------------------------------------------------------------


def _pyscard() -> ModuleType:
    """pyscard's functions. InputError where it is not installed."""
    try:
        from smartcard import scard
    except ImportError as error:
        raise InputError(
            f"cards in readers need the Python package pyscard: {error}",
            hint="install hsm-signer with its extra: pip install 'hsm-signer[pcsc]'",
        ) from error
    module: ModuleType = scard
    return module


class _Refused(Exception):
    """The service refused a call; ``code`` as pcsc-lite's header and Windows have it, 32 bits, unsigned."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{code:08X}")
        self.code = code


class _Silent(Exception):
    """The call did not come back in time."""


class _ReaderState(NamedTuple):
    """What the service says of one reader."""

    name: str
    flags: int
    atr: bytes


class _Service:
    """One context of the PC/SC service; every method raises _Refused and _Silent."""

    def __init__(self, seconds: float) -> None:
        self.scard = _pyscard()
        self._seconds = seconds
        self._thread = JobThread("pcsc")
        self._thread.start()
        self._lost = False
        self._used = False
        self._card: int | None = None
        self._context: Any = None
        try:
            (self._context,) = self._call(self.scard.SCardEstablishContext, self.scard.SCARD_SCOPE_USER)
        except BaseException:
            self.close()
            raise

    def _call(self, function: Callable[..., Any], *arguments: Any, seconds: float | None = None) -> list[Any]:
        """What the function gives beside its code. Its other results are not looked at when it refuses:

        pyscard leaves them as they were in memory.
        """
        if self._lost:
            raise _Silent

        def call() -> list[Any]:
            result = function(*arguments)
            code, rest = (result[0], list(result[1:])) if isinstance(result, list | tuple) else (result, [])
            if code != 0:
                raise _Refused(int(code) & 0xFFFFFFFF)
            return rest

        future = self._thread.ask(call)
        wait([future], self._seconds if seconds is None else seconds)
        if not future.done():
            self._lost = True
            raise _Silent
        return future.result()

    @property
    def lost(self) -> bool:
        """A call has not come back; nothing can be asked any more."""
        return self._lost

    def readers(self) -> list[str]:
        """Names, in the service's order."""
        try:
            (names,) = self._call(self.scard.SCardListReaders, self._context, [])
        except _Refused as refused:
            if refused.code == self.scard.SCARD_E_NO_READERS_AVAILABLE & 0xFFFFFFFF:
                return []
            raise
        return [str(name) for name in names]

    def states(self, names: Iterable[str]) -> list[_ReaderState]:
        """As they are now."""
        wanted = [(name, self.scard.SCARD_STATE_UNAWARE) for name in names]
        if not wanted:
            return []
        (found,) = self._call(self.scard.SCardGetStatusChange, self._context, 0, wanted)
        return [_ReaderState(str(name), int(flags), bytes(atr)) for name, flags, atr in found]

    def wait(self, known: Iterable[_ReaderState], seconds: float) -> None:
        """Until a reader is not as it was ``known``, a reader comes or goes, or the seconds have passed."""
        mask = 0xFFFF & ~self.scard.SCARD_STATE_CHANGED
        wanted = [(state.name, state.flags & mask) for state in known]
        # A name of its own stands for readers that come and go.
        wanted.append(("\\\\?PnP?\\Notification", self.scard.SCARD_STATE_UNAWARE))
        timeout = self.scard.SCARD_E_TIMEOUT & 0xFFFFFFFF
        try:
            self._call(self.scard.SCardGetStatusChange, self._context, max(int(seconds * 1000), 1), wanted)
        except _Refused as refused:
            if refused.code != timeout:
                raise

    def connect(self, reader: str, mode: int, seconds: float) -> int:
        """Power the card; gives the protocol, T=0 or T=1. Waits for another program's transaction to end."""
        both = self.scard.SCARD_PROTOCOL_T0 | self.scard.SCARD_PROTOCOL_T1
        connect = self.scard.SCardConnect
        card, protocol = self._call(connect, self._context, reader, mode, both, seconds=seconds)
        self._card = card
        return int(protocol)

    def begin_transaction(self, seconds: float) -> None:
        """The card to ourselves; other programs wait. Waits for theirs."""
        self._call(self.scard.SCardBeginTransaction, self._card, seconds=seconds)

    def atr(self) -> bytes:
        """Answer to reset of the card."""
        *_, answer = self._call(self.scard.SCardStatus, self._card)
        return bytes(answer)

    def reconnect(self, mode: int) -> int:
        """After another program has reset the card."""
        both = self.scard.SCARD_PROTOCOL_T0 | self.scard.SCARD_PROTOCOL_T1
        leave = self.scard.SCARD_LEAVE_CARD
        (protocol,) = self._call(self.scard.SCardReconnect, self._card, mode, both, leave)
        return int(protocol)

    def transmit(self, protocol: int, apdu: bytes) -> bytes:
        """One APDU."""
        t0 = self.scard.SCARD_PROTOCOL_T0
        header = self.scard.SCARD_PCI_T0 if protocol == t0 else self.scard.SCARD_PCI_T1
        self._used = True
        (answer,) = self._call(self.scard.SCardTransmit, self._card, header, list(apdu))
        return bytes(answer)

    def control(self, code: int, data: bytes, seconds: float) -> bytes:
        """A command for the reader itself."""
        self._used = True
        (answer,) = self._call(self.scard.SCardControl, self._card, code, list(data), seconds=seconds)
        return bytes(answer)

    def feature_request(self) -> int:
        """Control code of GET_FEATURE_REQUEST on this platform."""
        return int(self.scard.SCARD_CTL_CODE(keypad.GET_FEATURE_REQUEST))

    def close(self) -> None:
        """Reset the card, so that its transient memory dies, and give it back. Never raises, never hangs.

        A card to which nothing was said is left as it is, for another program may have it open, too.
        """
        scard, card, context = self.scard, self._card, self._context
        disposition = scard.SCARD_RESET_CARD if self._used else scard.SCARD_LEAVE_CARD
        self._card = self._context = None

        def last() -> None:
            if card is not None:
                scard.SCardDisconnect(card, disposition)
            if context is not None:
                scard.SCardReleaseContext(context)

        # Where a call hangs this waits behind it, and is made when it comes back.
        closing = self._thread.ask(last)
        self._thread.stop()
        wait([closing], 0.0 if self._lost else _CLOSE_TIMEOUT)
        self._lost = True


# --- what it says, in a user's words -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Meaning:
    error: type[CardError]
    message: str
    hint: str | None = None


_INSERT = "put the card into the reader; --wait SECONDS waits for it"
_AGAIN = "try again. Nothing that the card had not finished has been kept"
_NO_SERVICE = _Meaning(
    CardNotFound,
    "the machine's smart card service (PC/SC) is not running",
    "start it, on Linux: systemctl start pcscd. Simulated cards (sim:PATH) do without",
)
_NO_READER = _Meaning(
    CardNotFound, "there is no smart card reader", "connect a reader; --wait SECONDS waits for it"
)
_NO_CARD = _Meaning(CardNotFound, "there is no card in {reader}", _INSERT)
_MUTE = _Meaning(
    CardNotFound,
    "the card in {reader} does not answer",
    "is it the right way round? Take it out and wipe it",
)
_REMOVED = _Meaning(CardRemoved, "the card was taken out of {reader}", f"put it back; {_AGAIN}")
_UNPLUGGED = _Meaning(CardRemoved, "the reader {reader} was disconnected", f"connect it again; {_AGAIN}")
_RESET = _Meaning(
    CardRemoved, "another program has reset the card in {reader}", f"close that program; {_AGAIN}"
)
_BROKEN = _Meaning(CardRemoved, "the connection to the card in {reader} broke off", _AGAIN)
_RESTARTED = _Meaning(CardRemoved, "the machine's smart card service was stopped or restarted", _AGAIN)
_IN_USE = _Meaning(
    CardInUse,
    "another program holds the card in {reader}",
    "close that program, or try again when it has done",
)
_FORBIDDEN = _Meaning(
    CardNotFound,
    "the machine's smart card service refuses this user",
    "on Linux, polkit's rules say who may use cards; desktop sessions may, others often not",
)
_STOPPED_ANSWERING = _Meaning(
    CardRemoved,
    "the card in {reader} has stopped answering",
    f"take it out and put it back; {_AGAIN}",
)
_SERVICE_SILENT = _Meaning(
    CardNotFound, "the machine's smart card service does not answer", "restart it: systemctl restart pcscd"
)

_NAMES: Mapping[str, tuple[_Meaning, _Meaning]] = {
    "SCARD_E_NO_SERVICE": (_NO_SERVICE, _RESTARTED),
    "SCARD_E_SERVICE_STOPPED": (_NO_SERVICE, _RESTARTED),
    "SCARD_F_COMM_ERROR": (_NO_SERVICE, _RESTARTED),
    "SCARD_E_INVALID_HANDLE": (_NO_SERVICE, _RESTARTED),
    "SCARD_F_INTERNAL_ERROR": (_NO_SERVICE, _BROKEN),
    "SCARD_E_NO_READERS_AVAILABLE": (_NO_READER, _UNPLUGGED),
    "SCARD_E_UNKNOWN_READER": (_NO_READER, _UNPLUGGED),
    "SCARD_E_READER_UNAVAILABLE": (_NO_READER, _UNPLUGGED),
    "SCARD_E_NO_SMARTCARD": (_NO_CARD, _REMOVED),
    "SCARD_W_REMOVED_CARD": (_NO_CARD, _REMOVED),
    "SCARD_W_UNRESPONSIVE_CARD": (_MUTE, _BROKEN),
    "SCARD_W_UNPOWERED_CARD": (_MUTE, _BROKEN),
    "SCARD_W_UNSUPPORTED_CARD": (_MUTE, _BROKEN),
    "SCARD_E_PROTO_MISMATCH": (_MUTE, _BROKEN),
    "SCARD_E_NOT_TRANSACTED": (_MUTE, _BROKEN),
    "SCARD_E_COMM_DATA_LOST": (_MUTE, _BROKEN),
    "SCARD_W_RESET_CARD": (_RESET, _RESET),
    "SCARD_E_SHARING_VIOLATION": (_IN_USE, _IN_USE),
    "SCARD_W_SECURITY_VIOLATION": (_FORBIDDEN, _BROKEN),
    "SCARD_E_NO_ACCESS": (_FORBIDDEN, _BROKEN),
}
"""Name of a code to its meaning before we have the card, and while we have it."""


@contextmanager
def _our_errors(service: _Service | None, reader: str, *, connected: bool) -> Iterator[None]:
    """Turn what the service says about ``reader`` into one error of ours."""
    try:
        yield
    except _Silent:
        meaning = _STOPPED_ANSWERING if reader else _SERVICE_SILENT
        raise _error(meaning, reader) from None
    except _Refused as refused:
        scard = service.scard if service is not None else _pyscard()
        for name, meanings in _NAMES.items():
            if getattr(scard, name, 0) & 0xFFFFFFFF == refused.code:
                raise _error(meanings[connected], reader) from refused
        what = str(scard.SCardGetErrorMessage(refused.code)).rstrip(". ")
        broken = CardRemoved if connected else CardNotFound
        raise broken(
            f"{reader or 'PC/SC'}: {what} ({refused.code:08X})", hint="take the card out and put it back"
        ) from refused


def _error(meaning: _Meaning, reader: str) -> CardError:
    return meaning.error(meaning.message.format(reader=reader or "the reader"), hint=meaning.hint)


@contextmanager
def _service(seconds: float = ANSWER_TIMEOUT) -> Iterator[_Service]:
    """A context of the service for a block that connects to no card."""
    with _our_errors(None, "", connected=False):
        service = _Service(seconds)
    try:
        with _our_errors(service, "", connected=False):
            yield service
    finally:
        service.close()


# --- a card held open ----------------------------------------------------------------------------------


class PcscConnection:
    """The card in ``reader`` (its whole name), held from opening to :meth:`close`.

    Nobody else can talk to the card meanwhile: the connection is exclusive, or, where another program has
    the card open already, one transaction, which a warning says. Another program that holds the card for
    itself has ``timeout`` seconds to give it back before CardInUse. A card that is silent for
    ``answer_timeout`` seconds has stopped answering: CardRemoved.

    Raises CardNotFound without service, reader or card, CardInUse, CardRemoved, InputError without pyscard.
    """

    def __init__(self, reader: str, *, timeout: float = 10.0, answer_timeout: float = ANSWER_TIMEOUT) -> None:
        self.reader = reader
        self._closed = False
        with _our_errors(None, "", connected=False):
            self._service = _Service(answer_timeout)
        try:
            self._protocol, self.shared = self._hold(timeout)
            with _our_errors(self._service, self.reader, connected=True):
                self.atr = self._service.atr()
        except BaseException:
            self.close()
            raise
        _log.info("card connected in %s, protocol T=%d", reader, 0 if self._is_t0 else 1)

    def _hold(self, timeout: float) -> tuple[int, bool]:
        """Protocol, and whether other programs have the card open, too."""
        scard = self._service.scard
        deadline = time.monotonic() + timeout
        while True:
            with _our_errors(self._service, self.reader, connected=False):
                for mode in (scard.SCARD_SHARE_EXCLUSIVE, scard.SCARD_SHARE_SHARED):
                    try:
                        protocol = self._connect(mode, max(deadline - time.monotonic(), _POWER_UP))
                    except _Refused as refused:
                        if refused.code != scard.SCARD_E_SHARING_VIOLATION & 0xFFFFFFFF:
                            raise
                        if mode == scard.SCARD_SHARE_SHARED and time.monotonic() >= deadline:
                            raise
                        continue
                    if mode == scard.SCARD_SHARE_EXCLUSIVE:
                        return protocol, False
                    return self._transaction(protocol, deadline), True
            time.sleep(_RETRY_PAUSE)

    def _connect(self, mode: int, seconds: float) -> int:
        try:
            return self._service.connect(self.reader, mode, seconds)
        except _Silent:
            # Either the card does not answer, or another program's transaction does not end.
            with _service() as other:
                used = other.scard.SCARD_STATE_INUSE | other.scard.SCARD_STATE_EXCLUSIVE
                if any(state.flags & used for state in other.states([self.reader])):
                    raise _error(_IN_USE, self.reader) from None
            raise

    def _transaction(self, protocol: int, deadline: float) -> int:
        scard = self._service.scard
        for _ in range(_RECONNECTIONS):
            try:
                self._service.begin_transaction(max(deadline - time.monotonic(), _RETRY_PAUSE))
            except _Silent:
                raise _error(_IN_USE, self.reader) from None
            except _Refused as refused:
                if refused.code != scard.SCARD_W_RESET_CARD & 0xFFFFFFFF:
                    raise
                protocol = self._service.reconnect(scard.SCARD_SHARE_SHARED)
            else:
                _log.warning(
                    "another program has the card in %s open, too; it waits until this command is done",
                    self.reader,
                )
                return protocol
        raise _error(_RESET, self.reader)

    def transmit(self, apdu: bytes) -> bytes:
        """One short or extended APDU; CardRemoved after :meth:`close` and where the card does not answer.

        ValueError below 4 bytes: some drivers take a single byte for an order of their own.
        """
        if len(apdu) < 4:
            raise ValueError(f"an APDU has 4 bytes at least, not {len(apdu)}")
        if self._closed:
            raise CardRemoved(f"the card in {self.reader} has been released")
        with _our_errors(self._service, self.reader, connected=True):
            try:
                answer = self._service.transmit(self._protocol, for_t0(apdu) if self._is_t0 else apdu)
            except _Refused as refused:
                if len(apdu) <= _SHORT_APDU_MAX or refused.code not in self._too_long():
                    raise
                # There is no code for "too long for this reader". What the card itself would say is
                # understood above; and if it was something else, the next APDU finds out.
                return _WRONG_LENGTH
        if not answer:
            # No card answers nothing at all: some drivers say so of a card that has just gone.
            raise _error(_BROKEN, self.reader)
        return answer

    @property
    def _is_t0(self) -> bool:
        return bool(self._protocol == self._service.scard.SCARD_PROTOCOL_T0)

    def _too_long(self) -> set[int]:
        return {getattr(self._service.scard, name) & 0xFFFFFFFF for name in _TOO_LONG}

    def takes_extended_length(self) -> bool:
        """Whether card and reader can be expected to carry APDUs with more than 255 bytes of data.

        The card's answer to reset has to say so, and the protocol to be T=1; the reader (PC/SC part 10,
        dwMaxAPDUDataSize) must not deny it. Many say nothing.
        """
        if self._is_t0 or not atr.extended_length(self.atr):
            return False
        code = self._features().get(keypad.FEATURE_GET_TLV_PROPERTIES)
        if code is None:
            return True
        limit = keypad.max_apdu_data_size(self._control(code, b""))
        return limit is None or limit >= EXTENDED_BLOCK

    def find_keypad(self) -> keypad.Keypad | None:
        """The reader's keypad, if it offers to verify a PIN with it (PC/SC part 10)."""
        features = self._features()
        if keypad.FEATURE_VERIFY_PIN_DIRECT not in features:
            return None
        return keypad.ReaderKeypad(self._control, features)

    def _features(self) -> dict[int, int]:
        """Empty where the reader knows nothing of features, whatever it says then."""
        if self._closed or self._service.lost:
            return {}
        try:
            return keypad.parse_features(
                self._service.control(self._service.feature_request(), b"", ANSWER_TIMEOUT)
            )
        except (_Refused, CardAnswerMalformed):
            return {}
        except _Silent:
            raise _error(_STOPPED_ANSWERING, self.reader) from None

    def _control(self, code: int, data: bytes) -> bytes:
        with _our_errors(self._service, self.reader, connected=True):
            return self._service.control(code, data, keypad.ENTRY_LIMIT)

    def close(self) -> None:
        """Reset the card, so that its transient memory dies, and give it back."""
        if not self._closed:
            self._closed = True
            self._service.close()


def for_t0(apdu: bytes) -> bytes:
    """A short APDU as T=0 carries it: always five header bytes, and never data both ways (ISO 7816-3, 12.2).

    A command without data and Le gets P3 = 00; one with data loses its Le, and the card announces its answer
    by 61xx. The driver follows that anyway.
    """
    if len(apdu) == 4:
        return apdu + b"\0"
    if len(apdu) > 5 and len(apdu) == 6 + apdu[4]:
        return apdu[:-1]
    return apdu


# --- finding the card ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReaderInfo:
    """One reader, for people to look at."""

    reader: str
    present: bool
    """A card is in it."""
    atr: bytes
    """Answer to reset; empty without a card."""
    status: CardStatus | None
    """None without a card, and for a card that does not hold our application or cannot be asked."""
    problem: SignerError | None
    """Why ``status`` is None although there is a card."""


def list_cards(*, answer_timeout: float = ANSWER_TIMEOUT) -> list[ReaderInfo]:
    """Every reader, with what its card says. A card that another program uses is not disturbed.

    Raises CardNotFound without the service, InputError without pyscard; an empty list without readers.
    """
    with _service(answer_timeout) as service:
        states = service.states(service.readers())
        scard = service.scard
    return [_look(state, scard, answer_timeout) for state in states]


def _look(state: _ReaderState, scard: ModuleType, answer_timeout: float) -> ReaderInfo:
    present = bool(state.flags & scard.SCARD_STATE_PRESENT)
    status: CardStatus | None = None
    problem: SignerError | None = None
    if state.flags & scard.SCARD_STATE_MUTE:
        problem = _error(_MUTE, state.name)
    elif present and state.flags & (scard.SCARD_STATE_INUSE | scard.SCARD_STATE_EXCLUSIVE):
        problem = _error(_IN_USE, state.name)
    elif present:
        status, problem = _ask(state.name, answer_timeout)
    return ReaderInfo(state.name, present, state.atr if present else b"", status, problem)


def _ask(reader: str, answer_timeout: float) -> tuple[CardStatus | None, SignerError | None]:
    try:
        connection = PcscConnection(reader, timeout=_BUSY_CARD, answer_timeout=answer_timeout)
        try:
            return CardSession(connection).select(), None
        finally:
            connection.close()
    except SignerError as error:
        return None, error


def open_reader(
    name: str, *, timeout: float = 10.0, wait: float = 0.0, answer_timeout: float = ANSWER_TIMEOUT
) -> PcscConnection:
    """Connect to the card in the reader that ``name`` means.

    The readers whose names contain ``name``, in any case of letters; all, where it is empty. One whose whole
    name it is counts alone. Of several, those with a card; of several cards, those with our application.
    Waits up to ``wait`` seconds for one with a card. Raises InputError where several are left, naming them,
    and what :class:`PcscConnection` raises.
    """
    reader = _find(name, wait, answer_timeout)
    return PcscConnection(reader, timeout=timeout, answer_timeout=answer_timeout)


def _find(name: str, wait: float, answer_timeout: float) -> str:
    deadline = time.monotonic() + wait
    waiting = False
    with _service(answer_timeout) as service:
        scard = service.scard
        while True:
            known = service.states(service.readers())
            meant = _meant(known, name)
            filled = [state for state in meant if state.flags & scard.SCARD_STATE_PRESENT]
            remaining = deadline - time.monotonic()
            if filled or remaining <= 0:
                break
            if not waiting:
                waiting = True
                _log.info(
                    "waiting for a card: %s", ", ".join(state.name for state in meant) or "no such reader"
                )
            service.wait(known, min(remaining, _POLL))
    if len(filled) > 1:
        filled = _ours(filled, scard, answer_timeout)
    if len(filled) == 1:
        return filled[0].name
    if filled:
        raise _ambiguous(name, [state.name for state in filled], "hold a card")
    if not known:
        raise _error(_NO_READER, "")
    if not meant:
        raise CardNotFound(
            f"no reader's name contains {name!r}", hint=_readers(state.name for state in known)
        )
    if len(meant) > 1:
        raise CardNotFound(
            f"there is no card in any of {len(meant)} readers",
            hint=f"{_INSERT} {_readers(state.name for state in meant)}",
        )
    raise _error(_NO_CARD, meant[0].name)


def _meant(states: list[_ReaderState], name: str) -> list[_ReaderState]:
    wanted = name.casefold()
    exactly = [state for state in states if state.name.casefold() == wanted]
    return exactly or [state for state in states if wanted in state.name.casefold()]


def _ours(states: list[_ReaderState], scard: ModuleType, answer_timeout: float) -> list[_ReaderState]:
    """Those that hold our application; where none does, those that cannot be asked; otherwise all."""
    looked = [(state, _look(state, scard, answer_timeout)) for state in states]
    ours = [state for state, found in looked if found.status is not None]
    busy = [state for state, found in looked if isinstance(found.problem, CardInUse)]
    return ours or busy or states


def _ambiguous(name: str, readers: list[str], why: str) -> InputError:
    said = f"pcsc:{name}" if name else "pcsc:"
    return InputError(f"card {said!r}: {len(readers)} readers {why}", hint=_readers(readers))


def _readers(names: Iterable[str]) -> str:
    return f"Give enough of one name: {'; '.join(names)}."
