"""Frames, held to TensorBoard's own writer."""

import io
import random

import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as theirs
from tensorboard.plugins.hparams import metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from rl.core.records import board
from rl.core.records.framing import framed, masked_crc32c


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000])
def test_a_record_is_framed_as_tensorboard_frames_it(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert masked_crc32c(data) == theirs(data)
    file = io.BytesIO()
    RecordWriter(file).write(data)
    assert framed(data) == file.getvalue()


def test_the_checksum_is_castagnolis() -> None:
    """RFC 3720, B.4: 32 bytes of zeros have 0x8A9136AA."""
    crc = 0x8A9136AA
    rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
    assert masked_crc32c(bytes(32)) == (rotated + 0xA282EAD8) & 0xFFFFFFFF


def test_names_of_the_hparams_page_are_tensorboards() -> None:
    assert board.HPARAMS_PLUGIN == metadata.PLUGIN_NAME
    assert board.HPARAMS_VERSION == metadata.PLUGIN_DATA_VERSION
    assert board.EXPERIMENT_TAG == metadata.EXPERIMENT_TAG
    assert board.SESSION_START_TAG == metadata.SESSION_START_INFO_TAG
    assert board.SESSION_END_TAG == metadata.SESSION_END_INFO_TAG
