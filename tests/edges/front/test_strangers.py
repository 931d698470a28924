"""Whatever strangers send, the front survives."""

from __future__ import annotations

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edges.front.conftest import GET, QUICK, UPGRADE, Serve, echo, send_as_far_as_it_goes

PIECES = st.sampled_from(
    [GET, UPGRADE, b"POST / HTTP/1.1\r\n", b"Host: x\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n", b"5\r\n", b"%00"]
)


@pytest.mark.slow
async def test_whatever_comes_the_front_goes_on(serve: Serve) -> None:
    """Random bytes and shuffled pieces of requests: every connection ends, the server never."""
    served = await serve(upgrade=echo, limits=QUICK)
    token = trio.lowlevel.current_trio_token()

    async def send(data: bytes) -> None:
        client = await served.client()
        await send_as_far_as_it_goes(client, data)
        await client.stream.send_eof()
        with trio.fail_after(5):
            try:
                while await client.stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                return

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.one_of(st.binary(max_size=2000), st.lists(PIECES | st.binary(max_size=30)).map(b"".join)))
    def throw(data: bytes) -> None:
        trio.from_thread.run(send, data, trio_token=token)

    await trio.to_thread.run_sync(throw)
    assert await served.is_well()
