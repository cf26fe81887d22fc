"""The report: one file that needs nothing else, whose figures are those of the record."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from napari_diffseg.cli import main as run_command
from napari_diffseg.core.brats import Case
from napari_diffseg.core.describe import describe_result
from napari_diffseg.core.ensemble import Ensemble
from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.export import record_to_json
from napari_diffseg.core.record import EditRecord, ModelRecord, ResultRecord, RunRecord
from napari_diffseg.core.reopen import read_record
from napari_diffseg.core.report import N_PICTURES, choose_slices, make_report, save_report
from tests.core.synthetic import synthetic_case

HOSTILE = "<img src=x onerror=alert(1)></script><b>Case&1"

RUN = RunRecord(
    model=ModelRecord("tiny", "tiny.safetensors", "0" * 64, {"note": HOSTILE}, "A test model."),
    sampler="ddim",
    n_steps=4,
    eta=0.5,
    mirror=False,
    seed=7,
    seeding="each on its own",
    first_member=0,
    device="cpu",
    elapsed_s=1.5,
    messages=("Memory ran out once.",),
)


@pytest.fixture(scope="module")
def case() -> Case:
    return synthetic_case()


@pytest.fixture(scope="module")
def ensemble(case: Case) -> Ensemble:
    """Give three members: the truth, and the truth one voxel to either side."""
    assert case.wt_truth is not None
    ensemble = Ensemble(3, case.geometry.shape)
    for member, shift in enumerate((0, 1, -1)):
        for z in range(case.geometry.shape[0]):
            ensemble.add(member, z, np.roll(case.wt_truth[z], shift, 1) * np.uint8(255))
    return ensemble


@pytest.fixture(scope="module")
def record(case: Case, ensemble: Ensemble) -> ResultRecord:
    return describe_result(case, ensemble, RUN)


class Page(HTMLParser):
    """Collects tags, addresses and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = self.record = ""
        self.rows: list[list[str]] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.record += data
        elif self._inside != "style":
            self.text += data + "\n"
            if self._inside in ("td", "th"):
                self.rows[-1][-1] += data

    def row_below(self, heading: str) -> dict[str, str]:
        """Return the first row of the table with this heading, by headings."""
        index = next(i for i, row in enumerate(self.rows) if heading in row)
        return dict(zip(self.rows[index], self.rows[index + 1], strict=True))


def list_figures(record: ResultRecord) -> list[str]:
    """Return the figures of a record as the report has to show them."""
    assert record.scores is not None
    assert record.confidence is not None
    assert record.lesions is not None
    assert record.verdict is not None
    volume = record.volume
    span = f"{volume.low_ml:.2f} to {volume.high_ml:.2f} mL"
    assert volume.likely_high_ml is not None
    assert volume.likely_high_ml < 100
    digits = 2 if volume.likely_high_ml < 10 else 1
    return [
        f"{volume.mask_ml:.2f} mL",
        f"{span}, {volume.interval} of {len(volume.members_ml)} samples",
        f"{volume.likely_low_ml:.{digits}f}–{volume.likely_high_ml:.{digits}f}",
        "held the true volume of 46 of 58 patients",
        f"{volume.expected_ml:.2f} mL",
        f"{record.confidence:.3f}",
        f"{record.scores.dice:.3f}",
        f"HD95 {record.scores.hd95_mm:.1f} mm",
        record.verdict.text,
        *(f"{lesion.volume_ml:.2f}" for lesion in record.lesions.lesions[:1]),
        *(f"{entry.disagreement_mm:.2f}" for entry in record.work_list[:12]),
    ]


def test_the_figures_are_those_of_the_record(
    case: Case, ensemble: Ensemble, record: ResultRecord
) -> None:
    page = Page(make_report(case, ensemble, record))
    assert json.loads(page.record) == json.loads(record_to_json(record, {}))
    for figure in list_figures(record):
        assert figure in page.text
    for expected in (
        "ddim, 4 steps, seed 7",
        "A test model.",
        "Memory ran out once.",
        RUN.model.sha256,
        "Research use only, not a medical device.",
    ):
        assert expected in page.text
    lesions = record.lesions.lesions
    assert lesions  # or nothing of them would be looked at here
    rows = len(record.work_list[:12]) + len(lesions)
    assert page.tags.count("tr") >= rows
    # Each number below its own heading.
    largest = page.row_below("Mean p")
    assert largest["Mean p"] == f"{lesions[0].mean_probability:.2f}"
    assert lesions[0].disagreement is not None
    assert float(largest["Disagreement"]) == pytest.approx(lesions[0].disagreement, abs=0.006)
    entry = next(each for each in record.slices if each.slice == record.work_list[0].slice)
    work = page.row_below("Samples, mL")
    assert float(work["Mask, mL"]) == pytest.approx(entry.mask_ml, abs=6e-4)
    assert " to " in work["Samples, mL"]


def test_the_page_needs_nothing_else(case: Case, ensemble: Ensemble, record: ResultRecord) -> None:
    html = make_report(case, ensemble, record)
    page = Page(html)
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|http://|https://", html)
    assert page.tags.count("img") == 2 * len(choose_slices(record, 1.0)) > 0
    assert "svg" in page.tags


def test_names_are_text_and_not_html(case: Case, ensemble: Ensemble, record: ResultRecord) -> None:
    renamed = replace(case, name=HOSTILE)
    hostile = replace(record, case=replace(record.case, name=HOSTILE, notes=(HOSTILE,)))
    page = Page(make_report(renamed, ensemble, hostile))
    plain = Page(make_report(case, ensemble, replace(record, case=replace(record.case, notes="n"))))
    assert page.tags == plain.tags
    assert HOSTILE in page.text
    assert json.loads(page.record)["run"]["model"]["provenance"]["note"] == HOSTILE


