#!/usr/bin/env python3
"""Writes golden.tfevents and hparams.tfevents for tests/command/tensorboard.rs: event files by TensorBoard's own writer.

    python tests/command/tensorboard/make_fixture.py        # a second; needs tensorboard; made with 2.21.0, protobuf 7.36.2

The times are fixed. Lengths and numbers are chosen so that varints of one to five bytes occur.
"""

import os

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
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



def hparams(tag, **content):
    """A value as `tensorboard.plugins.hparams.summary` makes it."""
    data = plugin_data_pb2.HParamsPluginData(**content)
    # Of a map the order is fixed only in a deterministic serialisation.
    plugin = summary_pb2.SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString(deterministic=True))
    return summary_pb2.Summary.Value(
        tag=tag, metadata=summary_pb2.SummaryMetadata(plugin_data=plugin), tensor=metadata.NULL_TENSOR)


def info(name, kind):
    return api_pb2.HParamInfo(name=name, type=kind)


def metric(group, tag, title):
    return api_pb2.MetricInfo(name=api_pb2.MetricName(group=group, tag=tag), display_name=title)


STRING, BOOL, FLOAT64 = api_pb2.DATA_TYPE_STRING, api_pb2.DATA_TYPE_BOOL, api_pb2.DATA_TYPE_FLOAT64
EXPERIMENT = api_pb2.Experiment(
    time_created_secs=1700000000.5,
    hparam_infos=[info("batch_size", FLOAT64), info("clip_norm", FLOAT64), info("flip", BOOL), info("mean", STRING),
                  info("nesterov", BOOL)],
    metric_infos=[metric("test", "epoch/accuracy", "test accuracy"), metric("validation", "epoch/loss", "validation loss")])
START = plugin_data_pb2.SessionStartInfo(start_time_secs=1700000000.5)
START.hparams["batch_size"].number_value = 128
START.hparams["clip_norm"].number_value = 0
START.hparams["flip"].bool_value = True
START.hparams["mean"].string_value = "[0.5, 0.25]"
START.hparams["nesterov"].bool_value = False
END = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=1700000009)

HPARAMS = [
    EVENTS[0],
    event_pb2.Event(wall_time=1700000000.5, summary=summary_pb2.Summary(value=[
        hparams(metadata.EXPERIMENT_TAG, experiment=EXPERIMENT),
        hparams(metadata.SESSION_START_INFO_TAG, session_start_info=START)])),
    event_pb2.Event(wall_time=1700000009, summary=summary_pb2.Summary(value=[
        hparams(metadata.SESSION_END_INFO_TAG, session_end_info=END)])),
]

for name, events in [("golden.tfevents", EVENTS), ("hparams.tfevents", HPARAMS)]:
    with open(os.path.join(HERE, name), "wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString(deterministic=True))
