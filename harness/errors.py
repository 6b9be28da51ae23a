"""The one error of the local tooling: a message that says what is wrong and what to do about it."""


class StackError(Exception):
    """An error that the user can act on: shown as one message, without a traceback."""
