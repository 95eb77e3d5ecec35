"""How large the page of a report is, and how long Chromium takes to draw it, from the file to the last chart.

    python -m tests.benchmarks.bench_report runs/digits
    python -m tests.benchmarks.bench_report runs/digits --repeat 10

"first" is when all charts of the first screen are drawn, "all" when every chart is; milliseconds since the file was
asked for, median and range of several loads, each in a new context. A load before them, which starts Chromium's
processes, does not count.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

from nasdeploy.report.page import page_of
from nasdeploy.store.run import Run
from nasdeploy.workflows.report import report_of
from tests.report.browser import SIZE, chromium

MARKS = ("first", "all")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    page = page_of([report_of(Run.open(path)) for path in given.runs])
    print(f"size: {len(page.encode()) / 1e6:.2f} MB")
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        path = Path(folder) / "report.html"
        path.write_text(page, encoding="utf-8")
        found: dict[str, list[float]] = {mark: [] for mark in MARKS}
        for load in range(given.repeat + 1):
            context = browser.new_context(viewport=SIZE)
            tab = context.new_page()
            said: list[str] = []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("request", lambda request, said=said: request.url.startswith("file:") or said.append(request.url))
            tab.goto(path.as_uri())
            tab.wait_for_selector("html[data-drawn=all]", state="attached", timeout=300_000)
            times = {mark: tab.evaluate(f"performance.getEntriesByName('{mark}')[0].startTime") for mark in MARKS}
            if load:
                for mark in MARKS:
                    found[mark].append(times[mark])
            context.close()
            assert said == [], said
    for mark in MARKS:
        low, high = min(found[mark]), max(found[mark])
        print(f"{mark}: median {median(found[mark]):.0f} ms, {low:.0f} to {high:.0f} in {given.repeat} loads")


if __name__ == "__main__":
    main()
