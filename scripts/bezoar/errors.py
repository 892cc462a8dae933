"""The one kind of error that a user is meant to see."""


class UserError(Exception):
    """Bad input. The message is one line: file and row, what was expected, what to do.

    It stays one line whatever it quotes: line ends of a quoted name or value become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))
