"""The files that Weights & Biases keeps of a run, read back: which steps are in them.

A .wandb file has a header of 7 bytes and records in blocks of 32 KiB, each with a checksum (not
checked here), its length and its kind: whole, first, middle or last part. It is LevelDB's log
format. A kill can cut off the last record.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER_BYTES, BLOCK_BYTES = 7, 2**15
RECORD = struct.Struct("<IHB")  # checksum, length, kind
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def newest_step(folder: Path, run_id: str) -> int:
    """The newest step in all files of a run below `folder`; -1: there is none."""
    files = sorted(folder.glob(f"*run-*-{run_id}/run-{run_id}.wandb"))
    steps = (step for file in files for record in records(file) if (step := _step(record)) >= 0)
    return max(steps, default=-1)


def records(path: Path) -> Iterator[Any]:
    """Every complete record, as wandb's protobuf message."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    for data in _payloads(path.read_bytes()):
        record = Record()
        try:
            record.ParseFromString(data)
        except DecodeError:
            return
        yield record


def _payloads(data: bytes) -> Iterator[bytes]:
    at, parts = HEADER_BYTES, b""
    while at + RECORD.size <= len(data):
        if (left := BLOCK_BYTES - at % BLOCK_BYTES) < RECORD.size:  # the rest of a block is zeros
            at += left
            continue
        _, length, kind = RECORD.unpack_from(data, at)
        at += RECORD.size
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or at + length > len(data):
            return
        part, at = data[at : at + length], at + length
        parts = part if kind in (WHOLE, FIRST) else parts + part
        if kind in (WHOLE, LAST):
            yield parts


def _step(record: Any) -> int:
    return int(record.history.step.num) if record.WhichOneof("record_type") == "history" else -1
