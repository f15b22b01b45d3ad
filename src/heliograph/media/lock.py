"""A folder that one run at a time may write."""

import fcntl
from pathlib import Path
from typing import IO

from heliograph.errors import OutputError

LOCK_FILE = ".lock"


def hold_folder(folder: Path) -> IO[bytes]:
    """A lock on the folder, held until the file is closed or the process ends, however it ends.

    Raises:
        OutputError: another process holds it, or the folder cannot be written.
    """
    lock = None
    try:
        lock = (folder / LOCK_FILE).open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if lock is None:
            raise OutputError(f"{folder} cannot be written ({error.strerror}); choose another place") from error
        lock.close()
        raise OutputError(f"another run is writing {folder}; wait for it, or choose another folder") from None
    return lock
