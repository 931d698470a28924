"""The dashboard as people see it: a real daemon, a real browser."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.process.running import Daemon, Simulator, eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.browser.conftest import Open

LISTEN = Path(__file__).parent.parent.parent / "docs" / "how-to" / "listen.md"
TOKEN = "geheim"
MARKUP = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
FRAMES = """async () => {
  const area = document.getElementById("rows"), times = [];
  let last = performance.now(), top = 0;
  for (const end = last + 8000; last < end; ) {
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    times.push(now - last);
    last = now;
    area.scrollTop = top = (top + 400) % area.scrollHeight;
  }
  times.sort((a, b) => a - b);
  const at = (part) => Math.round(times[Math.floor((times.length - 1) * part)]);
  const rows = document.querySelectorAll("#body tr").length;
  return {frames: times.length, p50_ms: at(0.5), p95_ms: at(0.95), p99_ms: at(0.99), longest_ms: at(1), rows};
}"""


def submit(daemon: Daemon, task_id: str, *, user: str = "anna", labels: object = None, **script: object) -> None:
    simulate = {"queue": "0s", **script}
    daemon.client.submit("sim", id=task_id, user=user, labels=labels or {}, input={"simulate": simulate})


def row(page: Page, task_id: str) -> Any:  # noqa: ANN401 - a locator
    return page.locator("#body tr", has=page.get_by_role("link", name=task_id, exact=True))


def test_tasks_appear_and_end_while_one_watches(open_page: Open, daemon: Daemon) -> None:
    """Without anyone loading the page again."""
    page = open_page()
    page.get_by_text("Nothing is in flight.").wait_for()
    submit(daemon, "long", run="10m")
    submit(daemon, "short", run="2s")
    row(page, "long").get_by_text("processing").wait_for()
    row(page, "short").wait_for(state="detached")
    page.get_by_role("button", name="Ended 1").click()
    row(page, "short").get_by_text("succeeded").wait_for()
    page.get_by_role("button", name="In flight 1").click()
    row(page, "long").get_by_role("progressbar").wait_for()


def test_filters_are_in_the_address(open_page: Open, daemon: Daemon) -> None:
    """So that it can be sent to somebody, and survives a reload and the way back."""
    for number in range(3):
        submit(daemon, f"t{number}", user=f"user-{number}", labels={"team": "blue" if number else "red"}, run="10m")
    page = open_page()
    row(page, "t2").wait_for()
    page.get_by_label("Search").fill("team:blue user-1")
    row(page, "t2").wait_for(state="detached")
    page.get_by_label("Status").select_option("processing")
    assert re.search(r"\?query=team%3Ablue\+user-1&status=processing$", page.url)
    page.reload()
    row(page, "t1").wait_for()
    assert page.locator("#body a").all_inner_texts() == ["t1"]
    page.get_by_label("Search").fill("nobody")
    page.get_by_text("No task is like that.").wait_for()


def test_a_task_is_shown_with_its_story_and_result(open_page: Open, daemon: Daemon) -> None:
    """By keyboard alone; what lies elsewhere is asked for only when a person wants to see it."""
    output = {"images": [{"url": "https://cdn.example.com/a.png"}], "seed": 7}
    submit(daemon, "t", run="0s", output=output)
    daemon.client.wait("t")
    page = open_page("?view=ended")
    link = page.get_by_role("link", name="t", exact=True)
    link.focus()
    page.keyboard.press("Enter")
    detail = page.get_by_role("complementary", name="One task")
    detail.get_by_role("heading", name="t", exact=True).wait_for()
    assert page.url.endswith("task=t")
    moments = eventually(lambda: detail.locator(".story .badge").all_inner_texts())
    assert [moments[0], moments[1], moments[-1]] == ["accepted", "creating", "succeeded"]
    assert json.loads(detail.locator("pre").first.inner_text()) == output
    detail.get_by_role("button", name="Show the picture from cdn.example.com").wait_for()
    page.keyboard.press("Escape")
    assert link.evaluate("node => node === document.activeElement")
    assert "task=" not in page.url


def test_a_task_can_be_cancelled(open_page: Open, daemon: Daemon) -> None:
    """After a question; what the daemon refuses is said there."""
    submit(daemon, "t", run="10m")
    daemon.call("GET", "/v1/tasks/t?wait=1s")
    page = open_page("?task=t")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Back").click()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the task").click()
    page.locator("#detail .badge").first.get_by_text("cancelled").wait_for()
    assert daemon.client.get("t")["status"] == "cancelled"


def test_it_survives_a_restart(open_page: Open, daemon: Daemon) -> None:
    """It says that the daemon is away, and goes on when it is back, with what happened meanwhile."""
    port = daemon.tcp_url.rpartition(":")[2]
    daemon.config.write_text(daemon.config.read_text().replace("port = 0", f"port = {port}"))
    submit(daemon, "t", run="4s")
    page = open_page()
    row(page, "t").wait_for()
    daemon.stop()
    page.get_by_text("the daemon is away").wait_for()
    page.get_by_text("this is what was seen last").wait_for()
    daemon.start()
    page.get_by_role("status").get_by_text("live").wait_for()
    page.get_by_role("button", name="Ended 1").click()
    row(page, "t").get_by_text("succeeded").wait_for()


def test_what_tasks_say_is_text(open_page: Open, daemon: Daemon, simulator: Simulator) -> None:
    """Ids apart, all of it may hold markup: users, labels, keys, results, errors."""
    submit(
        daemon,
        "good",
        user=MARKUP,
        labels={MARKUP: MARKUP},
        run="0s",
        output={"a": MARKUP, "url": f"https://x/{MARKUP}.png"},
    )
    submit(daemon, "bad", user=MARKUP, run="0s", end="failed", message=MARKUP)
    daemon.client.wait("good")
    daemon.client.wait("bad")
    page = open_page("?view=ended")
    for task_id in ("good", "bad"):
        page.get_by_role("link", name=task_id, exact=True).click()
        page.locator("#detail dt").first.wait_for()
        assert MARKUP in page.locator("#detail").inner_text()
        page.keyboard.press("Escape")
    assert page.title() == "creche"
    assert page.locator("#body img, #detail img, #body script, #detail script").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_for_those_who_cannot_see_it(open_page: Open, daemon: Daemon, scheme: str) -> None:
    """By axe-core, of the list, of a task, and of a question."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - in an environment of its own

    submit(daemon, "t", run="0s", output={"a": 1})
    submit(daemon, "u", run="10m")
    daemon.client.wait("t")
    page = open_page("?view=ended", color_scheme=scheme, bypass_csp=True)
    row(page, "t").wait_for()
    found = []
    for step in (None, "t", "u"):
        if step == "t":
            page.get_by_role("link", name="t", exact=True).click()
            page.locator("#detail pre").first.wait_for()
        elif step == "u":
            page.goto(page.url.replace("task=t", "task=u"))
            page.get_by_role("button", name="Cancel", exact=True).click()
        found += [
            (step, violation["id"], [node["html"][:120] for node in violation["nodes"]])
            for violation in Axe().run(page).response["violations"]
            if violation["impact"] in {"serious", "critical"}
        ]
    assert found == []


