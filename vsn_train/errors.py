"""The one error that means "your input is wrong": one message, exit code 2, no traceback."""


class InputError(Exception):
    """Wrong input. The message says what was found, what was expected and what to do."""
