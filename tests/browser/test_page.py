"""What a user sees and does on the page."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sd3tune.live.run_list import RunList
from sd3tune.live.serving import Address
from sd3tune.live.static_export import write
from tests.browser.conftest import Open, keep, until
from tests.live_runs import (
    TOKEN,
    Served,
    append,
    checkpoint,
    picture,
    rows,
    run_folder,
    served,
    started,
)

OWNS = "document.title='owned'"
NASTY = f'<img src=x onerror="{OWNS}"><script>{OWNS}</script>\u202e${{1}}'
SIZES = {"desktop": (1440, 900), "phone": (360, 740)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "output")


@pytest.fixture
def site(run: Path) -> Iterator[Served]:
    with served(run) as page:
        yield page


def loaded(page: Any) -> Any:
    """The page, when its curves are drawn."""
    page.wait_for_selector("#chart-loss canvas")
    page.wait_for_selector(".run .tile")
    return page


def steps_shown(page: Any) -> str:
    return str(page.inner_text(".run .progress"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_shows_the_run_and_fits_its_window(
    site: Served, browse: Open, size: str, scheme: str
) -> None:
    page = loaded(browse(site.url, SIZES[size], scheme))
    assert steps_shown(page) == "step 120 of 300, 40 %"
    assert "tiny-cats" in page.inner_text(".run h1")
    page.wait_for_selector(".pictures img")
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    darkness = sum(int(part) for part in re.findall(r"\d+", background)[:3])
    assert (darkness < 200) == (scheme == "dark")
    keep(page, f"{size}-{scheme}")
    assert "token" not in page.url, "the token leaves the address"


def test_what_the_run_writes_appears_without_reloading(
    run: Path, site: Served, browse: Open
) -> None:
    page = loaded(browse(site.url))
    page.evaluate("window.sameDocument = true")
    append(run / "metrics.jsonl", rows(121, 150))
    until(page, "document.querySelector('.progress').textContent.includes('150')")
    picture(run / "validation_images/step_150_cat_0_128x128.png", "a red circle above a plank")
    page.wait_for_selector("th:has-text('step 150')")
    checkpoint(run, 150)
    page.wait_for_selector("#checkpoints b:has-text('checkpoint-150')")
    said = {
        "time": 9.0,
        "event": "message",
        "step": 150,
        "level": "error",
        "text": "the disk is full",
    }
    append(run / "events.jsonl", [said])
    page.wait_for_selector("#log .error:has-text('the disk is full')")
    append(run / "events.jsonl", [started(100)])
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:100]))
    until(page, "document.querySelector('.progress').textContent.includes('100 of')")
    assert page.evaluate("window.sameDocument")


def test_previews_appear_while_a_picture_is_drawn_and_go_with_the_picture(
    run: Path, site: Served, browse: Open
) -> None:
    page = loaded(browse(site.url))
    picture(run / "validation_images/previews/cat_0_128x128.png", "a red circle", blur=6)
    preview = {"time": 9.0, "event": "preview", "step": 120, "shortname": "cat", "prompt": "a cat",
               "size": [128, 128], "index": 0, "sampling_step": 5, "sampling_steps": 20,
               "path": str(run / "validation_images/previews/cat_0_128x128.png")}  # fmt: skip
    append(run / "events.jsonl", [preview])
    page.wait_for_selector("#previews figcaption:has-text('cat, 5 of 20')")
    assert page.evaluate("document.querySelector('#previews img').decode().then(() => true)")
    keep(page, "previews", whole=True)
    name = "step_120_cat_0_128x128.png"
    picture(run / "validation_images" / name, "a red circle")
    append(
        run / "events.jsonl", [preview | {"event": "picture", "path": f"validation_images/{name}"}]
    )
    page.wait_for_selector("#previews img", state="detached")


def test_the_slider_moves_by_mouse_and_by_keyboard(site: Served, browse: Open) -> None:
    page = loaded(browse(site.url))
    slider = page.wait_for_selector("img-comparison-slider")
    slider.scroll_into_view_if_needed()
    value = "Number(document.querySelector('img-comparison-slider').value)"
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40, steps=4)
    page.mouse.up()
    assert abs(page.evaluate(value) - 25) < 2
    page.keyboard.down("ArrowRight")
    until(page, f"{value} > 40")
    page.keyboard.up("ArrowRight")
    page.keyboard.press("End")
    assert page.evaluate(value) == 100
    assert slider.get_attribute("aria-valuenow") == "100"


def test_pictures_of_other_steps_and_prompts_can_be_compared(site: Served, browse: Open) -> None:
    page = loaded(browse(site.url))
    sources = "[...document.querySelectorAll('img-comparison-slider img')].map(i => i.src)"
    page.wait_for_selector("img-comparison-slider")
    before, after = page.evaluate(sources)
    assert "base_model" in before and "step_100" in after
    page.select_option("#picture-controls label:has-text('Left') select", label="step 50")
    until(page, f"{sources}[0].includes('step_50')")
    page.click("button[aria-label='Enlarge: cat, step 50']")
    dialog = page.wait_for_selector("#picture[open]")
    assert "cat 128 × 128, step 50" in dialog.inner_text()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#picture h2:has-text('step 100')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#picture[open]", state="detached")


def test_charts_zoom_together_and_back(site: Served, browse: Open) -> None:
    page = loaded(browse(site.url))
    over = page.wait_for_selector("#chart-loss .u-over")
    box = over.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 50, steps=5)
    page.mouse.up()
    page.wait_for_selector("#whole:not([disabled])")
    # Each chart takes the range over in a frame of its own.
    near = "([low, high]) => 25 < low && low < 35 && 55 < high && high < 65"
    until(page, f"({RANGES})().then(all => all.every({near}))")
    page.click("#whole")
    page.wait_for_selector("#whole[disabled]")
    until(page, f"({RANGES})().then(all => all.every(([low, high]) => low === 1 && high === 120))")
    page.focus("#chart-loss .plot")
    page.keyboard.press("+")
    page.wait_for_selector("#whole:not([disabled])")


def test_everything_can_be_done_with_the_keyboard(site: Served, browse: Open) -> None:
    page = loaded(browse(site.url))
    page.keyboard.press("?")
    listed = page.wait_for_selector("#shortcuts[open]").inner_text()
    assert "less and more smoothing" in listed
    keep(page, "shortcuts")
    page.keyboard.press("Escape")
    page.wait_for_selector("#shortcuts[open]", state="detached")
    theme = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("t")
    until(page, f"getComputedStyle(document.body).backgroundColor !== {theme!r}")
    page.keyboard.press("]")
    until(page, "document.getElementById('smoothed').textContent === '100 steps'")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    for part in ("theme", "smoothing", "span", "IMG-COMPARISON-SLIDER", "Enlarge: cat, step 50"):
        assert any(part in each for each in reached), (part, reached)


KEY_IN_THE_FRAME_THAT_CLOSES_A_DIALOG = """(() => {
  document.getElementById("shortcuts").close();
  const key = new KeyboardEvent("keydown", { key: "t", bubbles: true, cancelable: true });
  document.activeElement.dispatchEvent(key);
  return key.defaultPrevented;
})()"""


def test_keys_act_as_soon_as_a_dialog_is_closed(site: Served, browse: Open) -> None:
    page = loaded(browse(site.url))
    page.keyboard.press("?")
    page.wait_for_selector("#shortcuts[open]")
    assert page.evaluate(KEY_IN_THE_FRAME_THAT_CLOSES_A_DIALOG)


def test_every_control_has_a_name(site: Served, browse: Open) -> None:
    page = loaded(browse(site.url))
    nameless = page.evaluate(NAMELESS)
    assert nameless == []
    assert page.evaluate("[...document.images].every(i => i.alt)")


def test_words_of_strangers_stay_words(tmp_path: Path, browse: Open) -> None:
    """Prompts, captions, names, reasons and messages that are HTML, in a run that is not ours."""
    folder = run_folder(tmp_path / "output")
    picture(folder / "validation_images/step_110_cat_0_128x128.png", NASTY)
    decision: dict[str, Any] = {"value": NASTY, "source": NASTY, "reason": NASTY}
    decision["rejected"] = [{"name": NASTY, "reasons": [NASTY]}]
    plan = {"decisions": {NASTY: decision}, "warnings": [NASTY]}
    append(folder / "events.jsonl", [
        started(120, name=NASTY, plan=plan),
        {"time": 9.0, "event": "message", "step": 120, "level": "warning", "text": NASTY},
        {"time": 9.5, "event": "evaluation", "step": 120, "dataset": NASTY, "loss": 0.5},
        {"time": 10.0, "event": "run.ended", "step": 120, "outcome": "failed", "reason": NASTY},
    ])  # fmt: skip
    (folder / f"validation_images/{NASTY.replace('/', '')}.png").write_bytes(b"")
    with served(folder) as site:
        page = loaded(browse(site.url))
        assert NASTY in page.inner_text(".run h1") and NASTY in page.inner_text("#log-body")
        page.wait_for_selector("#plan-body details")
        assert page.evaluate("document.title").startswith("40 % <img")
        assert page.evaluate("document.scripts.length") == 4
        assert page.evaluate("document.querySelectorAll('[onerror]').length") == 0
        page.close()
    exported = write(RunList([folder]), tmp_path / "page")
    page = loaded(browse(exported.as_uri()))
    assert NASTY in page.inner_text(".run h1")
    assert page.evaluate("document.querySelectorAll('[onerror]').length") == 0


def test_an_exported_page_opens_from_the_disk(run: Path, tmp_path: Path, browse: Open) -> None:
    exported = write(RunList([run]), tmp_path / "page")
    page = loaded(browse(exported.as_uri()))
    assert steps_shown(page) == "step 120 of 300, 40 %"
    page.wait_for_selector("img-comparison-slider")
    assert page.evaluate(DECODED)
    assert not page.query_selector("a[download], .stop"), "there is no server to ask"
    page.keyboard.press("]")
    until(page, "document.getElementById('smoothed').textContent === '100 steps'")
    write(RunList([run]), tmp_path / "page")  # a second time: the page is replaced


def test_runs_are_shown_beside_each_other(run: Path, tmp_path: Path, browse: Open) -> None:
    other = run_folder(tmp_path / "other", 60)
    text = (other / "events.jsonl").read_text()
    (other / "events.jsonl").write_text(
        text.replace("tiny-cats", "slow-cats").replace('"value": 0.002', '"value": 0.0005')
    )
    with served(run, other) as site:
        page = loaded(browse(site.url))
        page.wait_for_selector(".run >> nth=1")
        assert page.inner_text("#plan-body .sheet tbody").split() == [
            "learning_rate",
            "0.002",
            "0.0005",
        ]
        assert page.evaluate("document.querySelectorAll('table.pictures').length") == 2
        keep(page, "two-runs", whole=True)
        page.keyboard.press("2")
        page.wait_for_selector(".run >> nth=1", state="detached")
        assert "tiny-cats" in page.inner_text(".run h1")


def test_a_run_that_has_not_begun_says_what_is_coming(tmp_path: Path, browse: Open) -> None:
    append(tmp_path / "events.jsonl", [started()])
    with served(tmp_path) as site:
        page = browse(site.url, SIZES["phone"])
        page.wait_for_selector("text=The first pictures come at step 50.")
        page.wait_for_selector("text=The first checkpoint comes at step 100.")
        page.wait_for_selector("text=The first numbers come with the first step.")
        keep(page, "empty", whole=True)


def test_without_the_token_the_page_asks_for_it(run: Path, browse: Open) -> None:
    with served(run, address=Address("0.0.0.0", 0, token=TOKEN)) as site:
        address = f"http://{site.host}/"
        page = browse(address, expected="401")
        page.wait_for_selector("#notice input")
        assert not page.query_selector(".run")
        keep(page, "token")
        page.fill("#notice input", TOKEN)
        page.click("#notice button")
        loaded(page)
        cookies = page.context.cookies()
        assert [cookie["httpOnly"] for cookie in cookies] == [True]
        page.reload()
        loaded(page)


def test_the_page_says_when_its_server_is_gone_and_finds_it_again(run: Path, browse: Open) -> None:
    with served(run) as site:
        port = site.port
        page = loaded(browse(site.url))
    page.wait_for_selector("#notice:has-text('does not answer')")
    append(run / "metrics.jsonl", rows(121, 130))
    with served(run, address=Address(port=port, token=TOKEN)):
        until(page, "document.querySelector('.progress').textContent.includes('130')")
        page.wait_for_selector("#notice", state="hidden")


def test_a_hundred_thousand_steps_zoom_and_pan_smoothly(
    tmp_path: Path, browse: Open, record_property: Any
) -> None:
    """The frames are measured and shown; what is checked is what bounds their cost: the number of
    points that are drawn does not grow with the run."""
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for row in rows(1, 100_000):
            file.write(json.dumps(row) + "\n")
    with served(tmp_path) as site:
        page = loaded(browse(site.url))
        until(page, "document.querySelector('.progress').textContent.includes('100,000')")
        before = renderer_seconds()
        figures = page.evaluate(PAN)
        used = 1000 * (renderer_seconds() - before) / 120
        figures["milliseconds_of_processor_a_frame"] = round(used, 1)
        record_property("frames", figures)
        print(f"\n100,000 points, 1440 x 900: {figures}")
        assert figures["rows"] == 100_000 and figures["most_points"] <= 2 * 1440
        keep(page, "hundred-thousand")


def renderer_seconds() -> float:
    """Processor time of the processes that draw pages: on a busy machine frames wait for others."""
    family = psutil.Process().children(recursive=True)
    times = [each.cpu_times() for each in family if "--type=renderer" in each.cmdline()]
    return float(sum(each.user + each.system for each in times))


RANGES = """async () => (await import('/assets/charts.js')).charts.slice(0, 4)
  .map(c => [c.plot.scales.x.min, c.plot.scales.x.max])"""
FOCUSED = """() => { const e = document.activeElement;
  return `${e.id} ${e.tagName} ${e.getAttribute('aria-label') ?? e.textContent}`; }"""
NAMELESS = """() => [...document.querySelectorAll('button, a, select, input, [tabindex="0"]')]
  .filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim()))
  .map(e => e.outerHTML.slice(0, 80))"""
DECODED = """() => Promise.all([...document.querySelectorAll('img-comparison-slider img')]
  .map(i => i.decode())).then(() => true)"""
PAN = """async () => {
  const { charts, zoomTo } = await import('/assets/charts.js');
  const { runs } = await import('/assets/store.js');
  const columns = runs.get('0').columns;
  const frames = [], points = [];
  let draws = 0, drawing = 0;
  for (const chart of charts) {
    const draw = chart.draw.bind(chart);
    chart.draw = () => {
      const began = performance.now();
      draw();
      drawing += performance.now() - began;
      draws += 1;
    };
  }
  let before = performance.now();
  for (let frame = 0; frame < 120; frame++) {
    const width = 90000 - 600 * frame, start = 50 * frame;
    zoomTo(start, start + width);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - before);
    before = now;
    points.push(charts[0].points);
  }
  frames.sort((a, b) => a - b);
  const at = (part) => Math.round(10 * frames[Math.floor(part * (frames.length - 1))]) / 10;
  const most_points = Math.max(...points);
  return {
    rows: columns.length, most_points, draws,
    milliseconds_a_frame: { median: at(0.5), p95: at(0.95) },
    milliseconds_of_script_a_frame: Math.round(100 * drawing / 120) / 100,
  };
}"""
