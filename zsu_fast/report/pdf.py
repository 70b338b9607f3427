"""The report as PDF: the page as a browser without a window prints it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from zsu_fast.atomic import replacing

BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge",
)  # fmt: skip
SECONDS = 120


def find_browser() -> str:
    """Path of a browser that prints. FileNotFoundError, with the way out, if there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise FileNotFoundError(
            f"a PDF needs a browser that prints, and none is on the PATH ({', '.join(BROWSERS)}): take html, open it "
            "in any browser and print it to a PDF"
        )
    return found


def write(page: str, path: Path) -> None:
    """Print the HTML text to a file, whole or not at all.

    Raises:
        FileNotFoundError: no browser.
        RuntimeError: it does not do it.
    """
    browser = find_browser()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, replacing(path) as temporary:
        source, printed = Path(folder) / "report.html", Path(folder) / "report.pdf"
        source.write_text(page, encoding="utf-8")
        command = [
            browser, "--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}/profile",
            "--no-pdf-header-footer", f"--print-to-pdf={printed}", source.as_uri(),
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # Chromium's does not start for root; the page has no script
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"{browser} did not print the report: {error}") from error
        if done.returncode != 0 or not printed.is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"{browser} did not print the report: {said[-1] if said else done.returncode}")
        shutil.copyfile(printed, temporary)
