"""Settings of the service: HOME/service.toml, frozen once read. No secrets, no way to token or store.

The front reads this file and never config.toml. Relative paths are relative to the file's folder. Every key
has a default; a key that is not known is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from hsm_signer.errors import ConfigError

from .toml import read_toml

SETTINGS_FILE = "service.toml"

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, msgspec.Meta(ge=1024, le=1 << 30)]


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Section ``[tls]``"""

    certificate: str = "tls/server.pem"
    """The server's certificate chain, PEM. Where neither this nor the key is there, a self-signed one is made
    at the first start, for trying."""
    key: str = "tls/server.key"
    """Its private key, PEM, without a passphrase, readable by the front only."""
    client_ca: str | None = None
    """Certificates of the authorities whose client certificates are accepted, PEM; none are, without it."""


class LimitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Section ``[limits]``"""

    body: Bytes = 1 << 20
    """Bytes of a request's body, but for messages."""
    message: Bytes = 64 << 20
    """Bytes of a message that travels whole."""
    digests: Annotated[int, msgspec.Meta(ge=1, le=14_000)] = 1000
    """Digests in one request; of 14,000 the longest answer still fits into a frame of the workers' socket."""
    in_flight: Count = 256
    """Requests waiting for workers or with them; one more is refused."""
    connections: Count = 1000
    """Connections at once; one more is closed. Counted from their beginning, before the handshake."""
    connections_per_address: Count = 100
    """Connections at once of one address (IPv6: one network of 2^64); one more is closed. Behind a proxy all
    connections are of its address."""
    strangers: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.75
    """Share of the connections that addresses may have from which no client was known yet."""
    rate: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 200.0
    """Requests a second of one client, or of one address without one, in the long run."""
    burst: Count = 400
    """Requests of one client before the rate matters."""
    credential_requests: Count = 1200
    """Requests a minute about one credential, of one client, or of one address without one."""
    handshake_timeout: Seconds = 10.0
    """Seconds for TLS, from the connection's beginning."""
    header_timeout: Seconds = 10.0
    """Seconds for a request's head to arrive."""
    body_timeout: Seconds = 60.0
    """Seconds for its body, and for a client to take some of an answer."""
    request_timeout: Seconds = 30.0
    """Seconds for a worker's answer, waiting for a worker included."""
    keep_alive: Seconds = 30.0
    """Seconds that an idle connection is kept."""
    stop_timeout: Seconds = 20.0
    """Seconds that requests in flight are given when the service stops."""


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Section ``[worker]``"""

    count: Annotated[int, msgspec.Meta(ge=1, le=256)] = 2
    """Worker processes: about one for each core or HSM session there is."""
    sockets: str = "run"
    """The folder of the workers' sockets, one each; made with mode 0700 (0750 with a socket group)."""
    socket_group: str | None = None
    """The system group that may reach the sockets: the front's, where it is another user."""
    front_user: str | None = None
    """The front's system user: its name or number. The workers talk to it and to nobody else; `serve`,
    started by root, runs the front as this user. Default: the workers' own user."""
    user: str | None = None
    """The workers' system user, which owns the home folder; `serve`, started by root, runs them as this."""
    recycle_after: Count = 50_000
    """Signatures after which a worker ends and is started anew: SoftHSM keeps some 1.3 kB for each."""
    operation_timeout: Seconds = 60.0
    """Seconds after which a worker whose token or database does not return ends itself."""


class EnrolmentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Section ``[enrolment]``"""

    card_issuers: tuple[str, ...] = ()
    """Files with the public keys or certificates, PEM, of those whose cards are known. Of such a card the
    record says assurance 1."""
    require_card_origin: bool = False
    """Whether cards of others, and cards that were never issued, are refused."""


ACTS = ("unlock", "resume", "revoke")
"""Acts over the network that can be made to need two clients; `suspend` never waits for anybody."""


class ApprovalSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Section ``[approval]``"""

    acts: tuple[str, ...] = ()
    """Acts that are carried out once two clients have asked for them: `unlock`, `resume`, `revoke`."""
    within: Annotated[int, msgspec.Meta(ge=1, le=604_800)] = 3600
    """Seconds for which the first client's word is good."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a service: all of service.toml."""

    format: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    """1."""
    bind: str = "127.0.0.1:8443"
    """HOST:PORT; [ADDRESS]:PORT for IPv6. Port 0 takes a free one and says which."""
    public_url: str | None = None
    """How clients reach the service, where a proxy is before it."""
    name: str = "hsm-signer"
    """The service's name, as `info` of the CSC API gives it."""
    region: Annotated[str, msgspec.Meta(pattern="^[A-Z]{2}$")] = "EU"
    """ISO 3166-1 alpha-2 code, as `info` of the CSC API gives it."""
    access_lifetime: Annotated[int, msgspec.Meta(ge=60, le=86400)] = 3600
    """Seconds that an access token of auth/login is good for."""
    tls: TlsSettings = TlsSettings()
    limits: LimitSettings = LimitSettings()
    worker: WorkerSettings = WorkerSettings()
    enrolment: EnrolmentSettings = EnrolmentSettings()
    approval: ApprovalSettings = ApprovalSettings()


def load(path: Path) -> Settings:
    """Read a settings file; the defaults where there is none. Raises ConfigError naming the field."""
    try:
        settings = read_toml(path, Settings)
    except FileNotFoundError:
        return Settings()
    for act in settings.approval.acts:
        if act not in ACTS:
            raise ConfigError(
                f"{path}: approval.acts: expected some of {', '.join(ACTS)}, got {act!r}",
                hint="other acts are not done over the network, but at the server only",
            )
    return settings
