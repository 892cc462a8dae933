"""The one kind of error a user is meant to see."""


class UserError(Exception):
    """Bad input. The message is one line: file and row, what was expected, what to do."""
