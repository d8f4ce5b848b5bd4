"""The pages are right: their code runs, in order and in one namespace each, and prints what they say.

A block ```python is executed, or written to a file after `<!-- file: NAME -->`. The block ```text after it is what it prints,
an AssertionError at last; one that begins with `$ pytest` is run. Numbers and spaces are not compared, and `…` in a line of its own
stands for any lines. `python tests/test_docs.py` writes what is printed into the pages.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import warnings

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGES = ["docs/oracle_python.md", "python/README.md"]
BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```\n", re.S)


def execute(code, space, where):
    """What a block prints, with the AssertionError that it ends with."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            exec(compile(code, where, "exec"), space)
        except AssertionError as error:
            print(f"AssertionError: {error}")
    return out.getvalue()


def run_pytest(line):
    environment = {**os.environ, "PYTHONPATH": os.path.join(ROOT, "python"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "resnet_oracle.pytest_plugin", "-p", "no:cacheprovider", *shlex.split(line)[2:]]
    return line + "\n" + subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def blocks(text, where):
    """Runs a page in the current folder: each block of output, and what was printed."""
    space, printed = {"__name__": where}, None
    for block in BLOCK.finditer(text):
        file, language, content = block.groups()
        if file:
            with open(file, "w") as out:
                out.write(content)
            printed = None
        elif language == "python":
            line = text[: block.start()].count("\n") + 1
            try:
                printed = execute("\n" * line + content, space, where)
            except ImportError as error:
                warnings.warn(f"{where}, line {line}: {error}: this block is NOT tested")
                printed = None
        elif language == "text":
            if content.startswith("$ pytest"):
                printed = run_pytest(content.split("\n")[0])
            if printed is not None:
                yield block, content, printed
            printed = None


def plain(text):
    """Lines without numbers and spaces."""
    numbers = r"-?\d[\d,]*(\.\d+)?(e[-+]?\d+)?x?"
    return [re.sub(r"\s+", "", re.sub(numbers, "0", line)).rstrip("-=_") for line in text.strip().split("\n")]


def fits(expected, printed):
    form = "\n".join(plain(expected))
    form = ".*".join(re.escape(part) for part in re.split(r"^…$", form, flags=re.M))
    return re.fullmatch(form, "\n".join(plain(printed)), re.S) is not None


@pytest.mark.parametrize("page", PAGES)
def test_page(page, tmp_path, monkeypatch):
    if "import torch" in open(os.path.join(ROOT, page)).read():
        pytest.importorskip("torchvision", reason=f"PyTorch and torchvision are not installed: {page} is NOT tested")
    monkeypatch.chdir(tmp_path)
    for _, expected, printed in blocks(open(os.path.join(ROOT, page)).read(), page):
        assert fits(expected, printed), f"{page}: expected\n{expected}\nprinted\n{printed}"


def test_comparison():
    assert fits("a 1.5e-3 b\n…\nend", "a  7 b\nx\ny\nend\n") and fits("1 of 3", "20 of 1,000")
    assert not fits("a\nb", "a\nc") and not fits("a\nb", "a\nb\nc")


if __name__ == "__main__":
    import tempfile

    sys.path.insert(0, os.path.join(ROOT, "python"))
    for page in PAGES:
        path = os.path.join(ROOT, page)
        text, parts, end = open(path).read(), [], 0
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            for block, expected, printed in blocks(text, page):
                if not fits(expected, printed):
                    parts += [text[end : block.start()], "```text\n" + re.sub(r" +$", "", printed.strip(), flags=re.M) + "\n```\n"]
                    end = block.end()
            os.chdir(ROOT)
        with open(path, "w") as out:
            out.write("".join(parts) + text[end:])
