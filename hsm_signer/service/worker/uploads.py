"""A message that arrives in chunks, kept in memory or, if it is long, in a temporary file without a name."""

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
    """The message of one Sign call, a ByteSource once it is complete; close it after use."""

    def __init__(self, call: wire.Call, length: int) -> None:
        self.call = call
        self._missing = length
        self._file: tempfile.SpooledTemporaryFile[bytes] | None
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  closed by close()

    @property
    def complete(self) -> bool:
        """Whether all bytes have arrived."""
        return self._missing == 0

    @property
    def refused(self) -> bool:
        """Whether the call has been answered already, so that further chunks are thrown away."""
        return self._file is None

    def add(self, chunk: bytes) -> None:
        """Add the next bytes. Raises FrameMalformed for too many or none, ServiceError without room."""
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
        """Read the message from its beginning."""
        if self._file is None:
            raise ValueError("a message that was thrown away")
        self._file.seek(0)
        while chunk := self._file.read(CHUNK):
            yield chunk

    def close(self) -> None:
        """Delete the message."""
        if self._file is not None:
            self._file.close()
            self._file = None
