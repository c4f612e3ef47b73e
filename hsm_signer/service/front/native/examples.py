"""Requests of the native interface that work, and their answers, for the documentation.

tests/service/front/test_examples.py carries each out; what only a running service knows, it puts in by name.
"""

from __future__ import annotations

import json
from typing import Any

from hsm_signer.service.front.http.routes import Example

CREDENTIAL: dict[str, Any] = {
    "credential_id": "96016a8e9685e682905121937e7f5912",
    "owner": "alice",
    "status": "active",
    "scheme": "rolling",
    "combine": "cbc",
    "pin_policy": "always",
    "pin_check": "card",
    "token_serial": "ed698d375cc39f22",
    "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC4JJfkMrqfrtd1kv+7SzJi0y3CYlLQ+OB/JKWW1SgQ3bMzr+ylxzgTn6a1bI0PJpBJlewFcyfnXjUX0oNzeaRQ==",
    "algorithms": ["ecdsa-sha256"],
    "version": "2",
    "counter": "2",
    "failures": 0,
    "card_serial": "74027efef3fe1e36",
    "assurance": 0,
    "request_hash": "2c5f79741b207e8832bdb300a336fbd3c8e3cdac1eae36c8eaa1cb9ef9500135",
}
CHALLENGE = {
    "credential_id": "96016a8e9685e682905121937e7f5912",
    "scheme": "rolling",
    "counter": "2",
    "rolling_values": [
        "lDpURPeWPRPDzPuDGuNh+B7mHQLL3XdjgDZyXfb44EQ=",
        "MZ8IrKEa44WRUT/j8RbB0BHfnubqxOYtgW87w7EMBXA=",
    ],
    "algorithms": ["ecdsa-sha256"],
    "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC4JJfkMrqfrtd1kv+7SzJi0y3CYlLQ+OB/JKWW1SgQ3bMzr+ylxzgTn6a1bI0PJpBJlewFcyfnXjUX0oNzeaRQ==",
}
CARD_ANSWER = {
    "algorithm": "ecdsa-sha256",
    "counter": "2",
    "rolling_values": [
        "lDpURPeWPRPDzPuDGuNh+B7mHQLL3XdjgDZyXfb44EQ=",
        "MZ8IrKEa44WRUT/j8RbB0BHfnubqxOYtgW87w7EMBXA=",
    ],
    "nonce": "8Gccg1EIxVRGgDL+j/koDg==",
    "quantities": [
        "mpnAhgiUXFdTk5w+o8f4arTsE+qk2R7gp+oV+x8iLkBSRWbIKN4/zg==",
        "ZWpH3tW3JlIGisnUl9hAv/Mi32PW/vxTPcFArCinBxkMUgUGN4Tcsw==",
    ],
}
SIGNED_DIGESTS = {
    "credential_id": "96016a8e9685e682905121937e7f5912",
    "owner": "alice",
    "algorithm": "ecdsa-sha256",
    "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC4JJfkMrqfrtd1kv+7SzJi0y3CYlLQ+OB/JKWW1SgQ3bMzr+ylxzgTn6a1bI0PJpBJlewFcyfnXjUX0oNzeaRQ==",
    "signatures": [
        "MEQCIDD3VJfkBBxtKnEslaN+R0261jUZCLHwCzl2B1GA5VjIAiBW1h3KF+/xwUs495JOWKzMecYUZs3Q4OnzK4iN5ryWUA==",
        "MEUCIAlRbQfwbyNxY2QsKgotecfxQnIZ791FCOZeyBAZ643AAiEAs2lfyebAFL0q/0yL1iVlBWHgZeDNsFqEFT8dleLCm+U=",
    ],
    "authorisation_digest": "64ebaf36da0a1c29d7b4200eb3e93300cb369ef9398951c46574cdf2b4950a4f",
    "evidence_hash": "d25dfa28a52a64d36f7ba60f4432be30f6dd56cdd7193e7029cf65d95ba48862",
    "repeated": False,
    "failures_before": 0,
}
SIGNED_MESSAGE = {
    "credential_id": "96016a8e9685e682905121937e7f5912",
    "owner": "alice",
    "algorithm": "ecdsa-sha256",
    "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC4JJfkMrqfrtd1kv+7SzJi0y3CYlLQ+OB/JKWW1SgQ3bMzr+ylxzgTn6a1bI0PJpBJlewFcyfnXjUX0oNzeaRQ==",
    "signatures": [
        "MEUCIHwV2XEvYhrYSfoPnViLAOfUGpJuS8BQRjRmCQv/LdeXAiEAxEdeaJ2jX0x/wtw8Q/jwaJiSjhQGvC5nEx4DA2XWDxk="
    ],
    "authorisation_digest": "d16c88646a1142a48f9590988daf2475e4f91b8053cf2808ad31990aacae3bf3",
    "evidence_hash": "ef6aa849f5a651440109ca98ca48b106a21c4230d6225c8f677a29df417775ed",
    "repeated": False,
    "failures_before": 0,
}
NEW_CREDENTIAL = {
    "owner": "carol",
    "scheme": "rolling",
    "combine": "cbc",
    "key": "p256",
    "pin_policy": "always",
    "pin_check": "server",
    "pin_tries": 3,
    "puk_tries": 10,
    "card_point": "BGsX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfU=",
    "card_serial": "53494d0000000001",
}
IDENTITY = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAENnF1081vTeT+PSdgpbJ8Q2WcnnjAUYwe3yAJs77LdS8SHkpWVUyNUvFpSh0qKWDkQvNAxO9kQU4ZRJbV2TWw6g=="
ENROLMENT: dict[str, Any] = {
    "credential": {
        "credential_id": "63c6966dd1ff68a14f5b707585ad093e",
        "owner": "carol",
        "status": "pending",
        "scheme": "rolling",
        "combine": "cbc",
        "pin_policy": "always",
        "pin_check": "server",
        "token_serial": "ed698d375cc39f22",
        "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEXRQxPKEOuHtzAXqtJruLDgFYjqzTO4+63Wjaqb6weQl6AF5wKRLnt0G2JSatKdgm6Xfd88fKVsxLLLJ6KqEWMw==",
        "algorithms": ["ecdsa-sha256"],
        "version": "1",
        "counter": "1",
        "failures": 0,
        "card_serial": "53494d0000000001",
        "assurance": 0,
        "request_hash": "d529ed67a6f00c4e416845d25b4e35e1b213bce73d581151c783a4c5647d1cc6",
    },
    "personalisation": {
        "credential_id": "63c6966dd1ff68a14f5b707585ad093e",
        "scheme": "rolling",
        "combine": "cbc",
        "pin_policy": "always",
        "pin_check": "server",
        "pin_tries": 3,
        "puk_tries": 10,
        "token_point": "BHZJXw59yndgcj+rfzUNu7+WjmUuUS5ItVXo5qLR9HGPXxEpNAB0FZab9PbMHuhP3vY7qNNDd7nOH/iQGPUo4ac=",
        "wrapped_kcar": "z52OU1R++9rK6SZ5bcsoaFm6ih0A14qO+JvRbX/GcGBi88JsFV3ckg==",
        "wrapped_kek": "0WCcABsb3fdAGM5jJczXT3f2FTk13FPs5yt+LiL5IqCyVqZPvHd/8w==",
    },
    "request_info": "MHICAQAwEDEOMAwGA1UEAwwFY2Fyb2wwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARdFDE8oQ64e3MBeq0mu4sOAViOrNM7j7rdaNqpvrB5CXoAXnApEue3QbYlJq0p2Cbpd93zx8pWzEsssnoqoRYzoAA=",
    "proof": {
        "installation_id": "5c1d0e7a94b3f268",
        "public_key": IDENTITY,
        "signature": "MEUCIQCtpqVU9P1O2OsuaPItSCu1r8/8lDaZ6ETvsbqgsi2SPgIgcgm6GDxYoQf94NSOplcwNeVFuvW+ormQoh4kDB4HI10=",
    },
}
PEM = (
    "-----BEGIN CERTIFICATE REQUEST-----\n"
    "MIHLMHICAQAwEDEOMAwGA1UEAwwFYWxpY2UwWTATBgcqhkjOPQIBBggqhkjOPQMB\n"
    "BwNCAAQLgkl+Qyup+u13WS/7tLMmLTLcJiUtD44H8kpZbVKBDdszOv7KXHOBOfpr\n"
    "VsjQ8mkEmV7AVzJ+deNRfSg3N5pFoAAwCgYIKoZIzj0EAwIDSQAwRgIhAKA5yZe+\n"
    "nhgE1Xi5okD6VFf9hARx+1W6tvQcDHd7l6g4AiEAo1oVi1lWndGFrBCKFx5H9q8Y\n"
    "t7jhsevu0CeKJjPpoMU=\n"
    "-----END CERTIFICATE REQUEST-----\n"
)
CHAIN = [
    "MIIBZTCCAQugAwIBAgIUJKVi/k6MiuYowNiLWEwJa87oq/EwCgYIKoZIzj0EAwIwEjEQMA4GA1UEAwwHVGVzdCBDQTAeFw0yNjExMjQxMDA3MzVaFw0yNjEyMjUxMDA3MzVaMBAxDjAMBgNVBAMMBXBhdWxhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAETZqJ1tiZ9uKv+uRoRL+G+gzuG7k9Pt1463a6lkG7BT+85rnuLxmuzH6XlA4aOZcZ+FP+dV4gatIXEjbjZtYIj6NBMD8wDAYDVR0TAQH/BAIwADAOBgNVHQ8BAf8EBAMCBsAwHwYDVR0jBBgwFoAUZU2FqIOkRU0kC6nDBuUZ5/+/UK0wCgYIKoZIzj0EAwIDSAAwRQIhAPuQOijtP0npDU5AxucYywZYlUbKxqqPTcOEXzW4lWn1AiALzmvhk9hyZZT7nMrJB3VZXxuhPzet+7/gl3JxtlTETQ=="
]
ENTRY: dict[str, Any] = {
    "sequence": "3",
    "time": "2026-11-25T10:07:38.619656Z",
    "credential_id": "96016a8e9685e682905121937e7f5912",
    "event": "sign",
    "outcome": "accepted",
    "record_version": "3",
    "actor": "client app",
    "previous": "afee5271ee801eb7149f34b5015bc00417a49a1bbca0218d3acc77298dd42a1d",
    "authorisation_digest": "64ebaf36da0a1c29d7b4200eb3e93300cb369ef9398951c46574cdf2b4950a4f",
    "nonce": "8Gccg1EIxVRGgDL+j/koDg==",
    "counter": "2",
    "algorithm": "ecdsa-sha256",
    "mode": "digests",
    "message_hash": "b9f3d5f34ae6af70d7b05c3a235b36a52afdca7a1383846686d445b967c36cf6",
    "quantities_hash": "11696b2588ffa508c59b1fa73eaaa4e433ffe8ed8906efbbba455f0d419a0af2",
    "digests": [
        "e13f7d3441bac89769735bb6bb6d4a9330c4c8f172ec082778d1007e47b629fa",
        "1d9eabe429adcd341af007b1a49c5c5447c7eb6c170371ab75eb6b87dd0de774",
    ],
    "signatures": [
        "MEQCIDD3VJfkBBxtKnEslaN+R0261jUZCLHwCzl2B1GA5VjIAiBW1h3KF+/xwUs495JOWKzMecYUZs3Q4OnzK4iN5ryWUA==",
        "MEUCIAlRbQfwbyNxY2QsKgotecfxQnIZ791FCOZeyBAZ643AAiEAs2lfyebAFL0q/0yL1iVlBWHgZeDNsFqEFT8dleLCm+U=",
    ],
    "number": "29",
}
ANCHOR = {
    "format": 2,
    "time": "2026-11-25T10:07:39.895351Z",
    "last_entry": "34",
    "credentials": "12",
    "entries": "34",
    "root": "fc4f0ed66bc00b5b9912f68053dbeffee07c211cf9e91638937947e8bf2c97cd",
    "signed": {
        **ENROLMENT["proof"],
        "signature": "MEQCIDS5yPbaFZlXvS5vaK0lwzOkeRDkJcnX6l9EaO2cLM2qAiBRAKYIV0HXAvXG5pINSGk5LKpaEdxTNmz6TQ9h6aoTFw==",
    },
}

