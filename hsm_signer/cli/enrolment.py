"""`hsm-signer enrol`: a key for a user, and its control for a card."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import click

from hsm_signer.card.apdu import CardState
from hsm_signer.card.pins import CardPin, CardPuk, generate_pin, generate_puk
from hsm_signer.config.files import PRIVATE
from hsm_signer.core.algorithms import key_spec_of
from hsm_signer.core.card_origin import MAX_PEM, Issuer, OriginPolicy, issuer_from_pem
from hsm_signer.errors import CardError, FileError, InputError
from hsm_signer.types import Algorithm, KeySpec, PinCheck, PinPolicy, Scheme
from hsm_signer.workstation.enrolment import Enrolment, EnrolmentResult, enrol, examine
from hsm_signer.workstation.servers import CredentialServer

from . import files, output
from .choices import ALGORITHMS, KEYS, PIN_CHECKS, PIN_POLICIES, SCHEMES, choice
from .context import App, OpenCard, card_option, identity_option, pass_app, service_options
from .identity import ask_identity
from .options import PATH, TEXT, force_option, json_option
from .protected_files import protected_paths
from .secret_input import Secret, card_pin, pin_file_option
from .user_argument import user_argument


@dataclass(frozen=True, slots=True)
class _Secrets:
    """PIN and PUK that the card is given, and whether they have to be shown."""

    pin: CardPin | None
    puk: CardPuk | None
    show_pin: bool
    puk_file: Path | None

    @property
    def show_puk(self) -> bool:
        return self.puk is not None and self.puk_file is None


@click.command("enrol")
@user_argument
@card_option
@click.option(
    "--scheme",
    type=choice(SCHEMES),
    default="rolling",
    show_default=True,
    help="How card and key are tied together.",
)
@click.option("--key", type=choice(KEYS), default="p256", show_default=True, help="Type of the user's key.")
@pin_file_option
@click.option("--generate-pin", is_flag=True, help="Draw a PIN of six digits and print it once.")
@click.option("--puk-file", type=PATH, metavar="OUT", help="Write the PUK to OUT instead of printing it.")
@click.option("--no-puk", is_flag=True, help="Without a PUK a blocked PIN is final.")
@click.option(
    "--pin-check",
    type=choice(PIN_CHECKS),
    help="Who tells a wrong PIN. server (default): a stolen card's memory alone tells next to nothing; "
    "card: the card itself, every time.",
)
@click.option(
    "--pin-policy", type=choice(PIN_POLICIES), help="PIN for every authorisation (default), or until reset."
)
@click.option("--csr", type=PATH, metavar="OUT", help="Write the certificate request (PKCS#10, PEM) to OUT.")
@click.option(
    "--subject", type=TEXT, metavar="DN", help="Its subject, such as CN=Alice,O=Example. Default: CN=USER."
)
@click.option(
    "--require-card-origin",
    "card_issuers",
    type=PATH,
    multiple=True,
    metavar="ISSUER",
    help="Enrol only a card that was issued under this public key or certificate (PEM); may be repeated.",
)
@click.option(
    "--allow-algorithm",
    "more_algorithms",
    type=choice(ALGORITHMS),
    multiple=True,
    metavar="NAME",
    help="Let the key sign by this, too; may be repeated. Default: p256 ecdsa-sha256, p384 also "
    "ecdsa-sha384, others all that fit.",
)
@force_option("the files of --csr and --puk-file")
@service_options
@identity_option
@json_option
@pass_app
def command(
    app: App,
    user: str,
    card: str,
    scheme: str,
    key: str,
    pin_file: Path | None,
    generate_pin: bool,
    puk_file: Path | None,
    no_puk: bool,
    pin_check: str | None,
    pin_policy: str | None,
    csr: Path | None,
    subject: str | None,
    card_issuers: tuple[Path, ...],
    more_algorithms: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Make a private key for USER on the token and give its control to a blank CARD.

    PIN and PUK go to the card alone; they are printed only if they were made here, and only once. An
    enrolment that was interrupted is finished by the same command with the same card and PIN.
    """
    basic = scheme == "basic"
    _check_options(basic, pin_file, generate_pin, puk_file, no_puk, pin_check, pin_policy)

    files.check_outputs(
        [path for path in (csr, puk_file) if path is not None],
        force=force,
        protected=protected_paths(app, card, the_file_of_the_PIN=pin_file),
        what="both --csr and --puk-file",
    )

    issuers = tuple(
        issuer_from_pem(files.read_bounded(path, MAX_PEM, "issuer"), str(path)) for path in card_issuers
    )
    installation = app.here()
    settings = app.card_settings(installation)
    open_card = app.card_opener(card, installation)
    chosen_pin = (
        None if basic or generate_pin else card_pin(pin_file, prompt="PIN for the card", confirm=True)
    )

    def wanted(secrets: _Secrets) -> Enrolment:
        return Enrolment(
            owner=user,
            scheme=Scheme.named(scheme),
            key=KeySpec(key),
            pin=secrets.pin,
            puk=secrets.puk,
            pin_policy=PinPolicy.named(pin_policy or "always"),
            pin_check=PinCheck.named(pin_check or "server"),
            pin_tries=settings.pin_tries,
            puk_tries=settings.puk_tries,
            subject=subject,
            card_issuers=issuers,
            more_algorithms=tuple(map(Algorithm.named, more_algorithms)),
        )

    _warn_of_cut_digests(wanted(_Secrets(None, None, False, None)))

    with app.server(installation) as server:
        ask_identity(app, server)
        if issuers and installation is not None:
            server = _taking_cards_of(issuers, server)
        pending = examine(server, open_card, wanted(_Secrets(None, None, False, None)))
        if pending is not None:
            _check_resumed(pending.scheme.value, scheme, generate_pin=generate_pin, puk_file=puk_file)
            output.say("An enrolment with this card was begun before; it is finished with the card's PIN.")
            chosen_pin = None if basic else card_pin(pin_file)
        wants_puk = not (basic or no_puk or pending)
        if generate_pin or (wants_puk and puk_file is None):
            output.check_stdout(read=True)  # before the card gets what could not be shown
        secrets = _secrets(chosen_pin, generate_pin, puk_file, wants_puk=wants_puk)
        with _not_lost(secrets, open_card, force=force) as progress:
            if chosen_pin is None:
                enrolled = enrol(server, open_card, wanted(secrets))
            else:
                with chosen_pin.blamed():
                    enrolled = enrol(server, open_card, wanted(secrets))
            progress.enrolled = True
            try:
                if csr is not None:
                    request = enrolled.certification_request.encode("ascii")
                    files.write_all([(csr, request)], force=force)
            finally:
                # Whatever became of the file, the card has this PIN now.
                _show(enrolled, secrets, csr, as_json=as_json)
                progress.done = True
    _explain(enrolled, secrets, as_json=as_json)


