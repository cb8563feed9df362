"""Character devices: sockets, files, the mux."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from monitor.chardev import Backend, ChardevError, MuxBackend, open_chardev
from monitor.options import ChardevSpec


class Listener:
    """A front end that writes down what happens."""

    def __init__(self) -> None:
        self.log: list[str | bytes] = []

    def opened(self) -> None:
        self.log.append("opened")

    def received(self, data: bytes) -> None:
        self.log.append(data)

    def closed(self) -> None:
        self.log.append("closed")


def spec(backend: str, *, mux: bool = False, **params: str) -> ChardevSpec:
    return ChardevSpec("id", backend, params, "-chardev …", mux=mux)


def quiet(line: str) -> None:
    raise AssertionError(f"nothing should have been reported: {line}")


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 10))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def started(backend: Backend) -> Listener:
    listener = Listener()
    backend.connect(listener)
    backend.attach(asyncio.get_running_loop())
    await asyncio.sleep(0)
    return listener


def test_a_file_is_written_at_once_and_truncated_first(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    backend = open_chardev(spec("file", path=str(path)))
    backend.open(quiet)
    backend.write(b"new")
    assert path.read_bytes() == b"new"
    backend.close()
    again = open_chardev(spec("file", path=str(path), append="on"))
    again.open(quiet)
    again.write(b"er")
    again.close()
    assert path.read_bytes() == b"newer"


def test_a_file_that_cannot_be_opened_is_told_as_qemu_does() -> None:
    with pytest.raises(ChardevError, match="^Could not open '/nonexistent/x': No such file or"):
        open_chardev(spec("file", path="/nonexistent/x")).open(quiet)


def test_waiting_for_a_client_is_reported_and_blocks(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    backend = open_chardev(spec("socket", path=path, server="on"))
    reports: list[str] = []
    thread = threading.Thread(target=backend.open, args=(reports.append,))
    thread.start()
    client = socket.socket(socket.AF_UNIX)
    while not os.path.exists(path) or not reports:
        thread.join(0.01)
    assert thread.is_alive()
    assert reports == [f"QEMU waiting for connection on: disconnected:unix:{path},server=on"]
    client.connect(path)
    thread.join(5)
    assert not thread.is_alive() and backend.filename == f"unix:{path},server=on"
    client.close()
    backend.close()


def test_a_listening_socket_serves_one_client_after_the_other(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def story() -> None:
        backend = open_chardev(spec("socket", path=path, server="on", wait="off"))
        backend.open(quiet)
        listener = await started(backend)
        backend.write(b"nobody hears this")
        first, writer = await asyncio.open_unix_connection(path)
        await until(lambda: listener.log == ["opened"])
        second, second_writer = await asyncio.open_unix_connection(path)
        backend.write(b"one")
        assert await first.read(10) == b"one"
        writer.write(b"hello")
        await until(lambda: listener.log[-1] == b"hello")
        writer.close()
        await until(lambda: listener.log[-1] == "opened")
        assert listener.log == ["opened", b"hello", "closed", "opened"]
        backend.write(b"two")
        assert await second.read(10) == b"two"
        backend.write(b"last words")
        backend.close()
        assert await second.read() == b"last words"
        second_writer.close()
    run(story)
    assert not os.path.exists(path)


def test_a_socket_file_left_behind_is_replaced_but_not_one_made_since(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("left behind")
    backend = open_chardev(spec("socket", path=str(path), server="on", wait="off"))
    backend.open(quiet)
    path.unlink()
    path.write_text("somebody else's")
    backend.close()
    assert path.read_text() == "somebody else's"


def test_a_connecting_socket_connects_and_ends_with_its_peer(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def story() -> None:
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()
        backend = open_chardev(spec("socket", path=path))
        backend.open(quiet)
        peer = server.accept()[0]
        listener = await started(backend)
        peer.sendall(b"x")
        await until(lambda: listener.log[-1] == b"x")
        peer.close()
        await until(lambda: listener.log[-1] == "closed")
        backend.write(b"into the void")
        backend.close()
        server.close()
    run(story)


def test_tcp_works_like_unix() -> None:
    async def story() -> None:
        backend = open_chardev(spec("socket", host="127.0.0.1", port="0", server="on", wait="off"))
        backend.open(quiet)
        listener = await started(backend)
        port = backend.filename.split(":")[3].split(",")[0]
        assert backend.filename == f"disconnected:tcp:127.0.0.1:{port},server=on"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(b"ping")
        await until(lambda: listener.log == ["opened", b"ping"])
        backend.write(b"pong")
        assert await reader.read(10) == b"pong"
        writer.close()
        backend.close()
    run(story)


@pytest.mark.parametrize(("params", "problem"), [
    ({"path": "/nonexistent/s", "server": "on"},
     "Failed to bind socket to /nonexistent/s: No such file or directory"),
    ({"path": "/nonexistent/s"},
     "Failed to connect to '/nonexistent/s': No such file or directory"),
    ({"host": "127.0.0.1", "port": "1"},
     "Failed to connect to '127.0.0.1:1': Connection refused"),
    ({"path": "", "server": "on"}, "Failed to bind socket to : No such file or directory")])
def test_a_socket_that_does_not_open_says_why(params: dict[str, str], problem: str) -> None:
    with pytest.raises(ChardevError) as caught:
        open_chardev(ChardevSpec("id", "socket", params, None)).open(quiet)
    assert str(caught.value) == problem


def test_a_port_that_is_taken_is_told() -> None:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    with pytest.raises(ChardevError, match="^Failed to find an available port: Address already"):
        open_chardev(spec("socket", host="127.0.0.1", port=str(taken.getsockname()[1]),
                          server="on")).open(quiet)
    taken.close()


def test_what_threads_write_arrives_whole_and_in_order(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def story() -> None:
        backend = open_chardev(spec("socket", path=path, server="on", wait="off"))
        backend.open(quiet)
        await started(backend)
        reader, writer = await asyncio.open_unix_connection(path)
        await asyncio.sleep(0.01)

        def guest() -> None:
            for i in range(20000):
                backend.write(b"%05d\n" % i)

        thread = threading.Thread(target=guest)
        thread.start()
        got = await reader.readexactly(20000 * 6)
        thread.join()
        assert got == b"".join(b"%05d\n" % i for i in range(20000))
        writer.close()
        backend.close()
    run(story)


def test_a_paused_socket_is_not_read(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def story() -> None:
        backend = open_chardev(spec("socket", path=path, server="on", wait="off"))
        backend.open(quiet)
        listener = await started(backend)
        _, writer = await asyncio.open_unix_connection(path)
        await until(lambda: listener.log == ["opened"])
        backend.pause()
        writer.write(b"later")
        await asyncio.sleep(0.02)
        assert listener.log == ["opened"]
        backend.resume()
        await until(lambda: listener.log == ["opened", b"later"])
        writer.close()
        backend.close()
    run(story)


def test_what_is_offered_is_dropped_when_nobody_reads_and_that_is_said_once(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "s")

    async def story() -> None:
        backend = open_chardev(spec("socket", path=path, server="on", wait="off"))
        backend.open(quiet)
        listener = await started(backend)
        block = b"x" * 1024
        for client in (1, 2):
            reader, writer = await asyncio.open_unix_connection(path, limit=1 << 10)
            writer.transport.pause_reading()    # type: ignore[attr-defined]
            await until(lambda: listener.log[-1:] == ["opened"])
            for _ in range(4096):
                backend.offer(block)
                await asyncio.sleep(0)
            assert len(caplog.messages) == client
            # What is asked for gets through, whole, behind what was taken before.
            writer.write(b"?")
            await until(lambda: listener.log[-1] == b"?")
            backend.write(b"answer" * 1000)
            writer.transport.resume_reading()   # type: ignore[attr-defined]
            got = b""
            while not got.endswith(b"answer" * 1000):
                got += await reader.read(1 << 16)
            taken = got.removesuffix(b"answer" * 1000)
            assert len(taken) % 1024 == 0 and 1 << 20 <= len(taken) < 2 << 20
            # There is room again.
            backend.offer(b"more")
            assert await reader.readexactly(4) == b"more"
            writer.close()
            await until(lambda: listener.log[-1] == "closed")
        backend.close()
    run(story)
    assert path in caplog.messages[0]


class Line:
    """A backend that is a list, for the mux."""

    filename = "line"

    def __init__(self) -> None:
        self.out = b""
        self.resumed = 0

    def write(self, data: bytes) -> None:
        self.out += data

    def pause(self) -> None:
        """Nothing to pause."""

    def resume(self) -> None:
        self.resumed += 1


def muxed() -> tuple[MuxBackend, Line, Listener, Listener]:
    line = Line()
    mux = MuxBackend(cast(Backend, line))
    fronts = Listener(), Listener()
    for front in fronts:
        mux.port().connect(front)
    mux.opened()
    return mux, line, *fronts


def test_a_muxs_input_goes_to_the_last_front_end_until_ctrl_a_c() -> None:
    mux, _, monitor, serial = muxed()
    mux.received(b"ab\x01")
    mux.received(b"ccd\x01ce")
    assert serial.log == ["opened", b"ab", b"e"]
    assert monitor.log == ["opened", b"cd"]


def test_ctrl_a_twice_is_one_and_what_is_unknown_is_dropped() -> None:
    mux, line, _, serial = muxed()
    mux.received(b"x\x01\x01y\x01zw")
    assert serial.log == ["opened", b"x\x01y", b"w"] or serial.log[1:] == [b"x\x01y", b"w"]
    mux.received(b"\x01h")
    assert b"C-a c" in line.out


def test_ctrl_a_x_ends_the_program() -> None:
    mux, line, _, _ = muxed()
    ended: list[bool] = []
    mux.on_quit(lambda: ended.append(True), "snooze")
    mux.received(b"\x01x")
    assert ended == [True] and line.out == b"snooze: Terminated\n\r"


def test_a_front_end_that_was_greeted_is_told_of_the_focus_instead() -> None:
    line = Line()
    mux = MuxBackend(cast(Backend, line))
    port = mux.port()
    front = Listener()
    port.connect(front)
    focused: list[bool] = []
    port.focused = lambda: focused.append(True)
    mux.opened()
    mux.received(b"\x01c")
    assert front.log == ["opened"] and focused == [True]
    mux.closed()
    assert front.log == ["opened", "closed"]


def test_nothing_comes_of_null() -> None:
    async def story() -> None:
        backend = open_chardev(spec("null"))
        backend.open(quiet)
        listener = await started(backend)
        backend.write(b"x")
        backend.close()
        assert listener.log == []
    run(story)
