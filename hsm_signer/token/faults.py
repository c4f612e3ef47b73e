"""PKCS#11 return values -> our errors, decided once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pkcs11.exceptions as p11

from hsm_signer.errors import TokenUnavailable, TokenUnsuitable

SAYS_WRONG_KEY = (
    # These say it by themselves (PKCS#11 v2.40, 5.1.6).
    p11.WrappedKeyInvalid,
    p11.WrappedKeyLenRange,
    p11.EncryptedDataInvalid,
    p11.EncryptedDataLenRange,
)
MAY_SAY_WRONG_KEY = (
    # Tokens say these too: SoftHSM CKR_GENERAL_ERROR. They count only where the probe saw this very token
    # answer so, because elsewhere they mean that the token has gone, or that its policy is in the way.
    *SAYS_WRONG_KEY,
    p11.GeneralError,
    p11.FunctionFailed,
    p11.DeviceError,
    p11.DataInvalid,
    p11.DataLenRange,
    p11.ArgumentsBad,
    p11.KeySizeRange,
)

GONE = (
    # Nothing recovers from these but a new start: drop everything, initialise, log in, find MK again.
    p11.GeneralError,
    p11.FunctionFailed,
    p11.DeviceError,
    p11.DeviceMemory,
    p11.DeviceRemoved,
    p11.HostMemory,
    p11.SessionClosed,
    p11.SessionHandleInvalid,
    p11.SessionCount,
    p11.TokenNotPresent,
    p11.TokenNotRecognised,
    p11.UserNotLoggedIn,
    p11.KeyHandleInvalid,
    p11.ObjectHandleInvalid,
    p11.UnwrappingKeyHandleInvalid,
    p11.WrappingKeyHandleInvalid,
    p11.OperationActive,
)


@contextmanager
def token_call(doing: str) -> Iterator[None]:
    """Turn whatever PKCS#11 says into TokenUnavailable or TokenUnsuitable, with what was being done."""
    try:
        yield
    except GONE as error:
        raise TokenUnavailable(
            f"the token stopped answering while {doing} ({reason(error)})",
            hint="nothing was released; try again when the token is back",
        ) from error
    except p11.PKCS11Error as error:
        raise TokenUnsuitable(f"the token refuses {doing} ({reason(error)})") from error


def reason(error: p11.PKCS11Error) -> str:
    """The return value's name, without any data of the call."""
    return type(error).__name__
