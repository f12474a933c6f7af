"""The producer, a process of its own: `producer.py INSERT COUNT fast BATCH` or `producer.py INSERT COUNT paced PER_S`.

INSERT is the statement that inserts leads $1 to $2. Prints JSON: wall-clock start and end, and at a pace the
monotonic nanoseconds after each commit was acknowledged.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

import asyncpg


async def fast(conn: Any, insert: str, count: int, batch: int) -> dict[str, Any]:
    """As fast as one connection can, `batch` rows per statement and transaction."""
    for first in range(1, count + 1, batch):
        await conn.execute(insert, first, min(first + batch - 1, count))
    return {}


async def paced(conn: Any, insert: str, count: int, per_s: int) -> dict[str, Any]:
    """One row per transaction at a steady rate."""
    await conn.execute("SELECT 1")
    committed, begin = {}, time.monotonic()
    for number in range(1, count + 1):
        await asyncio.sleep(max(0.0, begin + number / per_s - time.monotonic()))
        await conn.execute(insert, number, number)
        committed[number] = time.monotonic_ns()
    return {"committed": committed}


async def main(insert: str, count: str, how: str, argument: str) -> None:
    """Insert, then say when."""
    conn = await asyncpg.connect(os.environ["BENCH_DSN"])
    start = time.time()
    more = await {"fast": fast, "paced": paced}[how](conn, insert, int(count), int(argument))
    print(json.dumps({"start": start, "end": time.time(), **more}))
    await conn.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
