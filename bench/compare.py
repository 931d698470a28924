"""Every comparison on this machine, side by side in one run; scripts/bench calls it.

    scripts/bench                              all of it, about an hour and a half
    scripts/bench --tasks 2000 --latency 5 --contenders creche,goroutines --runs 1 --cases none
    scripts/bench --cases submit,restart --contenders none
    scripts/bench --from bench/results/….json --publish

What is measured runs on the first core, provider, Valkey and load on the last. Polls are counted by the provider, CPU
time (children included) is read from /proc, ratios are taken within a round and their median is shown. The table goes
to standard output, progress to standard error, everything to a JSON file. Exit code 0, whatever the figures: what is
missing or missed is said.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cases import CASES, SMOKE, Sizes, run_cases
from contenders import CONTENDERS
from machine import ROOT, bind_nobody, conditions, each
from minders import Pace, Setting, compare
from plot import draw
from report import Missing, Report, say
from stage import provider_is_missing

RESULTS = ROOT / "bench/results"
PAGE = ROOT / "docs/explanation/performance.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
TLS_TASKS = 6000
SMOKE_AT_ONCE = 10


def main() -> None:
    """Measure (or read an earlier result), print, write, publish."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an interrupt: everything that was started is ended
    if options.earlier is not None:
        report = Report.from_json(json.loads(options.earlier.read_text(encoding="utf-8")))
    else:
        report = _measure(options)
        _write(report, options.out)
    print(report.as_markdown())
    if options.publish:
        publish(report)


def publish(report: Report) -> None:
    """Put the tables and the drawing into the docs."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    drawing = PAGE.with_suffix(".svg")
    _draw(report, drawing)
    shown = f"![Processor time per poll]({drawing.name})\n\n" if report.minding else ""
    PAGE.write_text(f"{before}{BEGIN}\n{shown}{report.as_markdown()}{END}{after}", encoding="utf-8")


def _measure(options: argparse.Namespace) -> Report:
    if options.smoke:
        bind_nobody()
        pace, sizes = Pace(seconds=1.0, runs=1, warm_s=0.0, patience_s=12.0), SMOKE
        settings = [Setting(30, 5), Setting(30, 5, tls=True)]
    else:
        pace, sizes = Pace(seconds=options.seconds, runs=options.runs, warm_s=4.0, patience_s=25.0), Sizes()
        settings = [Setting(tasks, latency_ms) for latency_ms in options.latency for tasks in options.tasks]
        settings += [Setting(TLS_TASKS, latency_ms, tls=True) for latency_ms in options.latency if options.tls]
    report = Report({**conditions(), "runs": pace.runs, "seconds": pace.seconds, "smoke": options.smoke})
    contenders = [one for one in CONTENDERS if one.name in options.contenders]
    if why := provider_is_missing():
        report.missing.append(Missing("the provider, and so every figure", why))
        report.missing += [Missing(one.name, cause) for one in contenders if (cause := one.missing())]
    else:
        at_once = SMOKE_AT_ONCE if options.smoke else 1
        parts: list[Callable[[], None]] = [
            lambda: compare(report, contenders, settings, pace, at_once=at_once),
            lambda: run_cases(report, options.cases, sizes, pace, at_once=at_once),
        ]
        each(lambda part: part(), parts, at_once=at_once)
    report.conditions["load_after"] = round(os.getloadavg()[0], 2)
    return report


def _write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _draw(report, path.with_suffix(".svg"))
    say(f"written: {path}")


def _draw(report: Report, path: Path) -> None:
    if report.minding:
        found = report.conditions
        note = f"{found['when']}, {found['cpu']}, {found['cores']} cores, medians of {found['runs']} runs"
        path.write_text(draw(report.minding, note), encoding="utf-8")


def _options() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    def names_of(known: list[str]):  # noqa: ANN202 - a converter for argparse
        def names(text: str) -> list[str]:
            chosen = [] if text == "none" else text.split(",")
            if unknown := set(chosen) - set(known):
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
            return chosen

        return names

    contenders, cases = [one.name for one in CONTENDERS], list(CASES)
    head, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=head, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=numbers, default=[500, 2000, 6000, 12_000], help="how many, 500,2000")
    parser.add_argument("--latency", type=numbers, default=[5, 150], help="of the provider, in ms")
    parser.add_argument("--no-tls", dest="tls", action="store_false", help=f"leave out {TLS_TASKS:,} tasks over TLS")
    parser.add_argument("--contenders", type=names_of(contenders), default=contenders, help="names, or none")
    parser.add_argument("--cases", type=names_of(cases), default=cases, help="names, or none")
    parser.add_argument("--runs", type=int, default=3, help="rounds; their median counts")
    parser.add_argument("--seconds", type=float, default=15.0, help="measured in each run, once it is warm")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the drawing")
    parser.add_argument("--smoke", action="store_true", help="everything tiny, in seconds: does it still work?")
    parser.add_argument("--from", dest="earlier", type=Path, metavar="JSON", help="show an earlier result instead")
    parser.add_argument("--publish", action="store_true", help="put tables and drawing into docs/explanation/")
    return parser.parse_args()


if __name__ == "__main__":
    main()
