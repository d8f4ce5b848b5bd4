#!/usr/bin/env python3
"""Writes golden.tfevents for tests/command/tensorboard.rs: an event file by TensorBoard's own writer.

    python tests/command/tensorboard/make_fixture.py        # a second; needs tensorboard; made with 2.21.0, protobuf 7.36.2

The times are fixed. Lengths and numbers are chosen so that varints of one to five bytes occur.
"""

import os

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

HERE = os.path.dirname(os.path.abspath(__file__))


def scalars(wall_time, step, values):
    values = [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values]
    return event_pb2.Event(wall_time=wall_time, step=step, summary=summary_pb2.Summary(value=values))


EVENTS = [
    event_pb2.Event(wall_time=1700000000.25, file_version="brain.Event:2"),
    event_pb2.Event(wall_time=1700000000.5, step=3,
                    session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)),
    scalars(1700000001.0, 0, [("train/loss", 0.0), ("train/accuracy", -0.0)]),
    scalars(1700000002.0, 127, [("train/loss", 0.1)]),
    scalars(1700000003.0, 128, [("train/loss", float("inf")), ("größe/Übergang", -2.5e-40)]),
    # A text of 200 bytes, a step of five bytes, and a message of more than 2^14.
    scalars(1700000004.0, 2**32 + 5, [("t" * 200, 3.5)]),
    scalars(1700000005.0, 16384, [(f"update_ratio/layer{i}.0.conv1.weight", i / 1024) for i in range(500)]),
]

with open(os.path.join(HERE, "golden.tfevents"), "wb") as file:
    writer = RecordWriter(file)
    for event in EVENTS:
        writer.write(event.SerializeToString())
