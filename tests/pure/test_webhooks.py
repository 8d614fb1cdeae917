"""Events of a run at real receivers: what arrives, and what a bad receiver does to the run."""

import base64
import json
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sd3tune.config.settings.webhooks import Webhook
from sd3tune.data.addresses import everything, not_link_local
from sd3tune.data.request_urls import Busy
from sd3tune.decision import DEFAULT, Decision
from sd3tune.errors import ConfigError
from sd3tune.plan.watching import WebhookPlan
from sd3tune.report.events import Event, MessageSaid, RunEnded, StepTaken
from sd3tune.webhooks.courier import Courier, closed, wait_seconds
from sd3tune.webhooks.discord import DiscordReceiver, cut
from sd3tune.webhooks.outbox import Outbox, Parcel
from sd3tune.webhooks.posting import HttpRequest, Policy, ReceiverRefused, send
from sd3tune.webhooks.raw import RawReceiver, payload
from sd3tune.webhooks.webhook_sink import WebhookSink
from tests.loopback import Answer, Handler, Received, receives, self_signed, sends, serving
from tests.plans import plan
from tests.webhook_events import PNG, every_event, picture, png, preview

AT = datetime(2026, 11, 27, 12, tzinfo=UTC)
SCHEMA = json.loads((Path(__file__).parents[1] / "schemas/webhook.json").read_text())
OPEN = Policy(not_link_local, verify=True)
KEY = "s3cret-key"


def raw(address: str, **keys: Any) -> Webhook:
    written = {"webhook_type": "raw", "callback_url": f"{address}/{KEY}", **keys}
    return Webhook.model_validate(written)


def discord(address: str, **keys: Any) -> Webhook:
    url = f"{address}/api/webhooks/1/{KEY}?thread_id=5"
    return Webhook.model_validate({"webhook_type": "discord", "webhook_url": url, **keys})


def at_once(_: Any) -> float:
    return 0.0


def sent(webhook: Webhook, events: Sequence[Event], interval: int = 1, **more: Any) -> None:
    """Through a thread of its own, until everything is delivered or given up."""
    kind = DiscordReceiver if webhook.webhook_type == "discord" else RawReceiver
    outbox = Outbox()
    courier = Courier(kind(webhook, OPEN, interval), outbox, more.get("wait", at_once))
    for event in events:
        courier.put(event)
    outbox.end(drop=())
    courier.run()
    courier.summarise()


def bodies(got: Sequence[Received]) -> list[dict[str, Any]]:
    return [json.loads(each.body) for each in got]


def parts(received: Received) -> dict[str, tuple[str | None, bytes]]:
    """Name -> file name and content of each part of a form."""
    head = f"Content-Type: {received.headers['content-type']}\r\n\r\n".encode()
    form = message_from_bytes(head + received.body)
    assert form.is_multipart()
    found = {}
    for part in form.walk():
        if not part.is_multipart():
            name = part.get_param("name", header="content-disposition")
            data = part.get_payload(decode=True)
            assert isinstance(data, bytes)
            found[str(name)] = part.get_filename(), data
    return found


# Raw.

TYPES = {
    "begun": "lifecycle.stage", "continued": "lifecycle.stage", "step": "training.status",
    "not a number": "training.status", "evaluated": "training.status", "scored": "training.status",
    "preview": "validation.image", "picture": "validation.image", "sheet": "validation.image",
    "gone": "validation.image", "checkpoint": "training.checkpoint", "warning": "notification",
    "error": "error", "finished": "lifecycle.stage", "stopped": "lifecycle.stage",
    "failed": "error",
}  # fmt: skip


def test_every_event_has_the_documented_form(tmp_path: Path) -> None:
    check = Draft202012Validator(SCHEMA)
    for name, event in every_event(tmp_path).items():
        made = json.loads(json.dumps(payload(Parcel(event, AT), "run-1"), allow_nan=False))
        assert list(check.iter_errors(made)) == [] and made["type"] == TYPES[name], name
        drawn = name in ("preview", "picture", "sheet")
        assert made["images"] == ([base64.b64encode(PNG).decode()] if drawn else [])
        assert made["event"]["version"] == 1 and made["event"]["event"]


