"""One process that signs many times and says how its memory grows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hsm_signer.types import KeySpec

from .__main__ import enrolled, installation, message


def resident() -> int:
    """Resident memory now, in kB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS")


def main() -> None:
    """FOLDER SIGNATURES: JSON on stdout."""
    folder, signatures = Path(sys.argv[1]), int(sys.argv[2])
    points = []
    with installation(folder) as (_, _, server):
        signer = enrolled(server, folder, KeySpec.P256)
        warm = max(100, signatures // 100)
        for i in range(signatures + 1):
            if i == warm or i % max(1, signatures // 4) == 0:
                points.append({"signatures": i, "kB": resident()})
            if i < signatures:
                server.sign(signer.request(message(i)))
    first = next(point for point in points if point["signatures"] == warm)
    last = points[-1]
    grown = (last["kB"] - first["kB"]) * 1024 / (last["signatures"] - first["signatures"])
    points.sort(key=lambda point: point["signatures"])
    print(json.dumps({"signatures": signatures, "points": points, "bytes per signature": grown}))


if __name__ == "__main__":
    main()
