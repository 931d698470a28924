"""Files of results, saved from a server that says what a test wants: whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from creche.core.assets import Asset
from creche.core.exchange import Call
from creche.edges.upstream_assets import AssetFiles
from creche.errors import AnswerError, Outage
from tests.edges.upstream.conftest import provider, read_request, saying

PICTURE = b"\x89PNG" + bytes(3 << 20)


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK", length: int | None = None) -> bytes:
    size = b"Content-Length: %d" % (len(body) if length is None else length)
    return b"\r\n".join((b"HTTP/1.1 " + status, *headers, size, b"", body))


def files(folder: Path, max_bytes: int = 8 << 20) -> AssetFiles:
    return AssetFiles(folder, max_bytes=max_bytes, run=trio.to_thread.run_sync)


async def saved(folder: Path, raw: bytes, *, path: str = "/out/heron.png", max_bytes: int = 8 << 20) -> Asset:
    async with provider(saying(raw)) as origin:
        return await files(folder, max_bytes).save("t-1", 0, Call(method="GET", url=origin + path))


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


async def test_a_file_is_saved_whole(tmp_path: Path) -> None:
    """It is called by its number and the ending of its URL; what is told of it is true."""
    asset = await saved(tmp_path, answer(PICTURE, b"Content-Type: image/png"))
    assert asset.path is not None
    path = Path(asset.path)
    assert path == tmp_path / "t-1" / "000.png"
    assert path.read_bytes() == PICTURE  # noqa: ASYNC240 - nothing else runs
    assert (asset.bytes, asset.media_type) == (len(PICTURE), "image/png")
    assert asset.sha256 == hashlib.sha256(PICTURE).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o640  # noqa: ASYNC240 - likewise


async def test_a_url_without_an_ending_gets_that_of_the_media_type(tmp_path: Path) -> None:
    """Signed URLs often have none."""
    asset = await saved(tmp_path, answer(b"x", b"Content-Type: video/mp4"), path="/f/1?X-Amz-Signature=a.b")
    assert asset.path == str(tmp_path / "t-1" / "000.mp4")


@pytest.mark.parametrize(
    "raw",
    [answer(b"x", length=2000), answer(b"x" * 2000), b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000],
    ids=["said", "said and sent", "not said"],
)
async def test_a_file_that_is_too_large_is_not_saved(tmp_path: Path, raw: bytes) -> None:
    """Whether its length says so, or it goes on and on."""
    with pytest.raises(AnswerError, match="1000"):
        await saved(tmp_path, raw, max_bytes=1000)
    assert left(tmp_path) == []


async def test_a_file_that_is_cut_off_is_not_saved(tmp_path: Path) -> None:
    """Another attempt may bring it."""
    with pytest.raises((Outage, AnswerError)):
        await saved(tmp_path, answer(b"half", length=8))
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (b"404 Not Found", AnswerError, "HTTP 404"),
        (b"403 Forbidden", AnswerError, "HTTP 403"),
        (b"302 Found", AnswerError, r"HTTP 302 \(redirects are not followed\)"),
        (b"503 Away", Outage, "HTTP 503"),
        (b"429 Later", Outage, "HTTP 429"),
    ],
)
async def test_an_error_answer_is_no_file(tmp_path: Path, status: bytes, error: type[Exception], words: str) -> None:
    """It is told apart whether another attempt may help."""
    with pytest.raises(error, match=words):
        await saved(tmp_path, answer(b"no", b"Location: http://169.254.169.254/", status=status))
    assert left(tmp_path) == []


async def test_a_server_that_is_not_there_is_an_outage(tmp_path: Path) -> None:
    """Nobody listens."""
    async with provider(saying(b"")) as origin:
        pass
    with pytest.raises(Outage):
        await files(tmp_path).save("t-1", 0, Call(method="GET", url=f"{origin}/x"))


async def test_what_is_no_http_is_an_error(tmp_path: Path) -> None:
    """It will not be next time, either."""
    with pytest.raises(AnswerError, match="not HTTP"):
        await saved(tmp_path, b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


async def test_a_cancelled_save_leaves_nothing(tmp_path: Path) -> None:
    """Half a file is on the disk when it is cut off; then it is not."""
    half = trio.Event()

    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(answer(bytes(2 << 20), length=4 << 20))
        half.set()
        await trio.sleep_forever()

    async with provider(handler) as origin, trio.open_nursery() as nursery:
        nursery.start_soon(files(tmp_path).save, "t-1", 0, Call(method="GET", url=f"{origin}/x.bin"))
        await half.wait()
        while not left(tmp_path):  # noqa: ASYNC110 - the disk tells nobody
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert left(tmp_path) == []


async def test_a_file_that_is_there_is_not_asked_for(tmp_path: Path) -> None:
    """It was saved before a crash; perhaps its URL has expired since."""
    first = await saved(tmp_path, answer(b"picture", b"Content-Type: image/png"))
    again = await files(tmp_path).save("t-1", 0, Call(method="GET", url=first.url))
    assert (again.path, again.bytes, again.sha256) == (first.path, first.bytes, first.sha256)


async def test_only_the_headers_of_the_call_are_sent(tmp_path: Path) -> None:
    """Whether there is a credential among them is decided elsewhere."""
    heard: list[bytes] = []

    async with provider(_hearing(heard)) as origin:
        call = Call(method="GET", url=f"{origin}/x", headers=(("Authorization", "Bearer k"), ("Accept", "*/*")))
        await files(tmp_path).save("t-1", 0, call)
        await files(tmp_path).save("t-1", 1, Call(method="GET", url=f"{origin}/x"))
    assert [b"Bearer k" in head for head in heard] == [True, False]


async def test_a_public_file_is_not_fetched_from_here(tmp_path: Path) -> None:
    """A URL that an answer named must not lead to our own network."""
    async with provider(saying(answer(b"secret"))) as origin:
        with pytest.raises(Outage, match="it has no public address"):
            await files(tmp_path).save("t-1", 0, Call(method="GET", url=f"{origin}/x", public_only=True))
    assert left(tmp_path) == []


async def test_a_folder_that_cannot_be_written_is_an_outage(tmp_path: Path) -> None:
    """It may be writable next time."""
    (tmp_path / "t-1").write_text("a file where the folder should be")
    with pytest.raises(Outage, match="cannot be written"):
        await saved(tmp_path, answer(b"x"))


@pytest.mark.parametrize("url", ["ftp://x.example/a", "nonsense", "http://[", "http://a b/"])
async def test_a_url_that_cannot_be_asked_is_an_error(tmp_path: Path, url: str) -> None:
    """Whatever a provider calls a URL."""
    with pytest.raises(AnswerError):
        await files(tmp_path).save("t-1", 0, Call(method="GET", url=url))


def _hearing(heard: list[bytes]) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def handler(stream: trio.SocketStream) -> None:
        heard.append(await read_request(stream))
        await stream.send_all(answer(b"x"))

    return handler
