"""Figures for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.375, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """One server's figures, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.chunk_seconds = Histogram(
            "heliograph_chunk_seconds",
            "Seconds to make and decode one pass of chunks",
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "heliograph_batch_size", "Chunks made in one pass", buckets=(1, 2, 3, 4, 6, 8), registry=registry
        )
        self.real_time_factor = Gauge(
            "heliograph_real_time_factor", "Seconds of video made per second, in the last pass", registry=registry
        )
        self.first_frame_seconds = Histogram(
            "heliograph_first_frame_seconds",
            "Seconds from starting a live session to its first frames",
            buckets=SECONDS,
            registry=registry,
        )
        self.open_jobs = Gauge("heliograph_open_jobs", "Videos that wait or are being made", registry=registry)
        self.jobs = Counter("heliograph_jobs", "Videos by how they ended", ["status"], registry=registry)
        self.live_sessions = Gauge("heliograph_live_sessions", "Live sessions that run", registry=registry)
        self.viewers = Gauge("heliograph_viewers", "Connections that watch", registry=registry)
        self.skipped_chunks = Counter(
            "heliograph_skipped_chunks", "Chunks that slow viewers were not sent", registry=registry
        )
        self.refused = Counter("heliograph_refused", "Requests refused for a limit", ["limit"], registry=registry)

    def text(self) -> bytes:
        """All figures in Prometheus' format."""
        return generate_latest(self.registry)
