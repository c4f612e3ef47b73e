"""PKCS#11 URI (RFC 7512): which token, which module, where its PIN is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from hsm_signer.errors import ConfigError

_PATH_ATTRIBUTES = ("token", "serial", "manufacturer", "model")
_QUERY_ATTRIBUTES = ("module-path", "pin-source")
# RFC 7512, section 2.3: pk11-path-res-avail and pk11-query-res-avail, beside unreserved and pct-encoded.
_PATH_SAFE = ":[]@!$'()*+,=&"
_QUERY_SAFE = ":[]@!$'()*+,=/?|"
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class TokenUri:
    """The attributes of RFC 7512 that name a token here; None matches anything."""

    token: str | None = None
    """CK_TOKEN_INFO.label without padding."""
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    module_path: str | None = None
    pin_source: str | None = None
    """``file:PATH``; a relative path is relative to the home folder."""

    @classmethod
    def parse(cls, uri: str) -> TokenUri:
        """Parse; raises ConfigError naming the attribute. pin-value is refused: a PIN is no configuration."""
        scheme, colon, rest = uri.partition(":")
        if not colon or scheme.lower() != "pkcs11":
            raise ConfigError("token.uri: expected a PKCS#11 URI that begins with pkcs11: (RFC 7512)")
        path, _, query = rest.partition("?")
        found: dict[str, str] = {}
        for part, separator, known in ((path, ";", _PATH_ATTRIBUTES), (query, "&", _QUERY_ATTRIBUTES)):
            for item in filter(None, part.split(separator)):
                name, equals, raw = item.partition("=")
                if name == "pin-value":
                    raise ConfigError(
                        "token.uri: pin-value is not accepted: a PIN does not belong into configuration",
                        hint="use pin-source=file:PATH or HSM_SIGNER_TOKEN_PIN",
                    )
                if name not in known or not equals:
                    raise ConfigError(
                        f"token.uri: unknown attribute {name!r}; expected {', '.join(known)}"
                        f" {'before' if part is path else 'after'} the question mark"
                    )
                if name in found:
                    raise ConfigError(f"token.uri: attribute {name!r} given twice")
                found[name] = _decode(name, raw)
        return cls(**{name.replace("-", "_"): text for name, text in found.items()})

    def __str__(self) -> str:
        """The URI; attributes in the order of the fields."""
        path = ";".join(
            f"{name}={quote(text, safe=_PATH_SAFE)}"
            for name in _PATH_ATTRIBUTES
            if (text := getattr(self, name)) is not None
        )
        query = "&".join(
            f"{name}={quote(text, safe=_QUERY_SAFE)}"
            for name in _QUERY_ATTRIBUTES
            if (text := getattr(self, name.replace("-", "_"))) is not None
        )
        return f"pkcs11:{path}" + (f"?{query}" if query else "")


def _decode(name: str, raw: str) -> str:
    if _PERCENT.search(raw):
        raise ConfigError(f"token.uri: {name}: expected % followed by two hexadecimal digits")
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"token.uri: {name}: expected UTF-8") from error