def test_slices_to_look_at_are_apart_and_the_largest_is_one(record: ResultRecord) -> None:
    chosen = [number for number, _ in choose_slices(record, 1.0)]
    largest = max(record.slices, key=lambda entry: entry.mask_mm2).slice
    assert chosen[0] == largest
    gaps = np.diff(sorted(chosen))
    assert (gaps >= 5).all()
    assert len(choose_slices(record, 100.0)) > len(chosen)  # thick slices are never neighbours


def test_where_nothing_is_marked_the_slices_are_those_of_the_work_list(
    record: ResultRecord,
) -> None:
    empty = [replace(entry, mask_mm2=0.0) for entry in record.slices]
    unmarked = replace(record, slices=tuple(empty))
    assert [number for number, _ in choose_slices(unmarked, 100.0)] == [
        entry.slice for entry in record.work_list[:N_PICTURES]
    ]
    agreed = replace(unmarked, work_list=())
    middle = record.slices[len(record.slices) // 2].slice
    assert choose_slices(agreed, 1.0) == [(middle, "the middle, nothing is marked")]


def test_an_edited_mask_is_said_to_be_edited(
    case: Case, ensemble: Ensemble, record: ResultRecord
) -> None:
    edited = np.zeros(case.geometry.shape, bool)
    changed = replace(record, edited=EditRecord(3, 21, 0.5, 0.25, "abc"))
    text = Page(make_report(case, ensemble, changed, edited)).text
    assert "edited by hand: 3 voxels were added and 21 removed" in text


def test_an_empty_mask_without_truth_is_reported(case: Case) -> None:
    empty = Ensemble(1, case.geometry.shape)
    empty.add(0, 3, np.zeros(case.geometry.shape[1:], np.uint8))
    bare = replace(case, wt_truth=None, labels=None)
    text = Page(make_report(bare, empty, describe_result(bare, empty, RUN))).text
    assert "The mask is empty." in text
    assert "It takes two samples to disagree." in text
    assert "Dice with the truth" not in text


def test_a_run_that_was_stopped_says_which_slices_it_is_about(
    case: Case, ensemble: Ensemble, record: ResultRecord
) -> None:
    maps = replace(record.maps, judged_slices=((1, 3), (6, 6)), whole_volume=False)
    page = make_report(case, ensemble, replace(record, maps=maps))
    assert "All figures are about slices 1 to 3, 6 only." in page
    assert "volume is that of a part of the tumour" in page
    assert "part of the tumour" not in make_report(case, ensemble, record)


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, case: Case, ensemble: Ensemble, record: ResultRecord
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiffsegError, match=r"file.* cannot be made"):
        save_report(tmp_path / "file" / "report.html", case, ensemble, record)


def find_browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on this machine to open the report in")


OWN_HOSTS = {  # what Chromium itself would like to know, whatever page is open
    "accounts.google.com",
    "android.clients.google.com",
    "clients2.google.com",
    "content-autofill.googleapis.com",
    "edgedl.me.gvt1.com",
    "optimizationguide-pa.googleapis.com",
    "redirector.gvt1.com",
    "safebrowsing.googleapis.com",
    "update.googleapis.com",
    "www.google.com",
}


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page: its DOM, complaints in the console, hosts it asked."""

    page: Page
    console: list[str]
    hosts: set[str]


def open_in_browser(path: Path, folder: Path) -> Visit:
    """Open a file in a Chromium that finds no host, in a new profile."""
    log = folder / "net.json"
    process = subprocess.run(
        [
            find_browser(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    asked = re.findall(r'"url":"https?://([^/":]+)', log.read_text(encoding="utf-8"))
    console = [line for line in process.stderr.splitlines() if "CONSOLE" in line]
    return Visit(Page(process.stdout), console, set(asked) - OWN_HOSTS)


def test_a_browser_opens_it_without_a_request_or_an_error(
    tmp_path: Path, case: Case, ensemble: Ensemble, record: ResultRecord
) -> None:
    path = save_report(tmp_path / "report.html", case, ensemble, record)
    visit = open_in_browser(path, tmp_path)
    assert visit.console == []
    assert visit.hosts == set()
    for figure in list_figures(record):
        assert figure in visit.page.text
    assert json.loads(visit.page.record) == json.loads(record_to_json(record, {}))


def test_a_browser_opens_the_report_of_a_real_case(tmp_path: Path, brats_data: Path) -> None:
    case = brats_data / "original" / "BraTS2021_00006"
    arguments = ["segment", str(case), "--out", str(tmp_path), "--slices", "70:74", "--report"]
    assert run_command([*arguments, "--samples", "3", "--threads", "1"]) == 0
    record, _ = read_record(tmp_path / "BraTS2021_00006_diffseg.json")
    visit = open_in_browser(tmp_path / "BraTS2021_00006_report.html", tmp_path)
    assert visit.console == []
    assert visit.hosts == set()
    for figure in list_figures(record):
        assert figure in visit.page.text
    saved = (tmp_path / "BraTS2021_00006_diffseg.json").read_text(encoding="utf-8")
    shown = json.loads(visit.page.record)
    assert {**json.loads(saved), "files": None} == {**shown, "files": None}


def test_a_page_that_asks_for_something_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<link rel=stylesheet href=https://fonts.googleapis.com/css><script>x</script>")
    visit = open_in_browser(path, tmp_path)
    assert visit.hosts == {"fonts.googleapis.com"}
    assert visit.console
