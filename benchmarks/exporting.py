"""A client that exports a space and throws it away: `python -m benchmarks.exporting ADDRESS SPACE`.

Prints one line of JSON: the `memories` exported, the `seconds` it took, and the `peak_mib` of this process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from mnemocore import connect


async def export(address: str, space: str) -> tuple[int, float]:
    """Export all memories of a space; returns their number and the seconds it took."""
    records = 0
    async with connect(address) as mnemo:
        started = time.perf_counter()
        async for part in mnemo.space(space).export():
            records += sum(record.WhichOneof("record") == "memory" for record in part.records)
        return records, time.perf_counter() - started


def main() -> int:
    """The command."""
    memories, seconds = asyncio.run(export(sys.argv[1], sys.argv[2]))
    status = Path("/proc/self/status").read_text()  # the peak of getrusage begins with that of the parent
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"memories": memories, "seconds": seconds, "peak_mib": peak}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