def _warn_of_cut_digests(wanted: Enrolment) -> None:
    """Say what an algorithm allows that this key does not sign by default."""
    for algorithm in wanted.more_algorithms:
        if algorithm in wanted.key.algorithms and algorithm not in wanted.key.default_algorithms:
            length = int(wanted.key.name[1:]) // 8
            output.warn(
                f"{algorithm.value} with key {wanted.key.value} signs the first {length} bytes of a digest "
                "and no more: whoever chooses the digests that a card authorises can have one signed that "
                "begins with another document's digest, and has that document's signature"
            )


def _taking_cards_of(issuers: tuple[Issuer, ...], server: CredentialServer) -> CredentialServer:
    """Who enrols at the server itself says whose cards the installation takes."""
    from hsm_signer.server.server import Server

    assert isinstance(server, Server)
    return replace(server, origin_policy=lambda: OriginPolicy(issuers, required=True))


def _check_options(
    basic: bool,
    pin_file: Path | None,
    generate_pin: bool,
    puk_file: Path | None,
    no_puk: bool,
    pin_check: str | None,
    pin_policy: str | None,
) -> None:
    if basic and (pin_file or generate_pin or puk_file or no_puk or pin_check or pin_policy):
        raise click.UsageError("A card of scheme basic has neither PIN nor PUK.")
    if pin_file is not None and generate_pin:
        raise click.UsageError("Give either --pin-file or --generate-pin.")
    if puk_file is not None and no_puk:
        raise click.UsageError("Give either --puk-file or --no-puk.")


def _check_resumed(pending: str, scheme: str, *, generate_pin: bool, puk_file: Path | None) -> None:
    if scheme != pending:
        raise InputError(
            f"the enrolment begun before is of scheme {pending.lower()}, not {scheme}",
            hint=f"finish it with --scheme {pending.lower()}, or reset the card and begin again",
        )
    if generate_pin or puk_file is not None:
        raise InputError(
            "the card has got its PIN and PUK already, in the enrolment begun before",
            hint="finish it with that PIN, without --generate-pin and --puk-file; or reset the card",
        )


