"""Whatever strangers send: a clear answer, nothing at ERROR in the log, and the daemon goes on serving."""

from __future__ import annotations

import base64
import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.process.running import Daemon, Reply, StartDaemon

QUICK = {"simulate": {"queue": "0s", "run": "0s"}}
HUGE_BYTES = 100_000_000
TOKEN = "a-token-for-tests"

UPGRADE = {
    "Host": "127.0.0.1",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
}


@pytest.fixture(scope="module")
def daemon(start_shared_daemon: StartDaemon) -> Daemon:
    return start_shared_daemon()


@pytest.fixture(scope="module")
def guarded(start_shared_daemon: StartDaemon) -> Daemon:
    """A daemon whose TCP port asks for a token, and then takes tasks too."""
    return start_shared_daemon(tcp='token = "${env:TOKEN}"\nallow_writes = true\n', environ={"TOKEN": TOKEN})


@pytest.fixture(autouse=True)
def _goes_on_serving(daemon: Daemon) -> Iterator[None]:
    yield
    task = daemon.client.submit("sim", input=QUICK)
    assert daemon.client.wait(task["id"], 10)["status"] == "succeeded"


@pytest.fixture(scope="module", autouse=True)
def half_request(daemon: Daemon) -> Iterator[socket.socket]:
    """A client that began a request when this module's tests began, and then fell silent."""
    with socket.create_connection(_address(daemon), timeout=20) as client:
        client.sendall(b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half")
        yield client


def _address(daemon: Daemon) -> tuple[str, int]:
    host, _, port = daemon.tcp_url.removeprefix("http://").partition(":")
    return host, int(port)


def read_all(client: socket.socket) -> bytes:
    """What comes until the other side closes."""
    client.settimeout(20)
    received = b""
    while some := client.recv(1 << 16):
        received += some
    return received


def send_raw(daemon: Daemon, data: bytes, *, tcp: bool = False) -> bytes:
    """Send bytes, end the sending half, and return all that comes back."""
    with socket.socket(socket.AF_INET if tcp else socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(_address(daemon) if tcp else str(daemon.socket))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


def upgrade(daemon: Daemon, changes: dict[str, str], target: str = "/v1/stream") -> bytes:
    """The answer to an upgrade request whose headers are changed like this; "" leaves one out."""
    headers = {name: value for name, value in (UPGRADE | changes).items() if value}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return send_raw(daemon, f"GET {target} HTTP/1.1\r\n{head}\r\n".encode(), tcp=True)


def code_of(reply: Reply) -> tuple[int, str]:
    """The status and the stable code of a problem, which has the right type."""
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json["status"] == reply.status
    return reply.status, reply.json["code"]


def pointer_of(reply: Reply) -> str:
    """Where in the body the mistake is."""
    (error,) = reply.json["errors"]
    return str(error["pointer"])


def test_unknown_algorithm(daemon: Daemon) -> None:
    """An algorithm that does not exist is refused with one that resembles it."""
    reply = daemon.call("POST", "/v1/tasks", {"algorithm": "simm", "input": {}})
    assert code_of(reply) == (422, "unknown_algorithm")
    assert 'did you mean "sim"?' in reply.json["detail"]
    assert pointer_of(reply) == "/algorithm"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b'{"algorithm": "sim", "input": {}} trailing', b"{" * 50_000],
    ids=lambda body: repr(body[:12]),
)
def test_no_task_at_all(daemon: Daemon, body: bytes) -> None:
    """What is no JSON object is refused."""
    assert code_of(daemon.call("POST", "/v1/tasks", body)) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("field", "pointer"),
    [
        ({"algorithm": 7}, "/algorithm"),
        ({"priority": "high"}, "/priority"),
        ({"priority": 101}, "/priority"),
        ({"labels": {"a": 1}}, "/labels"),
        ({"labels": {"a": "x" * 201}}, "/labels"),
        ({"labels": {f"name-{number}": "" for number in range(33)}}, "/labels"),
        ({"user": ["ada"]}, "/user"),
        ({"key": ""}, "/key"),
        ({"id": "../etc"}, "/id"),
        ({"id": "new-line\n"}, "/id"),
        ({"id": "x" * 65}, "/id"),
        ({"deadline": "soon"}, "/deadline"),
        ({"deadline": -1}, "/deadline"),
        ({"deadline": 1e300}, "/deadline"),
        ({"start_at": "tomorrow"}, "/start_at"),
        ({"start_at": "2030-01-01T00:00:00"}, "/start_at"),
        ({"start_at": "0001-01-01T00:00:00+14:00"}, "/start_at"),
        ({"start_at": "9999-12-31T23:59:59-14:00"}, "/start_at"),
        ({"traceparent": "00-1-2-3"}, "/traceparent"),
        ({"labls": {}}, "/labls"),
        ({"a/b~c": 1}, "/a~1b~0c"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_wrong_fields(daemon: Daemon, field: dict[str, Any], pointer: str) -> None:
    """A field of the wrong type, out of range or unknown is refused, with a pointer to it."""
    reply = daemon.call("POST", "/v1/tasks", {"algorithm": "sim", "input": QUICK, **field})
    assert code_of(reply) == (400, "invalid_request")
    assert pointer_of(reply) == pointer


def test_unknown_field_has_a_suggestion(daemon: Daemon) -> None:
    """An unknown field that resembles a known one is answered with that."""
    reply = daemon.call("POST", "/v1/tasks", {"algorithm": "sim", "input": {}, "labls": {}})
    assert 'did you mean "labels"?' in reply.json["detail"]


@pytest.mark.parametrize("content", [{}, {"input": {}, "job": "j"}], ids=["neither", "both"])
def test_input_or_job(daemon: Daemon, content: dict[str, object]) -> None:
    """A task has either an input or a job."""
    reply = daemon.call("POST", "/v1/tasks", {"algorithm": "sim", **content})
    assert code_of(reply) == (400, "invalid_request")
    assert "input" in reply.json["detail"]
    assert "job" in reply.json["detail"]


def test_every_id_that_is_taken_can_be_shown(daemon: Daemon) -> None:
    """No id that a client may choose collides with a path of the API."""
    for task_id in ("batch", "cancel", "a:b.c_d-e"):
        task = daemon.client.submit("sim", input=QUICK, id=task_id)
        assert daemon.call("GET", f"/v1/tasks/{task_id}").status == 200, task_id
        assert daemon.client.wait(task["id"], 10)["status"] == "succeeded"


def test_a_batch_answers_line_by_line(daemon: Daemon) -> None:
    """A bad line of a batch is answered with its problem; the others are taken."""
    good = b'{"algorithm": "sim", "input": {"simulate": {"run": "0s"}}}'
    reply = daemon.call("POST", "/v1/tasks/batch", b"\n".join([good, b"{", good, b'{"algorithm": "simm", "input": 1}']))
    rows = [line.decode() for line in reply.body.splitlines()]
    assert reply.status == 200
    assert ['"accepted"' in row for row in rows] == [True, False, True, False]
    assert [name for name in ("invalid_request", "unknown_algorithm") if name in rows[1] + rows[3]] == [
        "invalid_request",
        "unknown_algorithm",
    ]


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize("framing", ["Content-Length: 100000000", "Transfer-Encoding: chunked"])
def test_huge_body(daemon: Daemon, framing: str, *, tcp: bool) -> None:
    """A body of 100 MB is refused: at once by its length, or as soon as the limit is passed; the answer arrives."""
    piece = b"x" * 0x10000
    chunk = b"%x\r\n%s\r\n" % (len(piece), piece) if "chunked" in framing else piece
    with socket.socket(socket.AF_INET if tcp else socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(_address(daemon) if tcp else str(daemon.socket))
        client.sendall(f"POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\n{framing}\r\n\r\n".encode())
        sent_bytes = 0
        # The daemon need not read on for ever after its answer; that may break a send, but must not lose the answer.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent_bytes < HUGE_BYTES and not select.select([client], [], [], 0)[0]:
                client.sendall(chunk)
                sent_bytes += len(piece)
        answer = client.recv(1 << 16)
    # Over TCP, where nobody may write, not even the length counts.
    assert answer.startswith(b"HTTP/1.1 403 " if tcp else b"HTTP/1.1 413 ")
    assert (b"read_only" if tcp else b"too_large") in answer
    assert sent_bytes < 2 * (16 << 20)


@pytest.mark.parametrize(
    "head",
    [
        "X-Long: " + "x" * (65 << 10),
        "\r\n".join(f"X-{number}: {'y' * 600}" for number in range(120)),
        "\r\n".join(f"X-{number}: y" for number in range(101)),
    ],
    ids=["one long field", "many long fields", "many short fields"],
)
def test_huge_head(daemon: Daemon, head: str) -> None:
    """A head of more than 64 KiB, or of more than a hundred fields, is refused."""
    answer = send_raw(daemon, f"GET /v1/status HTTP/1.1\r\nHost: creche\r\n{head}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"header_too_large" in answer


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"\x00" * 100,
        b"HELO mail.example\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /%00 HTTP/1.1\r\nHost: creche\r\n\r\n",
        b"GET /%ff HTTP/1.1\r\nHost: creche\r\n\r\n",
        b"POST /v1/tasks HTTP/1.1\r\nHost: creche\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/tasks HTTP/1.1\r\nHost: creche\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        b"POST /v1/tasks HTTP/1.1\r\nHost: creche\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET http://creche/v1/status HTTP/1.1\r\nHost: creche\r\n\r\n",
    ],
    ids=lambda data: repr(data[:30]),
)
def test_no_http(daemon: Daemon, data: bytes) -> None:
    """Binary garbage, other protocols and malformed HTTP are answered 400."""
    answer = send_raw(daemon, data)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"malformed_request" in answer


def test_random_garbage(daemon: Daemon) -> None:
    """Random bytes do no harm, wherever they stand in a request."""
    for start in (
        b"",
        b"GET /",
        b"GET / HTTP/1.1\r\n",
        b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n",
    ):
        for _ in range(20):
            answer = send_raw(daemon, start + os.urandom(200))
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


def test_clients_that_hang_up(daemon: Daemon) -> None:
    """Clients that go in the midst of a request, or of its answer, leave nothing behind."""
    body = b'{"algorithm": "sim", "input": {"simulate": {"run": "0s"}}}'
    whole = b"POST /v1/tasks HTTP/1.1\r\nHost: creche\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    for length in range(0, len(whole) + 1, 7):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.socket))
            client.sendall(whole[:length])


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/v1/tasks?stauts=accepted", "invalid_request"),
        ("/v1/tasks?status=done", "invalid_request"),
        ("/v1/tasks?limit=0", "invalid_request"),
        ("/v1/tasks?limit=1&limit=2", "invalid_request"),
        ("/v1/tasks?label=team", "invalid_request"),
        ("/v1/results?limit=lots", "invalid_request"),
        ("/v1/status?x=1", "invalid_request"),
    ],
)
def test_bad_query(daemon: Daemon, target: str, code: str) -> None:
    """An unknown or unreadable query parameter is an error that names it."""
    reply = daemon.call("GET", target)
    assert code_of(reply) == (400, code)
    assert target.partition("?")[2].partition("=")[0] in reply.json["detail"]


