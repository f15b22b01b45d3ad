"""A server with a fake maker, to be killed: `python -m tests.serve.fake_server FOLDER SECONDS`."""

import sys
from pathlib import Path

from heliograph.errors import UserError
from heliograph.serve.server import serve
from heliograph.serve.settings import Limits, Settings
from tests.serve.fakes import FakeMaker

if __name__ == "__main__":
    settings = Settings(Path(sys.argv[1]), port=0, limits=Limits(min_free_bytes=1))
    try:
        serve(settings, lambda: FakeMaker(seconds=float(sys.argv[2])), lambda address: print(address, flush=True))
    except UserError as error:
        sys.exit(str(error))
