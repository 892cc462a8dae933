"""The one kind of error that a user is meant to see, and what the machine was short of in
others.
"""

import errno
import re

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_WORDS = (  # of the writers of torch and safetensors, which wrap the system's errors
    "No space left",
    "File too large",
    "Disk quota",
    "PytorchStreamWriter failed",
    "unexpected pos",
)
# What the machine, its file systems and its limits do, whoever asks: -> what to do about it.
MACHINE = {
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY, errno.EHOSTDOWN),
        "its disk or network file system fails; run it again, and ask who runs the machine if that"
        " stays",
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE), "too many files are open at once; raise `ulimit -n`"
    ),
    errno.EAGAIN: "no more processes are allowed; end some, or raise `ulimit -u` or the container's"
    " limit (--pids-limit)",
}
THREADS = "can't start new thread"
QUOTED = re.compile(r"\bos error (\d+)\b")  # by safetensors and tokenizers
MEMORY_WORDS = ("can't allocate memory", "Cannot allocate memory")


class UserError(Exception):
    """Bad input. The message is one line: file and row, what was expected, what to do.

    It stays one line whatever it quotes: line ends of a quoted name or value become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def reason(error: BaseException) -> str:
    """Return the first 160 characters of another library's error on one line, or else its kind."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def shortage(error: BaseException) -> str:
    """Return `disk`, `memory` or `machine` (a file system or limit that fails, see `number`) if
    that is what an error is about, else an empty text.
    """
    text = str(error)
    if getattr(error, "errno", None) in NO_SPACE or any(words in text for words in DISK_WORDS):
        return "disk"
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
    if memory or any(words in text for words in MEMORY_WORDS):
        return "memory"
    return "machine" if number(error) in MACHINE else ""


def number(error: BaseException) -> int:
    """Return the system's number of an error, also one that a library quotes, or 0."""
    if isinstance(error, RuntimeError) and THREADS in str(error):
        return errno.EAGAIN
    quoted = QUOTED.search(str(error))
    return getattr(error, "errno", None) or (int(quoted[1]) if quoted else 0)
