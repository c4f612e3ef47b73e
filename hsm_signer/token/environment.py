"""The secure environment (the patent's 360): coarse operations, records in, records out.

Bytes and frozen records cross this border, never handles and never key bytes, so that it can run in this
process, in a worker process, or one day inside an HSM. What a scheme does differently stands in
:mod:`hsm_signer.schemes`; this is what all of them share: steps 3 to 8 of docs/understand/protocol.md,
section 5, and step 2 of section 7.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace
from pkcs11 import Attribute, Mechanism

from hsm_signer.core import algorithms
from hsm_signer.core.content import Measured, digest_list_hash
from hsm_signer.errors import (
    AuthorisationMismatch,
    InputError,
    InstallationDamaged,
    SignatureInvalid,
    TokenError,
    TokenMismatch,
    TokenUnsuitable,
    WrongKey,
)
from hsm_signer.schemes import Created, Rewrapped, steps_of
from hsm_signer.schemes.authorise import d_of, personalisation_digest, position_digests
from hsm_signer.schemes.key_operations import Key
from hsm_signer.types import (
    CREDENTIAL_ID_LENGTH,
    HASH_LENGTH,
    Algorithm,
    Authorisation,
    CardPersonalisation,
    Combine,
    CredentialId,
    CredentialRecord,
    Digest,
    HashName,
    InstallationRecord,
    InstallationSignature,
    Mode,
    NewCredential,
    SealedInstallation,
    SealedRecord,
    Sealing,
    Status,
    SuspendedBy,
    TokenKeyKind,
    TokenKeyState,
    WrappedKey,
)

from . import selftest
from .faults import token_call
from .primitives import GeneratedPair
from .profile import TokenProfile
from .seal import RECORD_FORMAT, TokenSeal
from .session import MASTER_KEY_LABEL, TokenSession
from .workspace import TokenWorkspace

Observe = Callable[[int], None]
"""Told the number of each step of docs/understand/protocol.md, section 5, when it is done."""


@dataclass(frozen=True, slots=True)
class SigningResult:
    """What the token gives for one authorisation, not yet released."""

    signatures: tuple[bytes, ...]
    rewrapped: Rewrapped | None
    """How wrap(SK) changes; None where it stays."""
    wrapped_seal: WrappedKey
    """KW_MK(S), which the record has from now on."""
    destroyed: int
    """Session objects destroyed in step 8."""


class SecureEnvironment(TokenSeal):
    """One token session with its profile and the keys that the installation's record names."""

    def __init__(self, session: TokenSession, profile: TokenProfile, sealed: SealedInstallation) -> None:
        """Check the installation's record and find its keys. Raises InstallationDamaged, TokenKeyMissing.

        Nothing in the record is believed before its MAC holds, under the key of this token that it names.
        """
        super().__init__(session, sealed.record.mac_key_id)
        self.check_installation(sealed)
        self.profile = profile
        self.installation_id = sealed.record.installation_id
        self.mk_id = _active(sealed.record, TokenKeyKind.MASTER)
        self._master_key = session.find_key(MASTER_KEY_LABEL, self.mk_id)
        self._identity_key, self.identity_spki = session.find_identity(
            _active(sealed.record, TokenKeyKind.IDENTITY)
        )
        self._profiles = {profile.private_wrap: profile}
        self._known_wrap: bytes | None = None
        with self._workspace() as workspace:
            # Public bytes: the key inside is used for nothing and known to nobody.
            self._known_wrap = workspace.wrap_kcar(workspace.new_kcar(Combine.CBC))

    @property
    def token_serial(self) -> str:
        """Serial number of the token, as records carry it."""
        return self.session.serial

    def changeable_keys(self) -> tuple[str, ...]:
        """Name the token keys whose attributes whoever has the token's PIN can still change.

        Older versions made them without CKA_MODIFIABLE false. Raises TokenError.
        """
        with token_call("reading CKA_MODIFIABLE of its keys"):
            return tuple(
                name
                for name, key in (("master key", self._master_key), ("record key", self._record_key))
                if key[Attribute.MODIFIABLE]
            )

    # --- the installation and its records --------------------------------------------------------------

    def check(self, sealed: SealedRecord) -> None:
        """Raise RecordDamaged unless the MAC holds, TokenMismatch if KCAR is wrapped under another MK."""
        super().check(sealed)
        record = sealed.record
        if record.mk_id != self.mk_id:
            raise TokenMismatch(
                f"the record of {record.owner!r} needs master key {record.mk_id.hex()}, "
                f"this installation has {self.mk_id.hex()}"
            )

    def vouch(self, digest: Digest) -> InstallationSignature:
        """Sign a SHA-256 digest as the installation: ECDSA on P-256 by its identity key.

        What was hashed begins with "hsm-signer/2/" and a word for what it is, so that no statement of one
        kind passes for one of another. Raises ValueError for another length.
        """
        if len(digest) != HASH_LENGTH:
            raise ValueError(f"expected {HASH_LENGTH} bytes")
        self.session.require_owner()
        with token_call("signing with the identity key"):
            signature = self._identity_key.sign(digest, mechanism=Mechanism.ECDSA)
        return InstallationSignature(
            self.installation_id, self.identity_spki, algorithms.ecdsa_der(signature)
        )

    def random(self, length: int) -> bytes:
        """Draw ``length`` bytes from the token's generator."""
        with self._workspace() as workspace:
            return workspace.random(length)

    def _workspace(self, private_wrap: int | None = None) -> TokenWorkspace:
        """Open a workspace; ``private_wrap``: the mechanism that a record names, today's if None."""
        profile = self.profile
        if private_wrap is not None:
            if private_wrap not in self._profiles:
                self._profiles[private_wrap] = replace(profile, private_wrap=private_wrap)
            profile = self._profiles[private_wrap]
        return self.session.workspace(profile, self._master_key, self._known_wrap)

    # --- one authorisation -----------------------------------------------------------------------------

    def sign(
        self,
        record: CredentialRecord,
        authorisation: Authorisation,
        measured: Measured,
        observe: Observe = lambda _: None,
    ) -> SigningResult:
        """Carry out steps 3 to 8: open Q, open SK, sign exactly ``measured``, wrap SK again, erase.

        D is computed here again, from what will be signed: nobody outside can say what it is. Raises
        AuthorisationMismatch (step 3), WrongKey (4 and 5), TokenError.
        """
        steps = steps_of(record.scheme)
        algorithm = authorisation.algorithm
        spec = algorithms.key_spec_of(record.spki)
        _check_measured(measured, algorithm)
        d = d_of(record, authorisation, measured.mode, measured.h)
        positions = position_digests(d, authorisation.rolling_values)
        if len(authorisation.quantities) != len(positions):
            raise AuthorisationMismatch(
                f"authorisation: expected {len(positions)} quantities, got {len(authorisation.quantities)}"
            )
        workspace = self._workspace(record.wrap_mechanism)
        moves = record.sealing is Sealing.CARD
        with workspace:
            # 3. S from KW_MK(S), KCAR from KW_MK(KCAR); each T_i; the keys from all Q_i (steps 492, 696 to
            #    697, 887 to 888). A record of sealing 1 gets its S here and is sealed by it in step 7.
            if moves:
                wrapped_seal = workspace.new_seal(record.credential_id)
            else:
                wrapped_seal = _present(record.wrapped_seal, "KW_MK(S)")
                workspace.open_seal(wrapped_seal, record.credential_id)
            keys = steps.recover(workspace, record, positions, authorisation.quantities)
            observe(3)
            # 4. SK from wrap(SK) (steps 493, 698, 889).
            sk = workspace.unwrap_sk(
                keys.unwraps_sk,
                _present(record.wrapped_sk, "wrap(SK)"),
                spec,
                algorithm,
                extractable=steps.sk_extractable or moves,
                gives_kowf=steps.sk_gives_kowf,
            )
            observe(4)
            # 5. Scheme pin: KOWF again, and compare.
            steps.check(workspace, record, sk, keys)
            observe(5)
            # 6. Sign, and verify with PK before anything is released (steps 494, 699, 890).
            verify = algorithms.verifier(record.spki, algorithm)
            to_sign = (measured.message,) if measured.message is not None else measured.digests
            signatures = []
            for data in to_sign:
                signature = workspace.sign(sk, spec, algorithm, data)
                try:
                    verify(data, signature)
                except SignatureInvalid as error:
                    raise TokenError("the token made a signature that does not verify under PK") from error
                signatures.append(signature)
            observe(6)
            # 7. Scheme rolling: wrap SK under W(V_x+1) (steps 891 to 894).
            rewrapped = steps.rewrap(workspace, record, sk, keys)
            observe(7)
        # 8. Every session object has been destroyed (steps 495, 700, 895).
        observe(8)
        return SigningResult(tuple(signatures), rewrapped, wrapped_seal, workspace.destroyed)

    # --- enrolment -------------------------------------------------------------------------------------

    def create(self, wanted: NewCredential) -> tuple[CredentialRecord, CardPersonalisation]:
        """Make the keys of one credential: a pending record, not yet sealed, and what INSTALL gives the card.

        Raises TokenUnsuitable where the token cannot hold such a credential, InputError for a card's point
        that is not on P-256.
        """
        if obstacle := self.profile.obstacle(wanted.scheme, wanted.key):
            raise TokenUnsuitable(obstacle)
        if not algorithms.is_p256_point(wanted.card_point):
            raise InputError("card point: expected 65 bytes, 04 || x || y, a point of P-256")
        with self._workspace() as workspace:
            record, created = self._new_credential(workspace, wanted)
            personalisation = self._personalise(workspace, wanted, record.credential_id, created)
        return record, personalisation

    def self_test(self) -> None:
        """Make a credential of scheme rolling, sign with it through steps 3 to 8, and forget it.

        The token plays the card, too. Raises TokenError where anything of it fails.
        """
        with self._workspace() as workspace:
            record, created = self._new_credential(workspace, selftest.CREDENTIAL)
            authorisation = selftest.authorise(workspace, record, created)
            try:
                self.sign(record, authorisation, selftest.CONTENT)
            except (AuthorisationMismatch, WrongKey) as error:
                raise TokenError("the token does not open what it has wrapped itself") from error

    def _new_credential(
        self, workspace: TokenWorkspace, wanted: NewCredential
    ) -> tuple[CredentialRecord, Created]:
        """Make keys and record of a pending credential; the keys live as long as ``workspace``."""
        steps = steps_of(wanted.scheme)
        credential_id = CredentialId(workspace.random(CREDENTIAL_ID_LENGTH))
        pair = workspace.new_pair(wanted.key, gives_kowf=steps.sk_gives_kowf)
        wrapped_seal = workspace.new_seal(credential_id)
        created = steps.create(workspace, pair, wanted.combine)
        return self._record(wanted, credential_id, pair, wrapped_seal, created), created

    def _personalise(
        self,
        workspace: TokenWorkspace,
        wanted: NewCredential,
        credential_id: CredentialId,
        created: Created,
    ) -> CardPersonalisation:
        ephemeral = workspace.new_ephemeral()
        token_point = algorithms.ec_point_of(ephemeral.spki)
        z = workspace.agree(ephemeral.private, wanted.card_point)

        def wrap(role: int, key: Key) -> WrappedKey:
            digest = personalisation_digest(
                role,
                credential_id=credential_id,
                scheme=wanted.scheme,
                combine=wanted.combine,
                pin_policy=wanted.pin_policy,
                pin_check=wanted.pin_check,
                pin_tries=wanted.pin_tries,
                puk_tries=wanted.puk_tries,
                card_point=wanted.card_point,
                token_point=token_point,
            )
            return workspace.wrap_for_card(workspace.personalisation_key(z, digest), key)

        return CardPersonalisation(
            credential_id=credential_id,
            scheme=wanted.scheme,
            combine=wanted.combine,
            pin_policy=wanted.pin_policy,
            pin_check=wanted.pin_check,
            pin_tries=wanted.pin_tries,
            puk_tries=wanted.puk_tries,
            token_point=token_point,
            wrapped_kcar=None if created.kcar is None else wrap(1, created.kcar),
            wrapped_kek=wrap(2, created.kek),
        )

    def _record(
        self,
        wanted: NewCredential,
        credential_id: CredentialId,
        pair: GeneratedPair,
        wrapped_seal: WrappedKey,
        created: Created,
    ) -> CredentialRecord:
        return CredentialRecord(
            format=RECORD_FORMAT,
            mac_key_id=self.record_key_id,
            version=1,
            credential_id=credential_id,
            owner=wanted.owner,
            status=Status.PENDING,
            scheme=wanted.scheme,
            combine=wanted.combine,
            pin_policy=wanted.pin_policy,
            pin_check=wanted.pin_check,
            token_serial=self.token_serial,
            mk_id=self.mk_id,
            spki=pair.spki,
            algorithms=wanted.algorithms,
            parameter=created.parameter,
            wrapped_kcar=created.wrapped_kcar,
            wrap_mechanism=self.profile.private_wrap or 0,
            wrapped_sk=created.wrapped_sk,
            x=created.x,
            rn=created.rn,
            rn_next=created.rn_next,
            failures=0,
            card_serial=wanted.card_serial,
            assurance=0,
            request_hash=None,
            evidence_head=None,
            sealing=Sealing.TOKEN,
            wrapped_seal=wrapped_seal,
            card_point=wanted.card_point,
            enrolment_proof=None,
            suspended_by=SuspendedBy.NOBODY,
        )