def test_no_such_path(daemon: Daemon) -> None:
    """Nothing is at other paths, and no task has other ids."""
    assert code_of(daemon.call("GET", "/v2/tasks")) == (404, "no_such_route")
    assert code_of(daemon.call("GET", "/v1/tasks/")) == (404, "no_such_route")
    assert code_of(daemon.call("GET", "/v1/tasks/nobody")) == (404, "task_not_found")
    assert code_of(daemon.call("POST", "/v1/tasks/nobody/cancel")) == (404, "task_not_found")


def test_wrong_method(daemon: Daemon) -> None:
    """A path that serves other methods names them."""
    reply = daemon.call("DELETE", "/v1/tasks")
    assert code_of(reply) == (405, "method_not_allowed")
    assert {"GET", "POST"} <= set(reply.headers["allow"].split(", "))


def test_key_used_again(daemon: Daemon) -> None:
    """A key with the same content gives the first task, with other content a conflict."""
    task = {"algorithm": "sim", "input": QUICK, "key": "order-1"}
    first, again = daemon.call("POST", "/v1/tasks", task), daemon.call("POST", "/v1/tasks", task)
    assert (first.status, again.status, again.json["id"]) == (202, 200, first.json["id"])
    other = daemon.call("POST", "/v1/tasks", task | {"input": {"simulate": {"run": "9s"}}})
    assert code_of(other) == (409, "key_conflict")
    assert first.json["id"] in other.json["detail"]


