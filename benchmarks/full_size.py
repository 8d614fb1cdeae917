"""SD3.5 at full size on this card: seconds and memory of a step, beside the plan and the bare loop.

    python benchmarks/full_size.py FOLDER [--seconds 600] [--json FILE] [--rows TEXT;TEXT]
    python benchmarks/full_size.py --predict h200 [--count] [--rows TEXT;TEXT] [--json FILE]
    python benchmarks/full_size.py --list

FOLDER: of `python benchmarks/random_models.py FOLDER`, which writes the models without a hub. Each
row is a run of the real trainer: 4 steps to warm up and 8 that are measured. Rows take turns in one
process, which imports everything once; after a row that failed, or that left memory behind, a new
process takes over. A row prints a line and is in the JSON file as soon as it ends. Rows that the
file has are not run again, so the same command goes on where it was stopped. When the seconds are
used up, the rows that are left are named and not run. benchmarks/full_size_rows.py has the rows, in
the order in which they are wanted.

--predict reckons all rows for a chip of the catalogue instead, without a card and without models;
with --count, memory is counted with fake tensors as well (10 to 60 s a row).

    python benchmarks/random_models.py try --size tiny; python benchmarks/full_size.py try

rehearses every row on the demo's shapes, on any machine. Figures then mean nothing.
"""

import argparse
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import machine
from full_size_rows import ROWS, Row

LEAST_SECONDS = 12.0  # a row is not started with less
STALE_BYTES = 256 * 2**20  # what a row may leave behind
GIB = 2**30


