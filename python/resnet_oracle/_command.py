"""The command `resnet`: where it is, and one process of `resnet oracle serve` that answers many questions."""

import atexit
import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
import threading
from typing import List, NamedTuple, Sequence


__tracebackhide__ = True


class OracleError(RuntimeError):
    """Nothing was judged: the command is missing or died, a name or shape is wrong, a file cannot be read."""


def command() -> str:
    """The path of the command `resnet`.

    It is the file that the environment variable `RESNET` names; without it, the command that `pip` installed with this
    package; without that, the first `resnet` in `PATH`.

    Raises:
        OracleError: there is none of them.
    """
    named = os.environ.get("RESNET")
    if named:
        found = shutil.which(named)
        if found is None:
            raise OracleError(f"RESNET={named}: there is no such program; unset RESNET or let it name the command `resnet`")
        return found
    folders = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", f"{os.name}_user"), os.environ.get("PATH")]
    found = shutil.which("resnet", path=os.pathsep.join(folder for folder in folders if folder))
    if found is None:
        raise OracleError(
            "the command `resnet` is not installed: install this package with `pip install ./python` in the repository, which "
            "compiles it, or set the environment variable RESNET to its path"
        )
    return found


class Answer(NamedTuple):
    """What one call of the command gave: 0 right, 1 wrong or failed, 2 called wrongly."""

    code: int
    out: str
    error: str


class Server:
    """`resnet oracle serve`: each line of its input is a call, each line of its output an answer."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process = None
        self.program = ""
        self.errors = None

    def ask(self, arguments: Sequence[str]) -> Answer:
        """The answer to `resnet oracle ARGUMENTS`."""
        with self.lock:
            program = command()
            if self.process is None or self.process.poll() is not None or self.program != program:
                self.close()
                self.start(program)
            try:
                self.process.stdin.write(json.dumps(list(arguments)) + "\n")
                self.process.stdin.flush()
                line = self.process.stdout.readline()
                answer = json.loads(line)
                return Answer(answer["code"], answer["out"], answer["error"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise OracleError(self.died(arguments)) from error
            except BaseException:  # Ctrl-C: the answer that is still to come must not be that of the next question
                self.kill()
                raise

    def start(self, program: str) -> None:
        self.errors = tempfile.TemporaryFile()
        pipe = subprocess.PIPE
        try:
            # A session of its own: Ctrl-C in a terminal is for Python.
            self.process = subprocess.Popen(
                [program, "oracle", "serve"], stdin=pipe, stdout=pipe, stderr=self.errors, encoding="utf-8", start_new_session=True
            )
        except OSError as error:
            raise OracleError(f"{program}: cannot be started: {error}") from error
        self.program = program

    def died(self, arguments: Sequence[str]) -> str:
        """What is known of a process that did not answer."""
        try:
            code = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            code = None
        self.errors.seek(0)
        text = self.errors.read().decode("utf-8", "replace").strip() or "it printed no error"
        self.kill()
        how = "sent something that is no answer" if code is None else f"ended with exit code {code}"
        return f"`{self.program} oracle serve` {how} instead of answering `{' '.join(arguments)}`: {text}"

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
        self.close()

    def close(self) -> None:
        """Ends the process."""
        process, self.process = self.process, None
        if process is None:
            return
        try:
            process.stdin.close()  # which ends it
        except OSError:
            pass
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:  # a forked process may still hold its input open
            process.kill()
            process.wait()
        process.stdout.close()
        self.errors.close()

    def forget(self) -> None:
        """After a fork: the process belongs to the parent."""
        if self.process is not None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for pipe in (self.process.stdin, self.process.stdout):
                os.dup2(nowhere, pipe.fileno())
            os.close(nowhere)
            self.process.returncode = 0
        self.__init__()


SERVER = Server()
atexit.register(SERVER.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SERVER.forget)


def ask(arguments: List[str], renamed: dict) -> Answer:
    """The answer of the command, in which the files of `renamed` have those names.

    Raises:
        OracleError: it could not judge.
    """
    answer = SERVER.ask(arguments)
    for path, name in renamed.items():
        answer = Answer(answer.code, answer.out.replace(path, name), answer.error.replace(path, name))
    if answer.code not in (0, 1) or answer.error.strip():
        raise OracleError(message(answer.error) or f"exit code {answer.code}")
    return answer


def message(error: str) -> str:
    """What the command printed as an error, without what is only of use in a shell."""
    return error.replace("For more information, try '--help'.", "").strip().removeprefix("error: ").removeprefix("--set: ")