def test_tcp_only_reads(daemon: Daemon) -> None:
    """Over TCP the default is to read only; what a browser would send is refused for its origin."""
    task = {"algorithm": "sim", "input": QUICK}
    assert code_of(daemon.call("POST", "/v1/tasks", task, tcp=True)) == (403, "read_only")
    assert daemon.call("GET", "/v1/status", tcp=True).status == 200
    origin = {"Origin": "https://evil.example"}
    assert code_of(daemon.call("POST", "/v1/tasks", task, tcp=True, headers=origin)) == (403, "forbidden_origin")


def test_tcp_answers_to_its_own_names(daemon: Daemon) -> None:
    """Another name in Host, as after DNS rebinding, is refused, for upgrades too."""
    evil = {"Host": "evil.example"}
    assert code_of(daemon.call("GET", "/v1/status", tcp=True, headers=evil)) == (421, "misdirected")
    assert upgrade(daemon, evil).startswith(b"HTTP/1.1 421 ")
    assert daemon.call("GET", "/v1/status", tcp=True, headers={"Host": "localhost:1"}).status == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, b"101"),
        ({"Origin": "https://evil.example"}, b"403"),
        ({"Origin": "null"}, b"403"),
        ({"Sec-WebSocket-Version": "99"}, b"4"),
        ({"Sec-WebSocket-Key": ""}, b"4"),
        ({"Upgrade": "h2c"}, b"426"),
    ],
    ids=str,
)
def test_upgrades(daemon: Daemon, changes: dict[str, str], status: bytes) -> None:
    """Pages of other origins may not listen; what is no proper WebSocket request is refused, and never silently."""
    answer = upgrade(daemon, changes)
    assert answer.startswith(b"HTTP/1.1 " + status), answer


