"""Whatever the description of the API allows to be sent, the server keeps its head."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from heliograph.serve.settings import Limits
from tests.serve.harness import HTTP, Running, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = Limits(min_free_bytes=1, max_jobs=3, max_live=3, max_job_seconds=2.0, max_pixels=64 * 128)
    with running(tmp_path_factory.mktemp("studio"), limits=limits, abandon_seconds=0.5) as live:
        yield live


def test_no_request_is_answered_with_a_server_error(server: Running) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json").exclude(path_regex="stream.mp4")  # has no end
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=6, suppress_health_check=list(HealthCheck))
        def answered(case: schemathesis.Case) -> None:
            answer = case.call()
            assert answer.status_code < 500, f"{case.as_curl_command()} was answered with {answer.text}"
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

        answered()


def test_the_description_names_every_route_of_the_contract(server: Running) -> None:
    paths = HTTP.get(f"{server.url}/openapi.json").json()["paths"]
    video, live = "/v1/videos/{video_id}", "/v1/live/{session_id}"
    assert {
        "/v1/videos",
        video,
        f"{video}/content",
        f"{video}/remix",
        "/v1/videos/edits",
        "/v1/videos/extensions",
    } <= set(paths)
    actions = ("prompt", "pause", "resume", "save", "fork", "rewind", "stream.mp4")
    assert {"/v1/live", live, *(f"{live}/{action}" for action in actions)} <= set(paths)
    assert {"/v1/models", "/healthz", "/readyz", "/metrics"} <= set(paths)
