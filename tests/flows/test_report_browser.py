"""The page of a run in a real browser: a phone's width and a desk's, light and dark, without a complaint."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.report.page import write_page
from tests.flows.test_lane import Bench
from tests.flows.test_report_page import HOSTILE

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars",
)  # fmt: skip
WIDTHS = {"phone": 390, "desk": 1280}
# Said in the page's own title: how wide what it holds is, and how much of it stands beyond its right edge.
MEASURE = """<script>
const wide = document.documentElement.clientWidth;
const over = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, pre, svg")
    && e.getBoundingClientRect().right > wide + 1).map(e => e.tagName);
document.title = `measured ${document.documentElement.scrollWidth} of ${wide}, over: ${over.join(" ") || "none"}`;
</script></body>"""

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = [f"{'long ' * (row % 60)}prompt {row % 150}" for row in range(200)]
    made = Bench(tmp_path_factory.mktemp("page"), [*prompts, *HOSTILE, ""])
    return write_page(made.run(fails=lambda request: "prompt 7" in request.messages[-1].content).run)


def browsed(page: Path, profile: Path, *more: str, width: int = 1280) -> "subprocess.CompletedProcess[str]":
    command = [
        str(BROWSER), *QUIET, "--enable-logging=stderr", f"--user-data-dir={profile}", f"--window-size={width},900",
        *more, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_an_error_on_the_console(page: Path, tmp_path: Path, scheme: str) -> None:
    dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    picture = tmp_path / "page.png"
    done = browsed(page, tmp_path / "profile", f"--screenshot={picture}", *dark)
    assert "CONSOLE" not in done.stderr
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_nothing_stands_beyond_the_edge(page: Path, tmp_path: Path, width: int) -> None:
    measured = tmp_path / "measured.html"
    measured.write_text(page.read_text(encoding="utf-8").replace("</body>", MEASURE), encoding="utf-8")
    done = browsed(measured, tmp_path / "profile", "--dump-dom", width=max(width, 500))
    told = re.search(r"<title>(measured [^<]*)</title>", done.stdout)
    assert told is not None
    assert told.group(1).endswith("over: none"), told.group(1)


def test_what_a_dataset_says_does_nothing(page: Path, tmp_path: Path) -> None:
    done = browsed(page, tmp_path / "profile", "--dump-dom")
    assert "CONSOLE" not in done.stderr
    assert "<script" not in done.stdout