def test_a_preview_has_simpletuners_payload() -> None:
    made = payload(Parcel(preview(5), AT), "run-1")
    del made["event"]
    assert made == {
        "version": 1,
        "type": "validation.image",
        "title": "Validation (step 5/20): cat",
        "message": "Validation (step 5/20): cat",
        "body": "a cat",
        "data": {"step": 5, "timestep": 812.0, "resolution": [1024, 768],
                 "validation_type": "checkpoint", "prompt": "a cat", "step_label": "5/20",
                 "training_step": 100},
        "job_id": "run-1",
        "severity": "info",
        "timestamp": "2026-11-27T12:00:00+00:00",
        "images": [base64.b64encode(PNG).decode()],
    }  # fmt: skip


def test_events_arrive_in_order_with_the_keys_and_the_id_of_the_run(tmp_path: Path) -> None:
    events, got = every_event(tmp_path), list[Received]()
    with serving(receives(got)) as server:
        webhook = raw(server.address, auth_token=KEY, bearer_token="b", message_prefix="[m1]")
        sent(webhook, list(events.values()))
    assert [b["type"] for b in bodies(got)] == list(TYPES.values())
    assert {b["job_id"] for b in bodies(got)} == {"run-1"}
    assert all(b["message"] == f"[m1] {b['title']}" for b in bodies(got))
    for each in got:
        assert (each.method, each.path) == ("POST", f"/{KEY}")
        assert each.headers["x-api-key"] == KEY and each.headers["authorization"] == "Bearer b"
        assert each.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "level, names",
    [("critical", ["failed"]), ("error", ["error", "failed"]),
     ("warning", ["warning", "error", "failed"]), ("info", list(TYPES)), ("debug", list(TYPES))],
)  # fmt: skip
def test_log_level_is_the_least_severe_that_is_sent(
    tmp_path: Path, level: str, names: list[str]
) -> None:
    receiver = RawReceiver(raw("http://h", log_level=level), OPEN, 1)
    assert [n for n, event in every_event(tmp_path).items() if receiver.wants(event)] == names


def test_progress_is_reported_at_the_interval_and_on_discord_with_debug_only() -> None:
    steps = [StepTaken(n, {"loss": 1.0}) for n in range(1, 31)]

    def reported(receiver: RawReceiver | DiscordReceiver) -> list[int]:
        return [s.step for s in steps if receiver.wants(s)]

    assert reported(RawReceiver(raw("http://h"), OPEN, 10)) == [10, 20, 30]
    assert reported(DiscordReceiver(discord("http://h"), OPEN, 10)) == []
    assert reported(DiscordReceiver(discord("http://h", log_level="debug"), OPEN, 15)) == [15, 30]


# Discord.