def test_upgrade_with_a_bad_query(daemon: Daemon) -> None:
    """Unknown parameters of the stream are refused before the upgrade."""
    answer = upgrade(daemon, {}, "/v1/stream?algorythm=sim")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"invalid_request" in answer


@pytest.mark.parametrize(
    "frames",
    [
        b"\x81\x05hello",
        b"\xff\xff\xff\xff",
        b"\x81\xff" + b"\x7f" * 8 + bytes(5000),
        b"\x82\xfe\xff\xff" + bytes(70_000),
    ],
    ids=["unmasked", "no opcode", "endless", "too long"],
)
def test_bad_frames(daemon: Daemon, frames: bytes) -> None:
    """A listener that breaks the protocol is cut off; nobody else notices."""
    with socket.create_connection(_address(daemon), timeout=20) as client:
        head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        client.sendall(f"GET /v1/stream HTTP/1.1\r\n{head}\r\n".encode())
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 101 ")
        client.sendall(frames)
        client.settimeout(20)
        try:
            while client.recv(1 << 16):
                pass
        except ConnectionResetError:
            return


def test_token(guarded: Daemon) -> None:
    """With a token configured, TCP answers nothing without it but the probes; with it, writing is allowed where set."""
    assert code_of(_tcp(guarded, "GET", "/v1/status")) == (401, "unauthorized")
    assert _tcp(guarded, "GET", "/v1/status").headers["www-authenticate"] == "Bearer"
    assert _tcp(guarded, "GET", "/v1/status", "wrong").status == 401
    assert _tcp(guarded, "GET", "/v1/status", TOKEN).status == 200
    assert _tcp(guarded, "GET", f"/v1/status?token={TOKEN}").status == 200
    assert _tcp(guarded, "GET", "/healthz").status == 200
    assert _tcp(guarded, "GET", "/metrics").status == 401
    assert _tcp(guarded, "POST", "/v1/tasks", TOKEN).status == 400, (
        "the token lets it through to the reading of the body"
    )
    assert upgrade(guarded, {}).startswith(b"HTTP/1.1 401 ")
    assert upgrade(guarded, {}, f"/v1/stream?token={TOKEN}").startswith(b"HTTP/1.1 101 ")
    encoded = base64.urlsafe_b64encode(TOKEN.encode()).decode()
    taken = upgrade(guarded, {"Sec-WebSocket-Protocol": f"creche, token.{encoded}"})
    assert taken.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-protocol: creche\r\n" in taken.lower()
    assert encoded.encode() not in taken
    assert TOKEN not in guarded.log.read_text()
    assert encoded not in guarded.log.read_text()


def test_the_dashboard_is_open(guarded: Daemon) -> None:
    """Its files hold no secret; what they ask for needs the token. Whatever its address says is for the page itself."""
    assert _tcp(guarded, "GET", "/?view=ended&task=t").headers["content-type"].startswith("text/html")
    assert _tcp(guarded, "GET", "/dashboard/main.js").headers["content-type"].startswith("text/javascript")
    assert code_of(_tcp(guarded, "GET", "/dashboard/..%2fconfig.py")) == (404, "no_such_route")


def _tcp(daemon: Daemon, method: str, target: str, token: str = "") -> Reply:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return daemon.call(method, target, tcp=True, headers=headers)


def test_half_a_request_and_silence(half_request: socket.socket) -> None:
    """A request that does not go on is answered 408 after ten seconds, and the connection is closed."""
    began = time.monotonic()
    answer = read_all(half_request)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer
    assert time.monotonic() - began < 15