BY_ID = {"credential_id": CREDENTIAL["credential_id"]}
OF_ENROLMENT = {"credential_id": ENROLMENT["credential"]["credential_id"]}


def _awaited(act: str) -> dict[int, Any]:
    """The answer to the first of two clients."""
    return {202: {**BY_ID, "act": act, "actor": "client desk", "until": "2026-11-25T11:07:40.022104Z"}}


EXAMPLES: dict[str, Example] = {
    "getCapabilities": Example(
        answer={
            "combines": ["cbc"],
            "obstacles": {
                "rolling/p256": "",
                "rolling/ed25519": "the token cannot wrap ed25519 keys (KeyNotWrappable)",
            },
            "limits": {"body": "1048576", "message": "67108864", "digests": "1000"},
            "identity": "77de-4112-774e-f7e2-344d-ec26-3f3d-9824-335a-cf03",
        }
    ),
    "whoAmI": Example(answer={"name": "portal", "roles": ["signer"], "owner": None, "certificate": False}),
    "listCredentials": Example(
        parameters={"owner": "alice", "limit": 10}, answer={"credentials": [CREDENTIAL], "more": False}
    ),
    "getCredential": Example(parameters=BY_ID, answer=CREDENTIAL),
    "getCredentialOfUser": Example(parameters={"owner": "alice"}, answer=CREDENTIAL),
    "getCertificationRequest": Example(parameters=BY_ID, answer={"pem": PEM}),
    "getCertificates": Example(parameters=BY_ID, answer={"certificates": CHAIN}),
    "setCertificates": Example(parameters=BY_ID, body={"certificates": CHAIN}),
    "suspendCredential": Example(
        parameters=BY_ID, answer={**CREDENTIAL, "status": "suspended", "version": "3"}
    ),
    "resumeCredential": Example(
        parameters=BY_ID, answer={**CREDENTIAL, "version": "4"}, other_answers=_awaited("resume")
    ),
    "unlockCredential": Example(
        parameters=BY_ID, answer={**CREDENTIAL, "version": "8"}, other_answers=_awaited("unlock")
    ),
    "revokeCredential": Example(
        parameters=BY_ID,
        answer={**CREDENTIAL, "status": "revoked", "version": "3"},
        other_answers=_awaited("revoke"),
    ),
    "getChallenge": Example(parameters=BY_ID, answer=CHALLENGE),
    "createSignatures": Example(
        parameters=BY_ID,
        body={"authorisation": CARD_ANSWER, "digests": ENTRY["digests"]},
        answer=SIGNED_DIGESTS,
    ),
    "createMessageSignature": Example(
        parameters=BY_ID,
        body={"authorisation": CARD_ANSWER, "message": "I owe you one apple."},
        answer=SIGNED_MESSAGE,
    ),
    "beginEnrolment": Example(body=NEW_CREDENTIAL, answer=ENROLMENT),
    "getRequestInfo": Example(
        parameters=OF_ENROLMENT,
        answer={
            "request_info": ENROLMENT["request_info"],
            "public_key": ENROLMENT["credential"]["public_key"],
            "proof": {
                **ENROLMENT["proof"],
                "signature": "MEQCIBnTUeSo++7hLJep1FtcmdV/mlknVWQA3QxUjtve6jsvAiBDAooQw45ARthXHxezCNIPFQRxbi7bn1+nS+XFs2KtCw==",
            },
        },
    ),
    "giveUpEnrolment": Example(parameters=OF_ENROLMENT),
    "listEvidence": Example(
        parameters={**BY_ID, "after": "2", "limit": 1}, answer={"entries": [ENTRY], "more": True}
    ),
    "exportEvidence": Example(
        parameters={**BY_ID, "after": "2"}, answer=json.dumps(ENTRY, separators=(",", ":")) + "\n"
    ),
    "getAnchor": Example(answer=ANCHOR),
    "checkAnchor": Example(body=ANCHOR, answer={"findings": []}),
}
