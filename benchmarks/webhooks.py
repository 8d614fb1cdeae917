"""What a webhook costs a training step, whatever its receiver does.

    python benchmarks/webhooks.py [ROUNDS] [STEPS]      10 and 8 unless given

Training steps of a tiny SD3.5 medium (forward, backward, AdamW). After each, its report of progress
goes to a webhook, and after each fourth a preview of 512 px. The receivers take turns in every
round, a process of their own each: none, one that answers, one that takes 3 seconds for an answer,
one that answers 500, one that is down, one that never answers. Columns, the first two as ratios to
no webhook: the median step; the same in time of the training thread alone, which a busy machine
does not change; the median time in which events are handed over; the seconds that the end of the
run waited.
"""

import http.server
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import machine
import numpy as np
import torch
from PIL import Image

from sd3tune.config.settings.webhooks import Webhook
from sd3tune.decision import DEFAULT, Decision
from sd3tune.demo import tiny
from sd3tune.plan.watching import WebhookPlan
from sd3tune.report import messages
from sd3tune.report.events import PreviewDrawn, RunEnded, StepTaken
from sd3tune.webhooks.webhook_sink import WebhookSink

ANSWERS = {"answers": (200, 0.0), "3 s an answer": (200, 3.0), "answers 500": (500, 0.0),
           "never answers": (200, 1e6)}  # fmt: skip
NONE, DOWN = "no webhook", "down"


def serve(status: int, seconds: float, tell: Any) -> None:
    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(seconds)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    tell.send(server.server_address[1])
    server.serve_forever()


def started(status: int, seconds: float) -> tuple[Any, str]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(status, seconds, theirs), daemon=True)
    process.start()
    return process, f"http://127.0.0.1:{ours.recv()}"


def training() -> Callable[[], None]:
    """A function that takes one step."""
    torch.manual_seed(0)
    model = tiny.transformer(dict(tiny.SHAPES["sd3.5-medium"])).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    inputs = {
        "hidden_states": torch.randn(1, 16, 16, 16),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 77, tiny.T5),
        "pooled_projections": torch.randn(1, tiny.CLIP_L + tiny.CLIP_G),
        "return_dict": False,
    }

    def step() -> None:
        model(**inputs)[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def picture() -> bytes:
    """Smooth noise: a PNG of the size that a preview has."""
    small = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = BytesIO()
    Image.fromarray(small).resize((512, 512), Image.Resampling.BICUBIC).save(whole, "PNG")
    return whole.getvalue()


class Measured:
    """The times of one receiver, over all rounds."""

    def __init__(self, address: str | None) -> None:
        webhooks: tuple[Webhook, ...] = ()
        if address is not None:
            written = {"webhook_type": "raw", "callback_url": address}
            webhooks = (Webhook.model_validate(written),)
        self.plan = WebhookPlan(webhooks, 1, Decision("", DEFAULT, ""))
        self.steps: list[float] = []
        self.of_thread: list[float] = []
        self.handing: list[float] = []
        self.closing = 0.0

    def round(self, step: Callable[[], None], count: int, png: bytes) -> None:
        sink = WebhookSink.of(self.plan)
        for number in range(1, count + 1):
            own, begun = time.thread_time(), time.perf_counter()
            step()
            stepped = time.perf_counter()
            sink.receive(StepTaken(number, {"loss": 0.5}))
            if number % 4 == 0:
                sink.receive(PreviewDrawn(number, "a", "a cat", (512, 512), 1, 20, 900.0, png))
            ended = time.perf_counter()
            self.handing.append(ended - stepped)
            self.steps.append(ended - begun)
            self.of_thread.append(time.thread_time() - own)
        sink.receive(RunEnded(count, "finished"))
        before = time.perf_counter()
        sink.close()
        self.closing = max(self.closing, time.perf_counter() - before)


def main() -> None:
    made = machine.parser(__doc__, writes_json=False)
    made.add_argument("rounds", type=int, nargs="?", default=10)
    made.add_argument("steps", type=int, nargs="?", default=8)
    given = made.parse_args()
    rounds, steps = given.rounds, given.steps
    messages.set_verbosity("quiet")
    torch.set_num_threads(1)
    servers = {name: started(*how) for name, how in ANSWERS.items()}
    process, gone = started(200, 0.0)
    process.kill()
    addresses: dict[str, str | None] = {NONE: None, DOWN: gone}
    addresses |= {name: address for name, (_, address) in servers.items()}
    measured = {name: Measured(address) for name, address in addresses.items()}
    step, png = training(), picture()
    for _ in range(5):
        step()
    for number in range(rounds):
        order = [*measured.values()]
        for each in order[number % len(order) :] + order[: number % len(order)]:
            each.round(step, steps, png)
    base, own = (statistics.median(t) for t in (measured[NONE].steps, measured[NONE].of_thread))
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    print(f"{rounds} x {steps} steps each, {base * 1000:.1f} ms without a webhook")
    print(f"{'receiver':<16}{'step':>8}{'of thread':>12}{'handing over':>16}{'end of run':>13}")
    for name, each in measured.items():
        step_ratio, thread_ratio = (
            statistics.median(each.steps) / base,
            statistics.median(each.of_thread) / own,
        )
        handing = statistics.median(each.handing) * 1e3
        print(f"{name:<16}{step_ratio:>8.3f}{thread_ratio:>12.3f}{handing:>13.3f} ms"
              f"{each.closing:>11.2f} s")  # fmt: skip
    for server, _ in servers.values():
        server.kill()


if __name__ == "__main__":
    main()
