"""Words of the lines that a user reads."""


def counted(number: int, one: str, several: str = "") -> str:
    """Return `number` with the noun that it takes: 1 stage, 2 stages; `several` where an s at the
    end does not make the plural.
    """
    return f"{number} {one if number == 1 else several or f'{one}s'}"