def test_ten_thousand_tasks(open_page: Open, daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what can be seen is in the document. How long frames took while all of it scrolled is printed."""
    daemon.submit_many(10_000, run_s=600.0, spread_s=60.0)
    page = open_page()
    page.get_by_role("button", name="In flight 10,000").wait_for(timeout=60_000)
    figures = page.evaluate(FRAMES)
    with capsys.disabled():
        print(f"\n10,000 tasks in flight, scrolled through for 8 s: {figures}")  # noqa: T201 - what the run is for
    assert figures["rows"] < 100
    page.get_by_label("Search").fill("no such task")
    page.get_by_text("No task is like that.").wait_for()


def test_pictures_for_the_docs(open_page: Open, daemon: Daemon, tmp_path: Path) -> None:
    """The list and a task, light and dark, and the list on a phone; kept where CRECHE_SCREENSHOTS says."""
    folder = Path(os.environ.get("CRECHE_SCREENSHOTS", tmp_path))
    for number in range(40):
        script = {
            "run": f"{5 + number * 3}s",
            "output": {"images": [{"url": "https://cdn.example.com/lighthouse.png"}], "seed": number},
        }
        daemon.client.submit(
            "sim",
            user=("anna", "bert", "carla")[number % 3],
            input={"prompt": "a lighthouse", "simulate": {"queue": "1s", **script}},
        )
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme)
        page.get_by_role("button", name="Ended 3").wait_for(timeout=60_000)
        page.screenshot(path=folder / f"dashboard-{scheme}.png")
        page.get_by_role("button", name=re.compile("Ended")).click()
        page.locator("#body a").first.click()
        page.locator("#detail pre").first.wait_for()
        page.screenshot(path=folder / f"dashboard-task-{scheme}.png")
    page = open_page(viewport={"width": 390, "height": 780}, color_scheme="light")
    page.locator("#body a").first.wait_for()
    page.screenshot(path=folder / "dashboard-phone.png")


def test_the_program_of_the_docs_resumes(browser: Browser, daemon: Daemon) -> None:
    """docs/how-to/listen.md, for browsers: by the cursor that it keeps, also over a reload."""
    [text] = re.findall(r"^```js\n(.+?)^```", LISTEN.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    port = daemon.tcp_url.rpartition(":")[2]
    program = text.replace("8787", port).replace("&user=u17", f"&user=anna&token={TOKEN}")
    context = browser.new_context()
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda line: heard.append(line.text))

    def listen() -> None:
        page.goto(f"{daemon.tcp_url}/healthz")
        page.evaluate(program)
        page.wait_for_function("() => localStorage.getItem('cursor')")

    listen()
    submit(daemon, "t1", run="0s")
    submit(daemon, "t2", user="bert", run="0s")
    eventually(lambda: page.wait_for_timeout(100) or any("t1 succeeded" in line for line in heard))
    page.goto("about:blank")
    submit(daemon, "t3", run="0s")
    daemon.client.wait("t3")
    listen()
    eventually(lambda: page.wait_for_timeout(100) or any("t3 succeeded" in line for line in heard))
    assert [line.split()[0] for line in heard if "succeeded" in line] == ["t1", "t3"]
    context.close()
