"""The tests need the command, `RESNET` or installed; those of PyTorch are skipped without it, which pytest reports."""

import os
import stat
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
pytest_plugins = ["pytester"]

import resnet_oracle as package  # noqa: E402
from resnet_oracle import _command  # noqa: E402

try:
    package.command()
except package.OracleError as error:
    pytest.exit(f"the tests of resnet-oracle need the command: {error}", returncode=2)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Replaces the command by a program of the test's."""

    def replace(text):
        path = tmp_path / "resnet"
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("RESNET", str(path))

    yield replace
    _command.SERVER.close()
