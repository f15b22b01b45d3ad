"""What went wrong on the user's side: each message says what was wrong, what was given and what to do."""


class UserError(ValueError):
    """Something the user gave cannot be used. The command line prints it on one line and exits with 2."""


class CheckpointError(UserError):
    """A model folder is missing, incomplete, of another architecture or damaged."""


class MediaError(UserError):
    """An image or video file cannot be read, or is larger than the limits allow."""


class OutputError(UserError):
    """A result cannot be written where it was asked to go."""


class StateError(UserError):
    """A saved session is damaged, of another version or of another model."""
