"""The one error that wrong input raises; the command line turns it into one line and exit code 2."""


class UserError(ValueError):
    """Wrong input from the user. The message is one line that names the file or field and the remedy."""
