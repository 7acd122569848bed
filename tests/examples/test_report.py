"""report.py: one page that holds everything, is well-formed, and says what the run's own files say."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import charts
import exhibits
import heatmaps
import models
import networks
import numpy as np
import page
import plots
import pytest
import record
import report as script
import sections
import testset
import torch
import trained
from evaluation import Evaluation, evaluate
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import nn

PARTS = ("training", "test")
"""What a run on all training images has figures of."""
VOID = {"img", "meta", "source", "br", "link"}
LOADING = {"src", "srcset", "data", "poster", "action", "background"}


class Page(HTMLParser):
    """Reads a page and fails where its tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.images: list[dict[str, str]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.headings: list[str] = []
        self.tags: list[str] = []
        self.terms: dict[str, str] = {}
        self._text = ""
        self._rows: list[list[str]] = []
        self._caption = self._term = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        assert len(found) == len(attrs), f"an attribute twice in <{tag}>"
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(found)
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag == "small":
            self.terms[self._term] = self._text
        if tag == "th":
            assert found["scope"] in ("row", "col")
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.loaded += [value for name, value in found.items() if name in LOADING or (tag == "link" and name == "href")]
        self._text = ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self._rows[-1].append(self._text)
        if tag == "caption":
            self._caption = self._text
        if tag == "table":
            self.tables[self._caption] = self._rows
        if tag == "dt":
            self._term = self._text
        if tag in ("h1", "h2", "h3"):
            self.headings.append(self._text)

    def table(self, start: str) -> list[list[str]]:
        (found,) = (rows for caption, rows in self.tables.items() if caption.startswith(start))
        return found


@pytest.fixture(scope="session")
def reported(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a report that compares it to another; no test changes it."""
    folder = tmp_path_factory.mktemp("reported")
    for name in ("first", "second"):
        shutil.copytree(digits_run, folder / name)
    assert script.main([str(folder / "first"), str(folder / "second"), "--device", "cpu"]) == 0
    return folder / "first"


@pytest.fixture(scope="session")
def text(reported: Path) -> str:
    return (reported / "report" / "index.html").read_text()


@pytest.fixture(scope="session")
def shown(text: str) -> Page:
    return Page(text)


@pytest.fixture(scope="session")
def found(digits_run: Path) -> Evaluation:
    network = trained.load(digits_run, device="cpu")
    return evaluate(network, testset.read(network).images)


def test_page_needs_no_other_file_and_no_other_host(text: str, shown: Page) -> None:
    assert len(shown.loaded) > 40
    assert all(value.startswith("data:image/png;base64,") for value in shown.loaded)
    assert not re.search(r"@import|url\(|https?:|<script", text)
    assert "Content-Security-Policy\" content=\"default-src 'none'" in text


def test_page_can_be_read_without_seeing_it(shown: Page) -> None:
    assert all(image["alt"] for image in shown.images)
    assert len(set(shown.ids)) == len(shown.ids)
    assert {link.removeprefix("#") for link in shown.links} <= set(shown.ids)
    assert shown.headings[0] == "first"
    assert shown.headings.count("first") == shown.tags.count("h1") == shown.tags.count("main") == 1
    for rows in shown.tables.values():
        assert len({len(row) for row in rows}) == 1
        assert len(rows) > 1


def test_embedded_pictures_are_those_beside_the_page(reported: Path, shown: Page) -> None:
    embedded = {base64.b64decode(value.partition(",")[2]) for value in shown.loaded}
    names = {path.name for path in (reported / "report").iterdir()}
    drawn_twice = {"curves", "compare", "per-class", "confusion"}
    in_page = {f"{name}{theme}.png" for name in drawn_twice for theme in ("", "-dark")} | {"augmented.png"}
    assert names == in_page | {"mistakes.png", "grad-cam.png", "index.html"}
    for name in names - {"index.html"}:
        content = (reported / "report" / name).read_bytes()
        assert (content in embedded) == (name in in_page)
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.std() > 5, f"{name} is empty"


def test_dark_charts_are_dark(reported: Path) -> None:
    for name in ("curves", "compare", "per-class", "confusion"):
        for suffix, dark in (("", False), ("-dark", True)):
            with Image.open(reported / "report" / f"{name}{suffix}.png") as image:
                assert (np.median(np.asarray(image.convert("L"))) < 128) == dark


def test_figures_equal_the_metrics(digits_run: Path, shown: Page) -> None:
    metrics = json.loads((digits_run / "metrics.json").read_text())
    last = metrics["last_epoch"]
    assert shown.terms["Test accuracy"] == f"{last['test_acc']:.2f} %"
    assert shown.terms["Test loss"] == f"{last['test_loss']:.4f}"
    assert shown.terms["Validation accuracy"] == f"{last['val_acc']:.2f} %"
    assert shown.terms["Parameters"] == f"{metrics['parameters']:,}"
    rows = shown.table("What the run noted itself")
    expected = ["last epoch", "1", *(f"{last[f'{part}_acc']:.2f}" for part in ("train", "val", "test"))]
    assert rows[1][:5] == expected
    assert [row[0] for row in shown.table("The runs")] == ["run", "first", "second"]
    assert shown.table("The runs")[2][4:9:2] == ["1,293", "1", f"{last['test_acc']:.2f}"]


@pytest.fixture
def on_all(digits_run: Path, tmp_path: Path) -> Path:
    """What three epochs on all training images leave behind, with the checkpoint of the other run."""
    run = Path(shutil.copytree(digits_run, tmp_path / "on-all"))
    (run / "best.pt").unlink()
    config, metrics = (json.loads((run / name).read_text()) for name in ("config.json", "metrics.json"))
    config["images"] = {"train": 1437, "validation": 0, "test": 360}
    figures = {key: value for key, value in metrics["last_epoch"].items() if not key.startswith("val_")}
    metrics |= {"images": config["images"], "last_epoch": figures, "best_on_validation": None}
    for name, content in (("config.json", config), ("metrics.json", metrics)):
        (run / name).write_text(json.dumps(content))
    row = "0.1,0.5,80"
    lines = ["epoch,lr,train_loss,train_acc,test_loss,test_acc", f"1,{row},,", f"2,{row},,", f"3,{row},0.25,95"]
    (run / "log.csv").write_text("\n".join(lines) + "\n")
    return run


def test_a_run_on_all_images_shows_no_validation(on_all: Path, digits_run: Path) -> None:
    assert script.main([str(on_all), str(digits_run), "--device", "cpu"]) == 0
    shown = Page((on_all / "report" / "index.html").read_text())
    assert shown.terms["Training images"] == "1,437"
    assert "Validation accuracy" not in shown.terms
    noted = shown.table("What the run noted itself")
    assert noted[0][2:] == [f"{part} {kind}" for kind in ("accuracy,\N{NO-BREAK SPACE}%", "loss") for part in PARTS]
    assert [row[0] for row in noted[1:]] == ["last epoch"]
    (alt,) = (image["alt"] for image in shown.images if image["alt"].startswith("Loss, accuracy and learning rate"))
    assert "validation" not in alt
    assert alt.endswith("test loss 0.250, accuracy 95.0 % after the last one.")
    runs = {row[0]: row for row in shown.table("The runs")}
    assert [runs[name][4] for name in ("on-all", "digits")] == ["1,437", "1,293"]
    assert runs["on-all"][8] == ""
    assert runs["digits"][8] != ""


def test_an_interrupted_run_on_all_images_has_no_test_figures(on_all: Path) -> None:
    lines = (on_all / "log.csv").read_text().splitlines()[:3]
    (on_all / "log.csv").write_text("".join(",".join(line.split(",")[:4]) + "\n" for line in lines))
    metrics = json.loads((on_all / "metrics.json").read_text())
    for key in ("test_loss", "test_acc"):
        del metrics["last_epoch"][key]
    (on_all / "metrics.json").write_text(json.dumps(metrics))
    found = record.read(on_all)
    assert "training loss from 0.500 to 0.500" in sections.learning_curves(found).html
    assert "Training loss over the epochs of " in sections.side_by_side([found, found]).html


def test_curves_show_what_was_measured(on_all: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(charts, "_png", lambda figure: figures.append(figure) or b"")
    monkeypatch.setattr(plots, "_png", lambda figure: figures.append(figure) or b"")
    log = record.read(on_all).log
    whole = [row | {f"{part}_{kind}": 1.0 for part in ("val", "test") for kind in ("loss", "acc")} for row in log]
    charts.curves(log, charts.LIGHT)
    plots.curves("title", log)
    for figure in figures:
        lines = {str(line.get_label()): line for line in figure.axes[1].get_lines()}
        assert {label[:5] for label in lines} == {"train", "test"}
        assert list(lines["test"].get_xdata()) == [3]
        # A line through one point is not seen.
        assert lines["test"].get_marker() not in ("", "None")
    for logs, panels in (({"a": log}, 2), ({"a": log, "b": whole}, 3)):
        charts.compare(logs, charts.LIGHT)
        assert len(figures[-1].axes) == panels
    # A run keeps its colour in the panel where another one is absent.
    assert {axes.get_lines()[1].get_color() for axes in figures[-1].axes} == {charts.LIGHT.lines[1]}


def test_classification_report_and_confusion_equal_scikit_learn(found: Evaluation, shown: Page) -> None:
    scores: Any = precision_recall_fscore_support(found.labels, found.predictions, zero_division=0)  # pyright: ignore[reportArgumentType]
    rows = shown.table("scikit-learn's classification report")[1:11]
    for label, row in enumerate(rows):
        assert row == [str(label), *(f"{score[label]:.4f}" for score in scores[:3]), str(scores[3][label])]
    counts = confusion_matrix(found.labels, found.predictions)
    assert [[int(cell) for cell in row[1:]] for row in shown.table("Images of each true class")[1:]] == counts.tolist()


def test_mistakes_are_the_most_confident_ones(found: Evaluation, shown: Page) -> None:
    chosen = exhibits.most_confident_mistakes(found)
    wrong = found.predictions != found.labels
    confidence = found.probabilities.max(1)
    assert len(chosen) == wrong.sum()
    assert set(chosen) == set(np.flatnonzero(wrong))
    assert (np.diff(confidence[chosen]) <= 0).all()
    first = chosen[0]
    text = f"{found.predictions[first]} {confidence[first]:.1%}, not {found.labels[first]}"
    assert f"test image {first}: {text}" in {image["alt"] for image in shown.images}


def test_layers_add_up_to_the_parameters(digits_run: Path, shown: Page) -> None:
    head, whole, *rows = shown.table("Layers, and what each output sees")
    parameters, kernel = head.index("params"), head.index("k")
    assert whole[parameters] == "170,106"
    convolutions = [row for row in rows if row[1] == "Conv2d"]
    assert (len(convolutions), {row[kernel] for row in convolutions}) == (11, {"1", "3"})


@pytest.mark.parametrize(
    ("seconds", "said"), [(59.4, "59 s"), (60, "1 min 00 s"), (636.6, "10 min 37 s"), (3599.6, "1 h 00 min")]
)
def test_durations_of_two_runs_can_be_compared(seconds: float, said: str) -> None:
    assert sections._duration(seconds) == said


def test_percent_stays_with_its_word_and_figures_in_one_line() -> None:
    html = page.table("caption", ["run", "test accuracy, %"], [["one", "10 min 37 s"]])
    assert "test accuracy,\N{NO-BREAK SPACE}%" in html
    assert re.search(r"^td \{ white-space: nowrap; \}", page.document("name", "", {}), re.MULTILINE)


def test_axes_and_legends_of_a_single_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(charts, "_png", lambda figure: figures.append(figure) or b"")
    row: Any = {f"{part}_{kind}": 1.0 for part in ("train", "val", "test") for kind in ("loss", "acc")}
    charts.curves([row | {"epoch": 1, "lr": 0.0}], charts.LIGHT)
    charts.per_class(["cat", "dog"], [40.0, 60.0], 50.0, charts.LIGHT)
    rate = figures[0].axes[2]
    assert rate.get_ylim()[0] == 0
    # The line at the accuracy over all runs behind the legend that names it.
    legend = figures[1].axes[0].get_legend()
    assert legend is not None
    assert legend.get_frame().get_alpha() == 1


def test_configuration_is_all_there(digits_run: Path, shown: Page) -> None:
    config = json.loads((digits_run / "config.json").read_text())
    rows = dict(shown.table("config.json")[1:])
    assert rows["recipe.lr"] == str(config["recipe"]["lr"])
    assert rows["dataset_sha256"] == config["dataset_sha256"]
    assert {key.split(".")[0] for key in rows} == set(config)


def test_a_name_that_looks_like_markup_stays_a_name(shown: Page) -> None:
    name = "<script>alert('1')</script> & \"$x$\""
    html = page.document(name, page.tiles([(name, name, name)]), {name: page.table(name, [name], [[name]])})
    read = Page(html + "")
    assert "script" not in read.tags
    assert read.headings == [name, name]
    assert read.tables == {name: [[name], [name]]}
    # No more may matplotlib take it for a formula.
    assert charts.per_class([name, "$\\b"], [1.0, 2.0], 1.5, charts.LIGHT).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_last_map_of_every_network(name: str) -> None:
    model = models.build(name, 10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = heatmaps.last_map(model)
    assert found
    expected = {
        "era_s9": ("conv4", 18),
        "late_100k": ("conv4.1", 6),
        "net4": ("joint.dilated", 6),
        "eva8_s6": ("conv4", 6),
        "twelve_layer": ("conv3", 5),
        "frontier_100k": ("conv4", 8),
        "frontier_200k": ("conv4", 8),
    }
    assert (found[0], found[2]) == expected[name]
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_no_map_is_large_enough() -> None:
    assert heatmaps.last_map(nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.Flatten(), nn.Linear(64, 2))) is None


def test_the_layer_table_is_the_librarys() -> None:
    html = sections.layers(networks.net4()).html
    for cell in ("trans2", "DepthwiseSeparableConv", "128x4x4", "parameters 176,234, MACs 45,934,208"):
        assert cell in html


def test_overlay_is_bright_where_the_class_is_read_off(digits_run: Path) -> None:
    # This network looks at the left half of the image alone for class 1, and at the right half for class 0.
    network = trained.load(digits_run, device="cpu")
    side = torch.zeros(2, 1, 8, 8)
    side[1, :, :, :4] = side[0, :, :, 4:] = 1
    head = nn.Conv2d(1, 2, 8, bias=False)
    map_layer = nn.Conv2d(3, 1, 4, stride=4, bias=False)
    with torch.no_grad():
        head.weight.copy_(side)
        map_layer.weight.fill_(1)
    network.run.model = nn.Sequential(map_layer, nn.ReLU(), head, nn.Flatten()).eval()
    image = np.full((1, 32, 32, 3), 40, np.uint8)
    image[:, :, :12] = 255
    pytest.importorskip("pytorch_grad_cam")
    (overlay,) = heatmaps.overlays(network, map_layer, image, [1])
    brightness = overlay.astype(int).sum(2)
    assert overlay.shape == (128, 128, 3)
    assert brightness[:, :40].mean() > 2 * brightness[:, 80:].mean()


def test_without_grad_cam_the_page_says_so(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Evaluation
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    network = trained.load(digits_run, device="cpu")
    section = exhibits.attention(network, testset.read(network), found)
    assert "need the package grad-cam" in section.html
    assert not section.files


def test_a_network_without_mistakes(digits_run: Path) -> None:
    network = trained.load(digits_run, device="cpu")
    test = testset.read(network)
    right = Evaluation(0.0, np.eye(10, dtype=np.float32)[test.images.labels], test.images.labels)
    assert "None: every test image" in exhibits.mistakes(network, test, right).html
    assert exhibits.attention(network, test, right).html.count("<h3>") == 1


def test_a_report_replaces_the_one_before(reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawing takes the time, and what is drawn does not matter here.
    for module in (charts, plots):
        monkeypatch.setattr(module, "_png", lambda figure: page.png(np.zeros((2, 2, 3), np.uint8)))
    run = Path(shutil.copytree(reported, tmp_path / "again"))
    (run / "augmented.png").unlink()
    assert script.main([str(run), "--which", "best", "--device", "cpu"]) == 0
    names = {path.name for path in (run / "report").iterdir()}
    assert not names & {"compare.png", "compare-dark.png", "augmented.png"}
    again = Page((run / "report" / "index.html").read_text())
    assert "Runs side by side" not in again.headings
    assert again.headings[0] == "again"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", None, "holds no log.csv"),
        ("log.csv", "epoch,lr\n", "log.csv cannot be read"),
        ("log.csv", "epoch,lr\n1,x\n", "log.csv cannot be read"),
        ("metrics.json", "{", "metrics.json cannot be read"),
        ("config.json", None, "holds no config.json"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(
    name: str,
    content: str | None,
    message: str,
    digits_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = Path(shutil.copytree(digits_run, tmp_path / "other"))
    if content is None:
        (other / name).unlink()
    else:
        (other / name).write_text(content)
    assert script.main([str(digits_run), str(other), "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err
    assert not (digits_run / "report").exists()


def test_a_run_named_twice_is_refused(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([str(digits_run), str(digits_run), "--device", "cpu"]) == 2
    assert "a run is named twice" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    runs = [record.Record(tmp_path / name, {}, {}, []) for name in ("a/run", "b/run", "a/other")]
    assert record.names(runs) == [str(tmp_path / "a/run"), str(tmp_path / "b/run"), "other"]


def test_a_folder_that_cannot_be_written_is_named(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(digits_run, tmp_path / "run"))
    (run / "report").write_text("in the way")
    assert script.main([str(run), "--device", "cpu"]) == 1
    assert f"cannot write {run / 'report'}" in capsys.readouterr().err


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def console(page_path: Path, profile: Path) -> list[str]:
    """What the browser's console says of a page."""
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    options = ["--headless", "--no-sandbox", "--disable-sync", *quiet.split(), "--enable-logging=stderr"]
    command = [BROWSER or "", *options, f"--user-data-dir={profile}", "--dump-dom", page_path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"LC_ALL": "C.UTF-8"})
    assert done.returncode == 0
    assert "</html>" in done.stdout
    return [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_browser_shows_it_without_an_error(reported: Path, tmp_path: Path) -> None:
    assert console(reported / "report" / "index.html", tmp_path / "profile") == []


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_browser_refuses_what_is_not_in_the_page(tmp_path: Path) -> None:
    bad = page.document("bad", '<img src="other.png" alt="x"><script>document.title = "run"</script>', {})
    (tmp_path / "bad.html").write_text(bad)
    complaints = console(tmp_path / "bad.html", tmp_path / "profile")
    assert sum("Content Security Policy" in line for line in complaints) == 2
