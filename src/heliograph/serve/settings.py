"""What an operator may set, as frozen values; nothing here is read from the environment."""

from dataclasses import dataclass, field
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True)
class UploadLimits:
    """What an uploaded picture or clip may be, and what its decoder process may use.

    Attributes:
        max_bytes: size of the file.
        max_pixels: pixels of one picture.
        max_seconds: seconds of a clip.
        max_frames: frames of a clip at 24 frames per second.
        memory_bytes: address space of the decoder process.
        cpu_seconds: processor time of the decoder process.
        wall_seconds: time until the decoder process is ended.
        num_at_once: decoder processes that run at the same time.
    """

    max_bytes: int = 48 * MIB
    max_pixels: int = 4096 * 4096
    max_seconds: float = 30.0
    max_frames: int = 30 * 24
    memory_bytes: int = 2048 * MIB
    cpu_seconds: int = 20
    wall_seconds: float = 30.0
    num_at_once: int = 2


@dataclass(frozen=True)
class Limits:
    """How much clients may ask for.

    Attributes:
        upload: of an uploaded file.
        max_body_bytes: of one request's body; a file and a few fields fit.
        max_pixels: pixels of one frame that is made.
        max_job_seconds: length of one video.
        max_jobs: videos that wait or are being made; more are answered with 429.
        max_jobs_per_client: the same for one client.
        max_live: live sessions that run at once.
        max_live_per_client: the same for one client.
        max_viewers: connections that watch one session.
        max_stored_sessions: stopped, unsaved sessions that are kept; the oldest goes first.
        max_session_chunks: chunks of one session that are kept, an hour by default; the oldest go first.
        max_messages_per_second: of one socket.
        max_failed_keys: wrong keys of one address in a minute.
        min_free_bytes: below this no new work is accepted.
    """

    upload: UploadLimits = field(default_factory=UploadLimits)
    max_body_bytes: int = 50 * MIB
    max_pixels: int = 1_048_576
    max_job_seconds: float = 120.0
    max_jobs: int = 64
    max_jobs_per_client: int = 64
    max_live: int = 8
    max_live_per_client: int = 8
    max_viewers: int = 500
    max_stored_sessions: int = 50
    max_session_chunks: int = 3000
    max_messages_per_second: int = 20
    max_failed_keys: int = 10
    min_free_bytes: int = 128 * MIB


@dataclass(frozen=True)
class Settings:
    """One server.

    Attributes:
        data_dir: folder of the database and of all results; one server at a time uses it.
        host: address to listen on. Anything but loopback is reachable by others.
        port: to listen on; 0 takes a free one.
        api_key: what a client must show; None lets everyone in who can reach the address.
        abandon_seconds: a session that nobody watches stops after this time.
        max_pace: fastest playback that a client may ask for, as a multiple of 24 frames per second.
        max_batch: live sessions whose chunks are made in one pass.
        allowed_hosts: names a browser may know this server by, besides loopback and `host`.
        limits: how much clients may ask for.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    abandon_seconds: float = 60.0
    max_pace: float = 4.0
    max_batch: int = 4
    allowed_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
