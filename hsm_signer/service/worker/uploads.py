"""A message on its way into the worker: chunk by chunk, into memory and then into a file without a name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from hsm_signer.core.content import CHUNK
from hsm_signer.errors import FrameMalformed, ServiceError, os_words
from hsm_signer.service.wire import operations as wire
from hsm_signer.service.wire.frames import MAX_CHUNK

IN_MEMORY = 1 << 20
"""Bytes of a message that are kept in memory; what is longer goes to the temporary folder."""


class Upload:
    """The message of one Sign call. A ByteSource once it is complete; to be closed."""

    def __init__(self, call: wire.Call, length: int) -> None:
        self.call = call
        self._missing = length
        self._file: tempfile.SpooledTemporaryFile[bytes] | None
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  closed by close()

    @property
    def complete(self) -> bool:
        """Whether every byte has come."""
        return self._missing == 0

    @property
    def refused(self) -> bool:
        """Whether the call has been answered: what still comes is thrown away."""
        return self._file is None

    def add(self, chunk: bytes) -> None:
        """The next bytes. Raises FrameMalformed for too many or none; ServiceError where there is no room."""
        if not 1 <= len(chunk) <= min(MAX_CHUNK, self._missing):
            raise FrameMalformed(
                f"chunk: expected 1 to {min(MAX_CHUNK, self._missing)} bytes, got {len(chunk)}"
            )
        self._missing -= len(chunk)
        if self._file is not None:
            try:
                self._file.write(chunk)
            except OSError as error:
                words = os_words(error).lower()
                raise ServiceError(f"message: cannot be kept: {words}") from error

    def chunks(self) -> Iterator[bytes]:
        """The message from its beginning."""
        if self._file is None:
            raise ValueError("a message that was thrown away")
        self._file.seek(0)
        while chunk := self._file.read(CHUNK):
            yield chunk

    def close(self) -> None:
        """Forget the message."""
        if self._file is not None:
            self._file.close()
            self._file = None
