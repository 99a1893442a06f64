"""Errors that a user can mend: the command prints message and remedy, and exits 2."""


class UserError(Exception):
    """Bad input, or a surrounding that does not allow what was asked.

    Attributes:
        message: The problem, with its place (``space.yaml:12: ...``) where there is one.
        remedy: What to do about it; may be empty.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message}\n{remedy}" if remedy else message)
