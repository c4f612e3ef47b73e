"""PKCS#11 URIs: RFC 7512."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_signer.errors import ConfigError
from hsm_signer.token.uri import TokenUri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("pkcs11:", TokenUri()),
        ("PKCS11:token=x", TokenUri(token="x")),
        ("pkcs11:?", TokenUri()),
        ("pkcs11:token=The%20Software%20PKCS%2311", TokenUri(token="The Software PKCS#11")),
        (
            "pkcs11:serial=DECC0401648;token=a;manufacturer=Snake%20Oil,%20Inc.;model=1.0",
            TokenUri("a", "DECC0401648", "Snake Oil, Inc.", "1.0"),
        ),
        ("pkcs11:token=%3B%3D%25%3F", TokenUri(token=";=%?")),
        ("pkcs11:token=a=b", TokenUri(token="a=b")),
        ("pkcs11:token=%E2%82%AC", TokenUri(token="€")),
        ("pkcs11:token=%e2%82%ac", TokenUri(token="€")),
        ("pkcs11:token=", TokenUri(token="")),
        ("pkcs11:token=a;", TokenUri(token="a")),
        (
            "pkcs11:token=a?module-path=/usr/lib/x.so&pin-source=file:/etc/token_pin",
            TokenUri(token="a", module_path="/usr/lib/x.so", pin_source="file:/etc/token_pin"),
        ),
        ("pkcs11:?pin-source=file:a?b", TokenUri(pin_source="file:a?b")),
        ("pkcs11:?module-path=/a%26b", TokenUri(module_path="/a&b")),
        ("pkcs11:token=a+b", TokenUri(token="a+b")),
    ],
)
def test_parse(uri: str, expected: TokenUri) -> None:
    assert TokenUri.parse(uri) == expected


@pytest.mark.parametrize(
    ("uri", "match"),
    [
        ("", "expected a PKCS#11 URI"),
        ("token=a", "expected a PKCS#11 URI"),
        ("http://x", "expected a PKCS#11 URI"),
        ("pkcs11", "expected a PKCS#11 URI"),
        ("pkcs11:token", "unknown attribute 'token'"),
        ("pkcs11:colour=red", "unknown attribute 'colour'; expected token, .* before the question mark"),
        ("pkcs11:object=key", "unknown attribute 'object'"),
        ("pkcs11:Token=a", "unknown attribute 'Token'"),
        ("pkcs11:module-path=/x", "unknown attribute 'module-path'"),
        ("pkcs11:?token=a", "unknown attribute 'token'; expected module-path, .* after the question mark"),
        ("pkcs11:?x-vendor=1", "unknown attribute 'x-vendor'"),
        ("pkcs11:token=a;token=a", "'token' given twice"),
        ("pkcs11:?module-path=a&module-path=b", "'module-path' given twice"),
        ("pkcs11:token=%", "token: expected % followed by"),
        ("pkcs11:token=%4", "token: expected % followed by"),
        ("pkcs11:token=%zz", "token: expected % followed by"),
        ("pkcs11:?module-path=100%", "module-path: expected % followed by"),
        ("pkcs11:serial=%ff%fe", "serial: expected UTF-8"),
        ("pkcs11:token=a?pin-value=1234", "pin-value is not accepted"),
        ("pkcs11:pin-value=1234", "pin-value is not accepted"),
        ("pkcs11:?pin-value", "pin-value is not accepted"),
    ],
)
def test_refused_with_the_attribute_s_name(uri: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        TokenUri.parse(uri)
    assert caught.value.message.startswith("token.uri: ")


def test_a_pin_in_a_uri_is_not_repeated_in_the_error() -> None:
    """It would end in a log or on a screen."""
    for before in ("pkcs11:?", "pkcs11:", "pkcs11:token=a?module-path=/x&"):
        uri = f"{before}pin-value=90412873"
        with pytest.raises(ConfigError) as caught:
            TokenUri.parse(uri)
        assert "90412873" not in caught.value.message + str(caught.value.hint)


def test_reserved_characters_are_written_as_the_rfc_has_them() -> None:
    """Section 2.3: what is reserved elsewhere is encoded, what is allowed stays readable."""
    uri = TokenUri(token="a;b/c?d#e f", module_path="/usr/lib/x&y;z.so")
    assert str(uri) == "pkcs11:token=a%3Bb%2Fc%3Fd%23e%20f?module-path=/usr/lib/x%26y%3Bz.so"
    assert str(TokenUri()) == "pkcs11:"
    assert str(TokenUri(pin_source="file:p")) == "pkcs11:?pin-source=file:p"


TEXT = st.none() | st.text(st.characters(codec="utf-8"), max_size=40)


@given(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT)
def test_roundtrip(
    token: str | None,
    serial: str | None,
    manufacturer: str | None,
    model: str | None,
    module_path: str | None,
    pin_source: str | None,
) -> None:
    uri = TokenUri(token, serial, manufacturer, model, module_path, pin_source)
    text = str(uri)
    assert TokenUri.parse(text) == uri
    assert text.isascii()
    assert not set(text) & set(' "<>\\^`{}#')


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for uri in (text, f"pkcs11:{text}", f"pkcs11:token={text}", f"pkcs11:?module-path={text}"):
        try:
            parsed = TokenUri.parse(uri)
        except ConfigError:
            continue
        assert TokenUri.parse(str(parsed)) == parsed
