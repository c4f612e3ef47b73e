"""Requests of the CSC API that work, and their answers, for the documentation.

tests/service/front/test_examples.py carries each out; what only a running service knows, it puts in by name.
"""

# ruff: noqa: S105 - a token of nobody

from __future__ import annotations

from hsm_signer.service.front.http.routes import Example

CREDENTIAL_ID = "96016a8e9685e682905121937e7f5912"
HASHES = ["4T99NEG6yJdpc1u2u21KkzDEyPFy7AgneNEAfke2Kfo=", "HZ6r5CmtzTQa8AexpJxcVEfH62wXA3Grdetrh90N53Q="]
CARD_ANSWER = "eyJhbGdvcml0aG0iOiAiZWNkc2Etc2hhMjU2IiwgImNvdW50ZXIiOiAiNCIsICJyb2xsaW5nX3ZhbHVlcyI6IFsicFJnSFMrN3NrLzgxMXoxenBlcFVVZVdYZjVLOFpFNW1hSU42MTNySWhIST0iLCAia0ZrK0RzNWtQVWZhSE1rcVgzMXVRcjFsYkFOT09vUmNlQ3ZwVmtOeThOOD0iXSwgIm5vbmNlIjogIktleGNhc0ZNVFpoRGFka0xUb3p2Mmc9PSIsICJxdWFudGl0aWVzIjogWyJJcTdFdEU3Q0ExTTM5SFQ5OFByMlM3eUxieGw3UCs4REVpbnNJUzg1SE9QSWVvMGJPTjRuenc9PSIsICJBMjI5UmVhNmZQZnpQQnVuL1p3WjlkSy8yVkk5Q20vWTFHYk5YTFZFTUMxNUZyYmxGck1tOGc9PSJdfQ"
ACTIVATION = {
    "SAD": "csad2.6cmOhqeGSA1Q0u1eWjq3l7ZIwzl6Sej7yXDL4e6Qhw-wakvGd_0AWqA3KdhYQnng6ebKwpBxHhlLrfHxF4ONIVKC64iLrM_KVYRK3WmBT99dEABrMtzwErpyTDiw0LKy-M8O74UQvcgPDbgtQ_CTOt9pG-txNmL49l3mMgm8dDGqFdB6HCKWYdwG-DkXfLUSNxuGPogjwUQ1DwUp3lOZ8Qhv-1RzrF5vxXmdFuWE960Vm_-6i79Yn-n7pCYt0L7XRHhaglXDxdv9bFtkk-EweXrCH5VPOgPIGF0Dum-lr0YVR_qXQuQ3cky6WthinDcSfAG3UMnC9HSj0zKG6uUnROkFUcdWGnFXH2zVDRflAcsKqnnfSClk4w5LohrBgnLim1J1rJJc"
}
CHALLENGE = {
    "challenge": "eyJjcmVkZW50aWFsX2lkIjoiOTYwMTZhOGU5Njg1ZTY4MjkwNTEyMTkzN2U3ZjU5MTIiLCJzY2hlbWUiOiJyb2xsaW5nIiwiY291bnRlciI6IjQiLCJyb2xsaW5nX3ZhbHVlcyI6WyJwUmdIUys3c2svODExejF6cGVwVVVlV1hmNUs4WkU1bWFJTjYxM3JJaEhJPSIsImtGaytEczVrUFVmYUhNa3FYMzF1UXIxbGJBTk9Pb1JjZUN2cFZrTnk4Tjg9Il0sImFsZ29yaXRobXMiOlsiZWNkc2Etc2hhMjU2IiwiZWNkc2Etc2hhMzg0IiwiZWNkc2Etc2hhNTEyIl0sInB1YmxpY19rZXkiOiJNRmt3RXdZSEtvWkl6ajBDQVFZSUtvWkl6ajBEQVFjRFFnQUVDNEpKZmtNcnFmcnRkMWt2KzdTekppMHkzQ1lsTFErT0IvSktXVzFTZ1EzYk16cit5bHh6Z1RuNmExYkkwUEpwQkpsZXdGY3lmblhqVVgwb056ZWFSUT09In0"
}
INFO = {
    "specs": "2.0.0.0",
    "name": "hsm-signer",
    "logo": "",
    "region": "EU",
    "lang": "en",
    "description": "Signs with keys that smart cards control: the card authorises each list of hashes",
    "authType": ["basic"],
    "methods": [
        "auth/login",
        "auth/revoke",
        "credentials/list",
        "credentials/info",
        "credentials/getChallenge",
        "credentials/authorize",
        "signatures/signHash",
    ],
    "asynchronousOperationMode": False,
    "signAlgorithms": {
        "algos": [
            "1.2.840.113549.1.1.1",
            "1.2.840.113549.1.1.11",
            "1.2.840.113549.1.1.12",
            "1.2.840.113549.1.1.13",
            "1.2.840.113549.1.1.10",
            "1.2.840.10045.2.1",
            "1.2.840.10045.4.3.2",
            "1.2.840.10045.4.3.3",
            "1.2.840.10045.4.3.4",
        ]
    },
    "signature_formats": {"formats": [], "envelope_properties": []},
    "conformance_levels": [],
}
CREDENTIAL = {
    "description": "rolling, active, of alice",
    "key": {
        "status": "enabled",
        "algo": ["1.2.840.10045.2.1", "1.2.840.10045.4.3.2", "1.2.840.10045.4.3.3", "1.2.840.10045.4.3.4"],
        "len": 256,
        "curve": "1.2.840.10045.3.1.7",
    },
    "cert": {"certificates": []},
    "auth": {
        "mode": "explicit",
        "expression": "CARD",
        "objects": [
            {
                "type": "ChallengeResponse",
                "id": "CARD",
                "label": "Smart card",
                "description": "The user's smart card authorises exactly these hashes, after its PIN",
            }
        ],
    },
    "SCAL": "2",
    "multisign": 1000,
    "lang": "en",
}
CREDENTIAL_OF_VERSION_1 = {
    "description": "rolling, active, of alice",
    "key": {
        "status": "enabled",
        "algo": ["1.2.840.10045.2.1", "1.2.840.10045.4.3.2", "1.2.840.10045.4.3.3", "1.2.840.10045.4.3.4"],
        "len": 256,
        "curve": "1.2.840.10045.3.1.7",
    },
    "cert": {"certificates": []},
    "authMode": "explicit",
    "SCAL": "2",
    "PIN": {"presence": "false"},
    "OTP": {
        "presence": "true",
        "type": "offline",
        "format": "A",
        "label": "Smart card",
        "description": "The user's smart card authorises exactly these hashes, after its PIN",
    },
    "multisign": 1000,
    "lang": "en",
}
SIGNATURES = {
    "signatures": [
        "MEUCICefeOj5g8A8KHj9hgskNX5FNrw5VBOktbKeG+Z7GQEeAiEAzZkEYfPPO7T3cW6JkDUjaoHrvlTLttJNwNMqG1QDETU=",
        "MEYCIQDy3W24k1qUrH0N3zS1PgKkRWUJ+7eMU9JnESiyiQ9PDgIhAP0lczEhKm/Uud46xC4ieXUDdboxk/ICbqF+tv0LLJc3",
    ]
}
TOKEN = "hsa_AAAAA2FwcAAAAAgABmEX1f-QVQAAABBVLYad2JmnTubkxWfmxeafU1B65Di6fi5DfDmWKYudB2f3YTx6js4P7vfevi82oIg"
NOT_IN_VERSION_1 = ("asynchronousOperationMode", "signAlgorithms", "signature_formats", "conformance_levels")
OF_CREDENTIAL = {"credentialID": CREDENTIAL_ID}


