"""What the server remembers of videos, live sessions and their chunks: the questions it asks its database."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from heliograph.serve.database import Database
from heliograph.serve.ids import new_id
from heliograph.serve.records import ChunkRecord, Job, JobPlan, JobStatus, LivePlan, LiveRecord

OPEN = "('queued', 'in_progress')"


class Store:
    """Records in, records out. Every method that writes is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # Videos

    def add_job(
        self, job_id: str, plan: JobPlan, made_with: str, client: str, chunks: Sequence[ChunkRecord] = ()
    ) -> Job:
        """Accept a video, with the chunks that it has already."""
        job = Job(job_id, int(time.time()), None, "queued", made_with, plan, client, plan.kept_chunks, None)
        with self.database.writing() as connection:
            connection.execute(
                "INSERT INTO jobs (id, created_at, status, made_with, plan, client, num_done)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (job.id, job.created_at, job.status, made_with, plan.as_json(), client, job.num_done),
            )
            _insert(connection, chunks)
        return job

    def job(self, job_id: str) -> Job | None:
        """The video of this name."""
        row = self.database.row("SELECT * FROM jobs WHERE id = ?", (job_id,))
        return None if row is None else Job.from_row(row)

    def jobs(self, *, after: str | None, limit: int, order: Literal["asc", "desc"]) -> list[Job]:
        """A page of videos in the order they were accepted, or the other way round."""
        sign, way = (">", "ASC") if order == "asc" else ("<", "DESC")
        where, values = "", ()
        if after is not None:
            where, values = f"WHERE number {sign} (SELECT number FROM jobs WHERE id = ?)", (after,)
        query = f"SELECT * FROM jobs {where} ORDER BY number {way} LIMIT ?"
        return [Job.from_row(row) for row in self.database.rows(query, (*values, limit))]

    def open_jobs(self) -> list[Job]:
        """Videos that wait or are being made, oldest first."""
        return [
            Job.from_row(r) for r in self.database.rows(f"SELECT * FROM jobs WHERE status IN {OPEN} ORDER BY number")
        ]

    def num_open_jobs(self, client: str | None = None) -> int:
        """How many videos wait or are being made, in all or for one client."""
        row = self.database.row(
            f"SELECT COUNT(*) FROM jobs WHERE status IN {OPEN} AND (?1 IS NULL OR client = ?1)", (client,)
        )
        assert row is not None
        return row[0]

    def set_job_status(self, job_id: str, status: JobStatus, error: dict[str, Any] | None = None) -> None:
        """A video goes on, is finished, or has failed."""
        completed_at = int(time.time()) if status == "completed" else None
        with self.database.writing() as connection:
            connection.execute(
                "UPDATE jobs SET status = ?, completed_at = ?, error = ? WHERE id = ?",
                (status, completed_at, json.dumps(error) if error else None, job_id),
            )

    def owners(self) -> set[str]:
        """Names of all videos and sessions."""
        return {row["id"] for row in self.database.rows("SELECT id FROM jobs UNION ALL SELECT id FROM sessions")}

    def delete_owner(self, owner: str) -> None:
        """Forget a video or a session, and its chunks."""
        with self.database.writing() as connection:
            for table, column in (("jobs", "id"), ("sessions", "id"), ("chunks", "owner")):
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (owner,))

    # Sessions

    def add_session(
        self, session_id: str, plan: LivePlan, client: str, name: str = "", chunks: Sequence[ChunkRecord] = ()
    ) -> LiveRecord:
        """A new live session, with the chunks that it has already."""
        now, tip = int(time.time()), chunks[-1].id if chunks else None
        with self.database.writing() as connection:
            connection.execute(
                "INSERT INTO sessions (id, created_at, updated_at, plan, client, tip, is_saved, name)"
                " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                (session_id, now, now, plan.as_json(), client, tip, name),
            )
            _insert(connection, chunks)
        return LiveRecord(session_id, now, now, plan, client, tip, is_saved=False, name=name)

    def session(self, session_id: str) -> LiveRecord | None:
        """The session of this name."""
        row = self.database.row("SELECT * FROM sessions WHERE id = ?", (session_id,))
        return None if row is None else LiveRecord.from_row(row)

    def sessions(self, *, after: str | None, limit: int) -> list[LiveRecord]:
        """A page of sessions, newest first."""
        where, values = "", ()
        if after is not None:
            where, values = "WHERE number < (SELECT number FROM sessions WHERE id = ?)", (after,)
        rows = self.database.rows(f"SELECT * FROM sessions {where} ORDER BY number DESC LIMIT ?", (*values, limit))
        return [LiveRecord.from_row(row) for row in rows]

    def unsaved_sessions(self) -> list[str]:
        """Names of sessions that nobody asked to keep, the longest untouched first."""
        return [
            r["id"]
            for r in self.database.rows("SELECT id FROM sessions WHERE NOT is_saved ORDER BY updated_at, number")
        ]

    def keep_session(self, session_id: str, name: str) -> None:
        """Keep a session until it is deleted, under a name that its user chose."""
        with self.database.writing() as connection:
            connection.execute("UPDATE sessions SET is_saved = 1, name = ? WHERE id = ?", (name, session_id))

    def move_tip(self, session_id: str, tip: str | None) -> None:
        """The session goes on after another chunk."""
        with self.database.writing() as connection:
            connection.execute(
                "UPDATE sessions SET tip = ?, updated_at = ? WHERE id = ?", (tip, int(time.time()), session_id)
            )

    def set_pace(self, session_id: str, plan: LivePlan) -> None:
        """The session is played at another speed."""
        with self.database.writing() as connection:
            connection.execute("UPDATE sessions SET plan = ? WHERE id = ?", (plan.as_json(), session_id))

    # Chunks

    def add_job_chunk(self, chunk: ChunkRecord) -> None:
        """A chunk of a video is on the disk."""
        with self.database.writing() as connection:
            _insert(connection, [chunk])
            connection.execute(
                "UPDATE jobs SET num_done = ?, status = 'in_progress' WHERE id = ?", (chunk.place + 1, chunk.owner)
            )

    def add_live_chunk(self, chunk: ChunkRecord) -> None:
        """A chunk of a session is on the disk, and the session goes on after it."""
        with self.database.writing() as connection:
            _insert(connection, [chunk])
            connection.execute(
                "UPDATE sessions SET tip = ?, updated_at = ? WHERE id = ?", (chunk.id, int(chunk.made_at), chunk.owner)
            )

    def drop_chunks(self, owner: str, place: int) -> None:
        """Forget the chunks of a video from this place on; they will be made again."""
        with self.database.writing() as connection:
            connection.execute("DELETE FROM chunks WHERE owner = ? AND place >= ?", (owner, place))
            connection.execute("UPDATE jobs SET num_done = ? WHERE id = ?", (place, owner))

    def forget_chunks(self, owner: str, place: int) -> list[ChunkRecord]:
        """Forget the chunks of a session up to this place on all paths; returns them."""
        rows = self.database.rows("SELECT * FROM chunks WHERE owner = ? AND place <= ?", (owner, place))
        if rows:
            with self.database.writing() as connection:
                connection.execute("DELETE FROM chunks WHERE owner = ? AND place <= ?", (owner, place))
        return [ChunkRecord.from_row(row) for row in rows]

    def chunk(self, owner: str, chunk_id: str) -> ChunkRecord | None:
        """One chunk of this owner."""
        row = self.database.row("SELECT * FROM chunks WHERE id = ? AND owner = ?", (chunk_id, owner))
        return None if row is None else ChunkRecord.from_row(row)

    def chunks(self, owner: str, *, first: int = 0, limit: int = -1) -> list[ChunkRecord]:
        """The owner's chunks on all paths, by place and then by age."""
        rows = self.database.rows(
            "SELECT * FROM chunks WHERE owner = ? AND place >= ? ORDER BY place, number LIMIT ?", (owner, first, limit)
        )
        return [ChunkRecord.from_row(row) for row in rows]

    def path(self, tip: str | None) -> list[ChunkRecord]:
        """The chunks that lead to `tip`, first to last, itself included."""
        rows = self.database.rows(
            """
            WITH RECURSIVE line AS (
                SELECT * FROM chunks WHERE id = ?
                UNION ALL SELECT chunks.* FROM chunks JOIN line ON chunks.id = line.parent
            ) SELECT * FROM line ORDER BY place
            """,
            (tip,),
        )
        return [ChunkRecord.from_row(row) for row in rows]


def copies_of(chunks: Sequence[ChunkRecord], owner: str) -> list[ChunkRecord]:
    """The same chunks once more, each after the one before it, under new names for another owner; not stored."""
    copies: list[ChunkRecord] = []
    for chunk in chunks:
        parent = copies[-1].id if copies else None
        copies.append(replace(chunk, id=new_id("chunk"), owner=owner, parent=parent))
    return copies


def _insert(connection: Any, chunks: Sequence[ChunkRecord]) -> None:
    """Store chunks; storing one again changes nothing."""
    connection.executemany(
        "INSERT OR IGNORE INTO chunks (id, owner, parent, place, prompt, figures, made_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(c.id, c.owner, c.parent, c.place, c.prompt, json.dumps(asdict(c.figures)), c.made_at) for c in chunks],
    )