def test_discord_gets_the_pictures_that_wait_as_one_message(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.png" for n in range(12)]
    for n, path in enumerate(files):
        path.write_bytes(png((8 + n, 8)))
    events = [
        picture(path, n, prompt="a cat @everyone " + "x" * 5000) for n, path in enumerate(files)
    ]
    got = list[Received]()
    with serving(receives(got, data=b'{"id": "9"}')) as server:
        sent(discord(server.address, message_prefix="[m1]"), events)
    address = f"/api/webhooks/1/{KEY}?thread_id=5&wait=true"
    assert [(e.method, e.path) for e in got] == [("POST", address)] * 2
    first, second = map(parts, got)
    assert [len(p) - 1 for p in (first, second)] == [10, 2]
    form = json.loads(first["payload_json"][1])
    assert form["content"] == "[m1] Step 100: 10 pictures"
    assert form["allowed_mentions"] == {"parse": []}
    texts = [e["title"] + e["description"] for e in form["embeds"]]
    assert len(texts) == 10 and sum(map(len, texts)) <= 6000
    for n in range(10):
        name, data = first[f"files[{n}]"]
        assert data == files[n].read_bytes()
        assert form["embeds"][n]["image"]["url"] == f"attachment://{name}"
        assert form["attachments"][n] == {"id": n, "filename": name}


def test_pictures_of_a_message_stay_below_discords_limit_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(bytes(9 * 2**20))
    got = list[Received]()
    with serving(receives(got)) as server:
        sent(discord(server.address), [picture(path)])
    assert json.loads(got[0].body)["content"] == "Step 100: 1 picture"


def test_previews_of_a_picture_replace_each_other_in_one_message() -> None:
    got = list[Received]()
    with serving(receives(got, data=b'{"id": "9"}')) as server:
        sent(discord(server.address), [preview(5), preview(10), preview(5, step=200)])
    start = f"/api/webhooks/1/{KEY}"
    query = "?thread_id=5&wait=true"
    assert [(e.method, e.path) for e in got] == [
        ("POST", start + query), ("PATCH", f"{start}/messages/9{query}"), ("POST", start + query),
    ]  # fmt: skip
    form = parts(got[1])
    assert json.loads(form["payload_json"][1])["content"] == "Drawing `cat`, 10/20"
    assert form["files[0]"][1] == PNG


def test_a_preview_whose_message_was_deleted_is_a_new_message() -> None:
    got = list[Received]()

    def answer(request: Handler) -> None:
        receives(got, 404 if request.command == "PATCH" else 200, b'{"id": "9"}')(request)

    with serving(answer) as server:
        sent(discord(server.address), [preview(5), preview(10), MessageSaid(1, "warning", "x")])
    assert [e.method for e in got] == ["POST", "PATCH", "POST", "POST"]


def test_texts_for_discord_are_cut_as_discord_counts() -> None:
    assert cut("x" * 2000, 2000) == "x" * 2000
    assert cut("x" * 2001, 2000) == "x" * 1999 + "…"
    long = cut("🐈" * 1001, 2000)  # two units each
    assert len(long.encode("utf-16-le")) // 2 <= 2000 and long.endswith("🐈…")


def test_every_event_is_a_message_for_people(tmp_path: Path) -> None:
    got = list[Received]()
    with serving(receives(got)) as server:
        sent(discord(server.address, log_level="debug"), list(every_event(tmp_path).values()))
    forms = [e for e in got if e.headers["content-type"] == "application/json"]
    plain = [b["content"] for b in bodies(forms)]
    assert plain[:3] == ["**cats** begins: 200 steps", "**cats** continues at step 100",
                         "Step 7: loss 0.25, learning_rate 0.0001"]  # fmt: skip
    assert plain[-3:] == ["The run is finished after step 200",
                          "The run was stopped after step 150: signal 15",
                          "The run failed after step 150: out of memory"]  # fmt: skip


# Receivers that fail.


def in_turn(*answers: Answer) -> Answer:
    """Each request gets the next answer, the later ones the last."""
    left = list(answers)
    return lambda request: (left.pop(0) if len(left) > 1 else left[0])(request)


def test_an_answer_of_500_is_tried_again_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    got = list[Received]()
    with serving(in_turn(receives(got, 500), receives(got, 503), receives(got))) as server:
        sent(raw(server.address), [RunEnded(n, "finished") for n in (1, 2)])
    assert [b["data"]["current"] for b in bodies(got)] == [1, 1, 1, 2]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: webhook {server.address}: the server answers 500; it is tri")


def test_a_receiver_that_is_down_is_said_once_without_its_key(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(sends(b"")) as server:
        pass  # nobody listens there any more
    sent(raw(server.address, auth_token=KEY), [RunEnded(n, "finished") for n in range(3)])
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"warning: webhook {server.address}: no connection: ")
    assert last == f"webhook {server.address}: 3 of 3 events were not delivered"
    assert KEY not in first


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_receiver_that_does_not_want_us_is_left_alone(
    status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    got = list[Received]()
    with serving(receives(got, status)) as server:
        sent(raw(server.address), [RunEnded(n, "finished") for n in range(9)])
    assert len(got) == 1
    assert f"the server answers {status}; nothing more is sent there" in capsys.readouterr().err


def test_an_event_that_is_refused_does_not_hold_up_the_next() -> None:
    got = list[Received]()
    with serving(in_turn(receives(got, 400), receives(got))) as server:
        sent(raw(server.address), [RunEnded(n, "finished") for n in (1, 2)])
    assert [b["data"]["current"] for b in bodies(got)] == [1, 2]


@pytest.mark.parametrize(
    "data, headers, seconds",
    [(b'{"retry_after": 1.25, "global": false}', {"Retry_After": "2"}, 1.25),
     (b"", {"Retry_After": "7"}, 7), (b"[]", {"Retry_After": "Fri, 27 Nov 2026 12:00:00 GMT"}, 0)],
)  # fmt: skip
def test_a_limit_of_rate_is_waited_for(
    data: bytes, headers: dict[str, str], seconds: float
) -> None:
    got, waits = list[Received](), list[float]()

    def wait(state: Any) -> float:
        waits.append(state.outcome.exception().wait_seconds)
        assert waits[0] <= wait_seconds(state) <= max(waits[0], 1.0)
        return 0.0

    with serving(in_turn(receives(got, 429, data, **headers), receives(got))) as server:
        sent(discord(server.address), [RunEnded(1, "finished")], wait=wait)
    assert len(got) == 2 and waits == [seconds]


def test_waits_between_tries_double_up_to_a_minute() -> None:
    class State:
        outcome, attempt_number = None, 1

    waits = []
    for State.attempt_number in range(1, 12):
        waits.append(wait_seconds(State()))  # type: ignore[arg-type]
    assert 0.5 <= waits[0] <= 1 and 1 <= waits[1] <= 1.5 and 4 <= waits[3] <= 4.5
    assert waits[-1] == 60


# The thread that trains.


def test_putting_never_waits_for_a_receiver_that_does_not_answer() -> None:
    asked, released = threading.Event(), threading.Event()
    got = list[Received]()

    def answer(request: Handler) -> None:
        asked.set()
        released.wait()
        receives(got)(request)

    with serving(answer) as server:
        outbox = Outbox(most_events=10)
        courier = Courier(RawReceiver(raw(server.address), OPEN, 1), outbox, at_once)
        courier.start()
        for step in range(1000):  # ends only if no `put` waits: nobody answers before
            courier.put(StepTaken(step, {"loss": 1.0}))
            courier.put(preview(step % 20 + 1))
        courier.put(RunEnded(1000, "finished"))
        assert asked.wait(30) and not released.is_set() and outbox.dropped >= 1980
        closed([courier], 0.05, clock=iter((0.0, 1.0)).__next__)
        assert courier.is_alive()
        released.set()
        courier.join()
    assert bodies(got)[-1]["data"]["status"] == "completed"  # what mattered came through


def test_a_full_queue_drops_previews_then_progress_then_the_oldest() -> None:
    outbox = Outbox(most_events=4)
    events: list[Event] = [MessageSaid(1, "info", "a"), StepTaken(1, {}), preview(1), preview(2)]
    for event in (*events, MessageSaid(2, "info", "b"), MessageSaid(3, "info", "c"),
                  MessageSaid(4, "info", "d"), MessageSaid(5, "info", "e")):  # fmt: skip
        outbox.put(Parcel(event, AT))
    outbox.end()
    left = [outbox.take(lambda taken, other: False)[0].event for _ in range(4)]
    assert [e.step for e in left] == [2, 3, 4, 5] and outbox.dropped == 4
    assert outbox.take(lambda taken, other: False) == []


def test_a_queue_is_bounded_in_bytes_too() -> None:
    outbox = Outbox(most_events=100, most_bytes=5000)
    for n in range(1, 10):
        outbox.put(Parcel(preview(n, data=bytes(1000)), AT))
    assert outbox.dropped == 4


def test_the_end_of_a_run_leaves_out_what_no_longer_matters() -> None:
    outbox = Outbox()
    for event in (StepTaken(1, {}), preview(1), RunEnded(1, "finished")):
        outbox.put(Parcel(event, AT))
    outbox.end()
    (only,) = outbox.take(lambda taken, other: False)
    assert isinstance(only.event, RunEnded) and not outbox.put(only)


def test_of_what_does_not_fit_into_the_last_seconds_the_newest_is_sent() -> None:
    outbox = Outbox()
    for event in (MessageSaid(1, "info", "a"), MessageSaid(2, "info", "b"), RunEnded(3, "failed")):
        outbox.put(Parcel(event, AT))
    outbox.end(newest=1)
    (only,) = outbox.take(lambda taken, other: False)
    assert isinstance(only.event, RunEnded) and outbox.dropped == 2


def test_one_receiver_that_is_down_does_not_hold_up_another() -> None:
    got = list[Received]()
    with serving(sends(b"")) as gone:
        pass
    with serving(receives(got)) as server:
        webhooks = (raw(gone.address), raw(server.address))
        sink = WebhookSink.of(WebhookPlan(webhooks, 1, Decision("", DEFAULT, "")))
        sink.receive(RunEnded(1, "finished"))
        sink.close()
    assert len(got) == 1


def test_the_receivers_of_a_plan_check_certificates_and_addresses_as_it_says(
    tmp_path: Path,
) -> None:
    trusting, checking = list[Received](), list[Received]()
    context = self_signed(tmp_path)
    with (
        serving(receives(trusting), context) as first,
        serving(receives(checking), context) as second,
    ):
        ours = (raw(first.address, ssl_no_verify=True), raw(second.address))
        sink = WebhookSink.of(WebhookPlan(ours, 1, Decision("", DEFAULT, "")))
        sink.receive(RunEnded(1, "finished"))
        sink.close()
    assert len(trusting) == 1 and not checking


# Addresses.


def test_a_redirect_is_followed_with_the_same_request_and_without_the_keys() -> None:
    got = list[Received]()
    with serving(receives(got)) as second:
        moved = sends(b"", 307, Location=f"{second.address}/there")
        with serving(moved) as first:
            sent(raw(first.address, auth_token=KEY, bearer_token=KEY), [RunEnded(1, "finished")])
    (only,) = got
    assert (only.method, only.path) == ("POST", "/there")
    assert not {"x-api-key", "authorization"} & only.headers.keys()
    assert json.loads(only.body)["type"] == "lifecycle.stage"


REDIRECTS = [
    (307, "http://169.254.169.254/latest/meta-data", "169.254.169.254 is a link-local address"),
    (308, "http://[::ffff:169.254.169.254]/", "is a link-local address"),
    (302, "http://elsewhere.example/x?key=1", "it redirects to elsewhere.example; write that"),
    (307, "file:///etc/passwd", "its address is file, not http or https"),
    (307, "http://[", "it redirects to what is not a URL"),
]


@pytest.mark.parametrize("status, target, why", REDIRECTS)
def test_a_redirect_to_where_no_webhook_may_go_is_refused(
    status: int, target: str, why: str
) -> None:
    with serving(sends(b"", status, Location=target)) as server, pytest.raises(OSError) as e:
        send(f"{server.address}/", HttpRequest(b"{}", "application/json"), OPEN)
    assert why in str(e.value) and not isinstance(e.value, Busy)


def test_a_chain_of_redirects_comes_to_an_end() -> None:
    with (
        serving(sends(b"", 307, Location="/again")) as server,
        pytest.raises(ReceiverRefused, match="more than 3 redirects"),
    ):
        send(server.address, HttpRequest(b"", "text/plain"), OPEN)


LINK_LOCAL = """
    169.254.169.254 169.254.0.1 fe80::1 fe80::1%eth0 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe
    2002:a9fe:a9fe:: ::169.254.169.254 168.63.129.16 192.0.0.192 100.100.100.200 fd00:ec2::254
    fd20:ce::254
""".split()


@pytest.mark.parametrize("address", LINK_LOCAL)
def test_link_local_addresses_and_metadata_servers_are_refused(address: str) -> None:
    assert "allow_link_local=true" in str(not_link_local(address))
    assert everything(address) is None


ORDINARY = "127.0.0.1 ::1 10.0.0.5 192.168.1.2 172.17.0.1 100.64.0.1 fd12::1 8.8.8.8".split()


@pytest.mark.parametrize("address", ORDINARY)
def test_receivers_on_this_machine_and_network_are_ordinary(address: str) -> None:
    assert not_link_local(address) is None


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "2852039166", "0xa9fea9fe", "[fe80::1]", "[::ffff:a9fe:a9fe]"]
)
def test_such_an_address_in_digits_is_refused_before_the_run(host: str) -> None:
    with pytest.raises(ConfigError, match=r"`webhook_config`: .* is a link-local address") as e:
        plan("h100-sxm", webhook_config=raw(f"http://{host}"))
    assert "allow_link_local=true" in e.value.hint and KEY not in str(e.value)
    allowed = plan("h100-sxm", webhook_config=raw(f"http://{host}", allow_link_local=True))
    assert len(allowed.webhooks.webhooks) == 1


def resolving(name: str, address: str) -> Callable[..., list[Any]]:
    """A resolver that knows one name."""

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[Any]:
        assert host == name
        return [(2, 1, 6, "", (address, port))]

    return getaddrinfo


def test_a_name_that_leads_to_a_metadata_server_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("socket.getaddrinfo", resolving("hook.example", "169.254.169.254"))
    sent(raw("http://hook.example"), [RunEnded(1, "finished"), RunEnded(2, "finished")])
    err = capsys.readouterr().err
    assert "hook.example is 169.254.169.254, which is a link-local address" in " ".join(err.split())
    assert KEY not in err