def _of_both(version: str) -> dict[str, Example]:
    return {
        f"{version}Login": Example(
            body={}, answer={"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
        ),
        f"{version}Revoke": Example(body={"token": TOKEN, "token_type_hint": "access_token"}),
        f"{version}ListCredentials": Example(
            body={"userID": "alice", "maxResults": 10}, answer={"credentialIDs": [CREDENTIAL_ID]}
        ),
        f"{version}GetChallenge": Example(body={**OF_CREDENTIAL, "authObjectID": "CARD"}, answer=CHALLENGE),
    }


EXAMPLES: dict[str, Example] = {
    **_of_both("cscV2"),
    "cscV2Info": Example(body={}, answer=INFO),
    "cscV2GetCredential": Example(body={**OF_CREDENTIAL, "authInfo": True}, answer=CREDENTIAL),
    "cscV2Authorize": Example(
        body={
            **OF_CREDENTIAL,
            "numSignatures": 2,
            "hashes": HASHES,
            "hashAlgorithmOID": "2.16.840.1.101.3.4.2.1",
            "authData": [{"id": "CARD", "value": CARD_ANSWER}],
        },
        answer=ACTIVATION,
    ),
    "cscV2SignHash": Example(
        body={**OF_CREDENTIAL, **ACTIVATION, "hashes": HASHES, "signAlgo": "1.2.840.10045.4.3.2"},
        answer=SIGNATURES,
    ),
    **_of_both("cscV1"),
    "cscV1Info": Example(
        body={},
        answer={name: value for name, value in INFO.items() if name not in NOT_IN_VERSION_1}
        | {"specs": "1.0.4.0"},
    ),
    "cscV1GetCredential": Example(body={**OF_CREDENTIAL, "authInfo": True}, answer=CREDENTIAL_OF_VERSION_1),
    "cscV1Authorize": Example(
        body={**OF_CREDENTIAL, "numSignatures": 2, "hash": HASHES, "OTP": CARD_ANSWER}, answer=ACTIVATION
    ),
    "cscV1SignHash": Example(
        body={**OF_CREDENTIAL, **ACTIVATION, "hash": HASHES, "signAlgo": "1.2.840.10045.4.3.2"},
        answer=SIGNATURES,
    ),
}