def _secrets(
    chosen_pin: Secret[CardPin] | None, generate: bool, puk_file: Path | None, *, wants_puk: bool
) -> _Secrets:
    pin = generate_pin() if generate else None if chosen_pin is None else chosen_pin()
    return _Secrets(pin, generate_puk() if wants_puk else None, generate, puk_file)


@dataclass
class _Progress:
    """How far the enrolment came."""

    enrolled: bool = False
    done: bool = False
    """PIN and PUK have been shown."""


@contextmanager
def _not_lost(secrets: _Secrets, open_card: OpenCard, *, force: bool) -> Iterator[_Progress]:
    """Show PIN and PUK that were made here even if the enrolment fails after the card has them."""
    if secrets.puk is not None and secrets.puk_file is not None:
        line = secrets.puk.grouped().encode("ascii") + b"\n"
        files.write_all([(secrets.puk_file, line)], force=force, mode=PRIVATE)
    progress = _Progress()
    try:
        with _termination_raises():
            yield progress
    except BaseException as error:
        if not progress.done:
            _rescue(secrets, open_card, enrolled=progress.enrolled)
        if progress.enrolled and isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise FileError("standard output: nobody reads it", hint="the enrolment is done") from error
        if progress.enrolled and isinstance(error, FileError):
            output.add_hint(error, "the enrolment is done")
        raise


def _rescue(secrets: _Secrets, open_card: OpenCard, *, enrolled: bool) -> None:
    blank = False
    try:
        blank = not enrolled and _is_blank(open_card)
    finally:
        # Also after one more Control-C while a card did not answer.
        if blank:
            if secrets.puk is not None and secrets.puk_file is not None:
                secrets.puk_file.unlink(missing_ok=True)
        elif disclosed := _disclosed(secrets):
            lines = [
                "Standard output did not take these, and the card has them; keep them:"
                if enrolled
                else "The enrolment is not finished, but the card may have these already; keep them:",
                *(f"{name}: {value}" for name, value in disclosed),
            ]
            try:
                output.say("\n".join(lines))
            except OSError:
                output.data("\n".join(lines))


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that what has to be cleaned up is."""

    def stop(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_blank(open_card: OpenCard) -> bool:
    """Tell whether the card surely has no PIN; a card that cannot be asked may have one."""
    with suppress(CardError), open_card() as session:
        return session.status().state is CardState.BLANK
    return False


def _disclosed(secrets: _Secrets) -> list[tuple[str, str]]:
    disclosed = []
    if secrets.show_pin and secrets.pin is not None:
        disclosed.append(("PIN", secrets.pin.reveal().decode("ascii")))
    if secrets.show_puk and secrets.puk is not None:
        disclosed.append(("PUK", secrets.puk.grouped()))
    return disclosed


def _show(enrolled: EnrolmentResult, secrets: _Secrets, csr: Path | None, *, as_json: bool) -> None:
    record, disclosed = enrolled.credential, _disclosed(secrets)
    key = key_spec_of(record.spki).value
    if as_json:
        described: dict[str, Any] = {
            "owner": record.owner,
            "credential_id": record.credential_id.hex(),
            "key": key,
            "scheme": record.scheme.value,
            "card_serial": record.card_serial.hex(),
            "resumed": enrolled.resumed,
        }
        described |= {name.lower(): value for name, value in disclosed}
        for name, path in (("puk_file", secrets.puk_file), ("csr", csr)):
            if path is not None:
                described[name] = str(path)
        output.json_data(described)
        return
    with suppress(OSError):  # the secrets come first, even where standard error is of no use
        output.say(
            f"{output.printable(record.owner)} is enrolled: key {key}, scheme {record.scheme.value}, "
            f"credential {record.credential_id.hex()}"
        )
    if disclosed:
        output.data("\n".join(f"{name}: {value}" for name, value in disclosed))


def _explain(enrolled: EnrolmentResult, secrets: _Secrets, *, as_json: bool) -> None:
    """Explain what the secrets that were shown are for."""
    if as_json:
        return
    if secrets.show_puk:
        output.say("The PUK unblocks the card when its PIN is blocked. It is not shown again.")
    if secrets.puk is None and secrets.pin is not None and not enrolled.resumed:
        output.say("The card has no PUK: if its PIN is blocked, it can only be reset and enrolled anew.")
