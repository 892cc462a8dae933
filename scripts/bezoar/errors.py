"""The one kind of error that a user is meant to see, and what the machine was short of in
others.
"""

import errno

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_WORDS = (  # of the writers of torch and safetensors, which wrap the system's errors
    "No space left",
    "File too large",
    "Disk quota",
    "PytorchStreamWriter failed",
    "unexpected pos",
)
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
    """Return `disk` or `memory` if that is what an error is about, else an empty text."""
    text = str(error)
    if getattr(error, "errno", None) in NO_SPACE or any(words in text for words in DISK_WORDS):
        return "disk"
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
    return "memory" if memory or any(words in text for words in MEMORY_WORDS) else ""
