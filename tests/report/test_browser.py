"""A report in a real browser: nothing missing, nothing on the console, nothing from the network, and it prints."""

import base64
import json
import re
import shutil
import subprocess

import matplotlib

matplotlib.use("Agg")

import itertools

import pytest

import contract_models as contract
import deepnlme as dn
from deepnlme.report import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
    pytest.mark.skipif(DRIVER is None, reason="no chromedriver on this machine: apt-get install chromium-driver"),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1200,900",
)
A4 = (210 / 25.4, 297 / 25.4)
"""[inches]"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    frame = contract.records([[0.5, 1.0, 3.0, 8.0], [0.3, 2.0, 6.0], [1.0, 4.0, 9.0]] * 4, seed=5)
    frame["WT"] = 60.0 + 2.0 * frame["ID"]
    population = dn.read_nonmem(frame, covariates=["WT"])
    fit = dn.fit(contract.Oral(), population, options=dn.Options(progress=False))
    reduced = dn.fit(contract.Oral(ka=dn.Positive(1.1, fixed=True)), population, options=dn.Options(progress=False))
    path = tmp_path_factory.mktemp("browser") / "report.html"
    return report(fit, path, title="A report", against={"fixed ka": reduced}, replicates=50, subjects="all")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser with an empty profile that records what it asks of a network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def opened(browser, file):
    """The browser with the page, what was asked for to show it, and what it wrote on its console."""
    browser.get("about:blank")
    browser.get_log("performance")  # what its own first page has asked for
    browser.get(file.as_uri())
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    return browser, asked, browser.get_log("browser")


def test_nothing_on_the_console_and_nothing_from_a_network(opened, file):
    _, asked, console = opened
    assert console == []
    assert asked.count(file.as_uri()) == 1
    assert all(url == file.as_uri() or url.startswith("data:") for url in asked), asked


def test_the_checks_would_notice(browser, tmp_path):
    """A page with an error, a missing image and a request makes both lists longer."""
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="missing.png"><img src="http://127.0.0.1:9/x.png"><script>console.error("no")</script>')
    browser.get(bad.as_uri())
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert "http://127.0.0.1:9/x.png" in asked and browser.get_log("browser")
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert widths == [0, 0]


@pytest.fixture
def page(browser, file):
    browser.get(file.as_uri())
    return browser


def test_every_image_is_there(page):
    found = page.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.clientWidth, i.alt])"
    )
    assert len(found) >= 10
    for complete, width, height, shown, alt in found:
        assert complete and width > 100 and height > 50 and shown > 100 and alt


def test_headings_anchors_and_language(page):
    levels = page.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    broken = page.execute_script(
        "return [...document.querySelectorAll('a')].map(a => a.getAttribute('href'))"
        ".filter(h => !h.startsWith('#') || !document.getElementById(h.slice(1)))"
    )
    assert broken == []
    assert page.execute_script("return document.documentElement.lang") == "en" and page.title == "A report"
    assert page.execute_script("return document.scripts.length") == 0


@pytest.mark.parametrize("width", [1200, 800, 400])
def test_nothing_is_wider_than_the_window(page, width):
    """Wide tables and listings scroll in their own boxes."""
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", dict(width=width, height=900, deviceScaleFactor=1, mobile=False)
    )
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_text_has_contrast(page):
    """WCAG 2, level AA: a ratio of 4.5 between text and white or the grey behind tables."""
    found = page.execute_script(
        "return [...document.querySelectorAll('p,li,td,th,a,h1,h2,h3,figcaption,caption,code')]"
        ".map(e => getComputedStyle(e).color)"
    )
    for colour in set(found):
        rgb = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert (0.9 + 0.05) / (luminance + 0.05) >= 4.5, colour


def test_prints_on_a4(page, tmp_path):
    """Several pages, every one with text, no image higher than a page or wider than the paper."""
    done = page.execute_cdp_cmd("Page.printToPDF", dict(preferCSSPageSize=True, printBackground=True))
    pdf = base64.b64decode(done["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
    boxes = [tuple(float(v) / 72 for v in m.split()[2:]) for m in re.findall(rb"/MediaBox \[([\d. ]+)\]", pdf)]
    assert len(boxes) >= 8
    assert all(box == pytest.approx(A4, abs=0.02) for box in boxes)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        tall = page.execute_script(
            "return Math.max(...[...document.images].map(i => i.getBoundingClientRect().height))"
        )
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert tall <= (297 - 38) / 25.4 * 96
    if shutil.which("pdftotext"):
        (tmp_path / "report.pdf").write_bytes(pdf)
        text = subprocess.run(
            ["pdftotext", tmp_path / "report.pdf", "-"], capture_output=True, text=True, check=True
        ).stdout
        pages = text.split("\f")[: len(boxes)]
        assert all(len(part.split()) > 3 for part in pages)
        assert "Parameter estimates" in text and f"1 / {len(boxes)}" in text
