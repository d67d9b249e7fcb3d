"""The WebSocket protocol itself, by Autobahn's cases (run by kosoku)."""

import kosoku
import pytest
from asgi_servers import on

# All there is but limits on speed (9) and compression (12, 13); Autobahn has no section 8.
SECTIONS = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]
CASES = 247


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "deviations"),
    [
        # A close between two fragments of a message: uvicorn answers with 1002, not 1000.
        on("websockets-sansio", ["7.1.5"]),
        on("websockets", []),
        on("wsproto", []),
    ],
)
async def test_an_echo_passes_the_cases_of_autobahn(start, kind, deviations):
    """Framing, pings, reserved bits, opcodes, fragments, UTF-8, closing: as the RFC has it."""
    server = start(kind, "echo:app")

    try:
        results = await kosoku.run_fuzzingclient(server.url("/echo"), SECTIONS, concurrency=16)
    except kosoku.FailureError as failure:
        results = failure.results

    assert len(results) >= CASES
    assert [each.case_id for each in results if not each.passed] == deviations
    assert "falcon_pachinko" not in server.output
