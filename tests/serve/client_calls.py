"""What a program with OpenAI's package does, whatever its version: `python -m tests.serve.client_calls URL CLIP`.

Prints what came back, as JSON. It runs in a process of its own, because two versions do not fit into one.
"""

import json
import sys
from pathlib import Path
from typing import Any

import openai


def calls(url: str, clip: Path) -> dict[str, Any]:
    """Every call that the package has for videos, in the order of a video's life."""
    client = openai.OpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)
    videos: Any = client.videos

    def done(video: Any) -> Any:
        return videos.poll(video.id, poll_interval_ms=20).to_dict()

    made = videos.create_and_poll(prompt="a red fish", seconds="4", size="64x64", poll_interval_ms=20)
    started = videos.create(prompt="snow", input_reference=clip, extra_body={"seconds": 1, "steps": [2, 2, 2]})
    answer: dict[str, Any] = {
        "version": openai.__version__,
        "made": videos.retrieve(made.id).to_dict(),
        "started": done(started),
        "remix": done(videos.remix(made.id, prompt="a blue fish")),
        "bytes": {
            v: len(videos.download_content(made.id, variant=v).read()) for v in ("video", "thumbnail", "spritesheet")
        },
    }
    if hasattr(videos, "edit"):
        answer["edit"] = done(videos.edit(prompt="rain", video=clip))
        answer["extend"] = done(videos.extend(prompt="a storm", seconds="4", video=clip))
        own = {"video": {"id": made.id}}
        answer["extend own"] = done(videos.extend(prompt="a storm", seconds="8", video=openai.omit, extra_body=own))
    listed = [video.id for video in videos.list(limit=2)]
    answer["listed"] = [len(listed), len(set(listed)), made.id in listed]
    answer["deleted"] = videos.delete(made.id).deleted
    for name, mistake in (
        ("gone", lambda: videos.retrieve(made.id)),
        ("size", lambda: videos.create(prompt="p", size="1x1")),
    ):
        try:
            mistake()
        except openai.APIStatusError as error:
            answer[name] = [type(error).__name__, error.code, error.param]
    return answer


if __name__ == "__main__":
    print(json.dumps(calls(sys.argv[1], Path(sys.argv[2]))))