class Worker:
    """The process that runs rows, started when it is needed."""

    def __init__(self, folder: Path, backend: str, log: Path | None) -> None:
        self._command = [sys.executable, __file__, str(folder), "--worker",
                         "--backend", backend]  # fmt: skip
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def ask(self, name: str, limit: float) -> dict[str, Any]:
        """The result of a row; `failed`: why there is none."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(name + "\n")
            process.stdin.flush()
        with selectors.DefaultSelector() as answers:
            answers.register(process.stdout, selectors.EVENT_READ)
            if not answers.select(limit):
                self.stop()
                return {"failed": f"stopped after {limit:.0f} s"}
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self.stop()
            return {"failed": f"the process ended with exit code {code}"}
        result: dict[str, Any] = json.loads(line)
        if "failed" in result or result.get("left_bytes", 0) > STALE_BYTES:
            self.stop()
        return result

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            log = subprocess.DEVNULL if self._log is None else self._log.open("a")
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, text=True,
                                             stdout=subprocess.PIPE, stderr=log)  # fmt: skip
        return self._process


def line(row: Row, result: dict[str, Any], rate: float | None) -> str:
    """For people: measured, predicted, published."""
    if "failed" in result:
        return f"{row.name:<54} FAILED: {result['failed'][:160]}"
    text = f"{row.name:<54}"
    if "seconds" in result:
        text += f" {result['seconds']:.3f} s"
    if result.get("predicted_seconds"):
        text += f" (plan {result['predicted_seconds']:.3f})"
    if result.get("peak_bytes"):
        text += f"  {result['peak_bytes'] / GIB:.2f} GiB"
    if result.get("predicted_bytes"):
        text += f" (plan {result['predicted_bytes'] / GIB:.2f})"
    if result.get("counted_bytes"):
        text += f" (counted {result['counted_bytes'] / GIB:.2f})"
    if rate and result.get("operations") and "seconds" in result:
        text += f"  {result['operations'] / result['seconds'] / rate:.0%} of the matmul rate"
    if row.published:
        text += f"  published {row.published[0]:.3f} s, {row.published[1]:.2f} GiB"
    return text


def known(path: Path | None) -> dict[str, Any]:
    """What an earlier call has measured."""
    if path is None or not path.exists():
        return {"begun": False, "matmul_rate": None, "rows": {}}
    document = json.loads(path.read_text())
    done = {n: r for n, r in document["rows"].items() if "failed" not in r}
    return {"begun": document["begun"], "matmul_rate": document["matmul_rate"], "rows": done}


def compare(rows: dict[str, Any], rate: float | None) -> None:
    """Adds the targets and the ratios: to the bare loop and of what was measured to the target."""
    by_name = {row.name: row for row in ROWS}
    for name, result in rows.items():
        row = by_name.get(name)
        if row is None or "seconds" not in result:
            continue
        result |= {"most_seconds": row.most_seconds, "most_gib": row.most_gib,
                   "least_share": row.least_share}  # fmt: skip
        if rate and result.get("operations"):
            result["share"] = result["operations"] / result["seconds"] / rate
        same = [b.name for b in ROWS if b.bare and (b.model, b.batch, b.side, b.checkpointing,
                b.compiled) == (row.model, row.batch, row.side, row.checkpointing,
                row.compiled)]  # fmt: skip
        plain = not row.bare and row.precision == "no_change" and row.modulations == "device"
        if plain and same and "seconds" in rows.get(same[0], {}):
            result["bare_ratio"] = result["seconds"] / rows[same[0]]["seconds"]


def table(
    worker: Worker, rows: list[Row], seconds: float, row_seconds: float, path: Path | None
) -> dict[str, Any]:
    """All rows, as far as the time goes. Caches are filled first, unmeasured. row_seconds: what one
    row may take."""
    ends = time.monotonic() + seconds
    found = known(path)

    def ask(name: str) -> dict[str, Any]:
        return worker.ask(name, max(LEAST_SECONDS, min(row_seconds, ends - time.monotonic())))

    try:
        if not found["begun"]:
            answer = ask("begin")
            found |= {"begun": "failed" not in answer, "matmul_rate": answer.get("rate")}
            print(f"matmul rate and caches: {json.dumps(answer)}", flush=True)
        rate = found["matmul_rate"]
        for row in rows:
            if row.name in found["rows"]:
                print(f"{row.name:<54} was measured before", flush=True)
                continue
            if ends - time.monotonic() < LEAST_SECONDS:
                print(f"{row.name:<54} not run: the time is over", flush=True)
                continue
            started = time.monotonic()
            found["rows"][row.name] = result = ask(row.name)
            result["took_seconds"] = round(time.monotonic() - started, 1)
            compare(found["rows"], rate)
            print(line(row, result, rate), flush=True)
            machine.write("full_size", found, path)
    finally:
        worker.stop()
    return found


def predictions(rows: list[Row], chip: str, counted: bool, path: Path | None) -> dict[str, Any]:
    """What the plan says of each row on a chip of the catalogue."""
    import full_size_run

    found: dict[str, Any] = {}
    for row in rows:
        if row.bare:
            continue
        try:
            found[row.name] = full_size_run.predicted(row, chip, counted)
        except Exception as e:
            found[row.name] = {"failed": f"{type(e).__name__}: {e}"}
        print(line(row, found[row.name], None), flush=True)
        machine.write("full_size predictions", {"chip": chip, "rows": found}, path)
    return {"chip": chip, "rows": found}


def wanted(words: str | None) -> Iterator[Row]:
    """The rows whose name contains one of the texts; all where None."""
    texts = None if words is None else words.split(";")
    yield from (row for row in ROWS if texts is None or any(t in row.name for t in texts))


def main() -> None:
    made = machine.parser(__doc__)
    made.add_argument("folder", type=Path, nargs="?", help="of random_models.py")
    made.add_argument("--rows", help="parts of names, separated by semicolons; all if left out")
    made.add_argument("--seconds", type=float, default=600, help="the whole table may take")
    made.add_argument("--row-seconds", type=float, default=150, help="one row may take  [150]")
    made.add_argument("--predict", metavar="CHIP", help="reckon for a chip of the catalogue")
    made.add_argument("--count", action="store_true", help="with --predict")
    made.add_argument("--list", action="store_true", help="print the names of the rows")
    made.add_argument("--backend", default="inductor", help="of compiled rows  [inductor]")
    made.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = made.parse_args()
    rows = list(wanted(given.rows))
    if given.list:
        print("\n".join(row.name for row in rows))
        return
    path = None if given.json is None else given.json.absolute()
    if given.predict:
        found = predictions(rows, given.predict, given.count, path)
        machine.report("full_size predictions", found, path)
        return
    if given.folder is None:
        made.error("give FOLDER, --predict or --list")
    os.chdir(given.folder)
    if given.worker:
        import full_size_run

        full_size_run.serve(Path.cwd(), given.backend)
        return
    worker = Worker(Path.cwd(), given.backend, path and path.with_suffix(".log"))
    machine.report("full_size", table(worker, rows, given.seconds, given.row_seconds, path), path)


if __name__ == "__main__":
    main()
