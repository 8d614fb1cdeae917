"""Images behind the addresses of a table: fetched within limits, from public hosts, kept when they
are images."""

import io
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd3tune.data.addresses import public
from sd3tune.data.discover import Discovery, discover
from sd3tune.data.sources import source_of
from sd3tune.filesystem import drafts
from tests.image_folders import dataset
from tests.loopback import Answer, Handler, sends, serving

PUBLIC = "93.184.215.14"


def png(size: tuple[int, int] = (64, 64)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, "PNG")
    return out.getvalue()


def fetched(folder: Path, *urls: str, told: list[str] | None = None, **more: Any) -> Discovery:
    path = folder / "t.csv"
    path.write_text("filename,caption\n" + "".join(f"{u},words\n" for u in urls))
    base = {"instance_data_dir": None, "type": "csv", "caption_strategy": "csv",
            "csv": {"path": path}, "csv_cache_dir": folder / "kept"}  # fmt: skip
    settings = dataset(folder / "x", **(base | {"allow_private_hosts": True} | more))
    return discover(settings, source_of(settings, ([] if told is None else told).append))


def reason(folder: Path, answer: Answer, *, name: str = "/a.png", **more: Any) -> str:
    """Why an address is set aside, beside a good one."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    with serving(sends(png())) as good, serving(answer) as bad:
        got = fetched(folder, f"{good.address}/a.png", f"{bad.address}{name}", **more)
    assert len(got.samples) == 1 and len(list((folder / "kept").iterdir())) == 1
    (rejected,) = got.rejected
    return rejected.reason.removeprefix("cannot be read: cannot be fetched: ")


def test_a_file_longer_than_the_limit_is_not_fetched(tmp_path: Path) -> None:
    def endless(request: Handler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(1000):
            request.wfile.write(b"\0" * 2**20)

    why = "it is longer than max_download_mib=1"
    assert reason(tmp_path, endless, max_download_mib=1) == why
    said = sends(b"x", Content_Length=str(2**21))
    assert reason(tmp_path, said, max_download_mib=1) == why


def test_a_server_that_sends_a_byte_now_and_then_is_left_at_the_deadline(tmp_path: Path) -> None:
    def slow(request: Handler) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"x" * 300:
            request.wfile.write(bytes([byte]))
            request.wfile.flush()
            time.sleep(0.05)

    assert reason(tmp_path, slow, max_download_seconds=1) == "it took longer than 1 seconds"


def test_what_is_not_an_image_is_not_kept_and_asked_for_again(tmp_path: Path) -> None:
    answers = [b"<html>come back later</html>", png()[:20], png()]
    with serving(sends(png())) as good, serving(lambda r: sends(answers.pop(0))(r)) as server:
        for _ in range(2):
            got = fetched(tmp_path, f"{good.address}/b.png", f"{server.address}/a.png")
            assert "the download is not an image" in got.rejected[0].reason
        assert len(list((tmp_path / "kept").iterdir())) == 1
        assert (
            len(fetched(tmp_path, f"{good.address}/b.png", f"{server.address}/a.png").samples) == 2
        )
        assert len(server.asked) == 3 and len(good.asked) == 1
        page = next(p for p in (tmp_path / "kept").iterdir())
        page.write_bytes(b"<html>kept by an earlier version</html>")
        answers.append(png())
        assert (
            len(fetched(tmp_path, f"{good.address}/b.png", f"{server.address}/a.png").samples) == 2
        )


def test_what_a_killed_download_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    left, writing, mine = [kept / f"{name}.draft" for name in ("0" * 64, "1" * 64, "mine")]
    for path in (left, writing, mine):
        path.write_bytes(b"x")
    with drafts.drafted(writing), serving(sends(png())) as server:  # as another process does
        fetched(tmp_path, f"{server.address}/a.png")
    assert sorted(kept.glob("*.draft")) == [writing, mine]


def test_a_server_that_is_busy_is_asked_a_few_times(tmp_path: Path) -> None:
    states = [503, 429, 200]
    with serving(lambda r: sends(png(), states.pop(0), Retry_After="0")(r)) as server:
        assert len(fetched(tmp_path, f"{server.address}/a.png").samples) == 1
        assert len(server.asked) == 3
    assert reason(tmp_path, sends(b"", 404)) == "the server answers 404"


def test_a_broken_answer_is_not_kept(tmp_path: Path) -> None:
    cut = sends(png(), Content_Length=str(len(png()) + 10))
    assert "the connection broke" in reason(tmp_path, cut)
    packed = sends(png(), Content_Encoding="gzip")
    assert "sends it as gzip" in reason(tmp_path, packed)


@pytest.mark.parametrize(
    "target, why",
    [("file:///etc/passwd", "its address is file, not http or https"),
     ("ftp://127.0.0.1/a.png", "its address is ftp, not http or https"),
     ("/a.png", "more than 5 redirects"), ("http://[::1", "its address is not a URL")],
)  # fmt: skip
def test_redirects_lead_to_web_servers_only(tmp_path: Path, target: str, why: str) -> None:
    assert reason(tmp_path, sends(b"", 302, Location=target)) == why


def test_a_host_that_another_redirects_to_is_named_first(tmp_path: Path) -> None:
    told: list[str] = []
    with serving(sends(png())) as last:
        first = sends(b"", 302, Location=f"{last.address}/b.png?sig=secret")
        with serving(first) as server:
            user = server.address.replace("http://", "http://me:secret@")
            urls = [f"{user}/{i}.png" for i in range(2)]
            assert len(fetched(tmp_path, *urls, told=told).samples) == 2
            assert told == [f"{last.host} (redirected from {server.host})"]
            assert "Authorization" in server.asked[0] and "Authorization" not in last.asked[0]


LOCAL = ["127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "[::1]",
         "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254", "10.0.0.1", "192.168.1.1",
         "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1",
         "100.64.0.1"]  # fmt: skip


def test_hosts_that_only_this_machine_can_reach_are_not_asked(tmp_path: Path) -> None:
    with serving(sends(png())) as server:
        port = server.address.rpartition(":")[2]
        urls = [f"http://{host}:{port}/a.png" for host in LOCAL]
        with pytest.raises(Exception, match="no usable image") as e:
            fetched(tmp_path, *urls, allow_private_hosts=False)
        assert server.asked == []
        assert len(fetched(tmp_path, urls[0], urls[1], allow_private_hosts=True).samples) == 2
    assert "allow_private_hosts=true permits it" in str(e.value)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    assert public(address)


@pytest.mark.parametrize(
    "address", ["192.0.0.192", "168.63.129.16", "::ffff:168.63.129.16", "192.88.99.1", "3fff::1",
                "64:ff9b::c000:c0", "2002:a83f:8110::"],
)  # fmt: skip
def test_servers_of_a_cloud_for_its_own_machines_are_not_public(address: str) -> None:
    assert not public(address)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], dict[str, int]]]:
    """A name server that changes its mind, and a public address that leads to the loopback."""
    looked, ports = [], {"to": 0}
    lookup, connect = socket.getaddrinfo, socket.create_connection

    def changing(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name == "rebinding.example":
            looked.append(name)
            host = PUBLIC if len(looked) == 1 else "127.0.0.1"
        return lookup(host, port, *more, **options)

    def routed(address: tuple[str, int], *more: Any, **options: Any) -> socket.socket:
        there = ("127.0.0.1", ports["to"]) if address[0] == PUBLIC else address
        return connect(there, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    monkeypatch.setattr(socket, "create_connection", routed)
    yield looked, ports


def test_a_connection_goes_to_the_address_that_was_checked(
    tmp_path: Path, names: tuple[list[str], dict[str, int]]
) -> None:
    looked, ports = names
    with serving(sends(png())) as server:
        ports["to"] = int(server.address.rpartition(":")[2])
        url = "http://rebinding.example:81/a.png"
        assert len(fetched(tmp_path, url, allow_private_hosts=False).samples) == 1
        assert looked == ["rebinding.example"] and "Host: rebinding.example:81" in server.asked[0]


def test_a_public_server_cannot_redirect_to_a_private_one(
    tmp_path: Path, names: tuple[list[str], dict[str, int]]
) -> None:
    _, ports = names
    with serving(sends(png())) as private:
        away = sends(b"", 302, Location=f"{private.address}/metadata.png")
        with serving(away) as server:
            ports["to"] = int(server.address.rpartition(":")[2])
            with pytest.raises(Exception, match=r"127\.0\.0\.1 is not a public address"):
                fetched(tmp_path, f"http://{PUBLIC}/a.png", allow_private_hosts=False)
            assert private.asked == [] and len(server.asked) == 1


def test_proxies_are_used_with_permission_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(sends(png())) as proxy:
        monkeypatch.setenv("http_proxy", proxy.address)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with pytest.raises(Exception, match="http_proxy is set, and a proxy connects to"):
            fetched(tmp_path, "http://images.example/a.png", allow_private_hosts=False)
        assert len(fetched(tmp_path, "http://images.example/a.png").samples) == 1
        assert proxy.asked[0].startswith("GET http://images.example/a.png HTTP/1.1")