def _check_measured(measured: Measured, algorithm: Algorithm) -> None:
    """What is signed is what H is of, as far as bytes can show it; for SHA-384 and SHA-512 in message mode
    both came from one reading of the message (content.py)."""
    if measured.mode is Mode.DIGESTS:
        same = digest_list_hash(measured.digests) == measured.h
    elif algorithm.hash is HashName.SHA256:
        same = measured.digests == (measured.h,)
    elif algorithm.hash is None:
        same = hashlib.sha256(measured.message or b"").digest() == measured.h
    else:
        same = len(measured.digests) == 1 and len(measured.digests[0]) == algorithm.hash.length
    if not same:
        raise InputError("what is to be signed is not what was authorised")


def _present(wrapped: WrappedKey | None, name: str) -> WrappedKey:
    if wrapped is None:
        raise AssertionError(f"a live record without {name}")
    return wrapped


def _active(record: InstallationRecord, kind: TokenKeyKind) -> bytes:
    """Find the id of the active key of one kind. Raises InstallationDamaged."""
    active = [
        key.key_id for key in record.token_keys if (key.kind, key.state) == (kind, TokenKeyState.ACTIVE)
    ]
    if len(active) != 1:
        raise InstallationDamaged(f"the installation's row names {len(active)} active {kind.value} keys")
    return active[0]
