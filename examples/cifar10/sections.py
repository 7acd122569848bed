"""The sections of a report that show figures: each function gives one section, its HTML and its pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import charts
import numpy as np
import page
import record
from charts import THEMES, Theme
from evaluation import Evaluation
from record import Record
from sklearn.metrics import classification_report, confusion_matrix
from testset import TestSet
from torch import nn
from trained import FILES, Trained

import convblocks
from data import SIZE

PARTS = {"train": "training", "val": "validation", "test": "test"}


@dataclass
class Section:
    """A part of the page.

    Args:
        html: What it shows.
        files: Its pictures, by file name.
    """

    html: str = ""
    files: dict[str, bytes] = field(default_factory=dict)

    def chart(self, name: str, alt: str, draw: Callable[[Theme], bytes]) -> None:
        light, dark = (draw(theme) for theme in THEMES)
        self.files |= {f"{name}.png": light, f"{name}-dark.png": dark}
        self.html += page.chart(light, dark, alt)


def summary(network: Trained, test: TestSet, found: Evaluation, run: Record) -> Section:
    """The figures that a reader looks for first."""
    config, metrics = run.config, run.metrics
    logged = run.at(network.epoch)
    planned = config["recipe"]["epochs"]
    ended = f"of {planned}" + ("" if metrics["finished"] else ", not finished")
    tiles = [
        ("Test accuracy", f"{found.accuracy:.2f} %", f"{test.name}, {len(test.images):,} images"),
        ("Test loss", f"{found.loss:.4f}", "cross entropy"),
        ("Parameters", f"{metrics['parameters']:,}", config["model"]),
        ("Epochs", f"{metrics['epochs']}", ended),
        ("Training", _duration(metrics["wall_time_s"]), f"{metrics['images_per_s']:,.0f} images/s"),
    ]
    if not config["images"]["validation"]:
        tiles.insert(2, ("Training images", f"{config['images']['train']:,}", "all of them, none held out"))
    elif logged:
        held_out = f"{config['images']['validation']:,} held-out training images"
        tiles.insert(2, ("Validation accuracy", f"{logged['val_acc']:.2f} %", held_out))
    after = f"epoch {network.epoch}" + (f" and {network.step} steps" if network.step else "")
    lead = (
        f"{config['model']} by the {config['recipe']['name']} recipe on {config['dataset']}. Shown are the "
        f"{config['evaluated_weights']} weights of {FILES[network.which]} after {after}, on {network.device.name}."
    )
    if not test.same:
        lead += f" Tested on {test}."
    rows = []
    parts = _measured([metrics["last_epoch"]])
    for key, title in (("last_epoch", "last epoch"), ("best_on_validation", "best on validation")):
        if kept := metrics[key]:
            accuracies = [f"{kept[f'{part}_acc']:.2f}" for part in parts]
            losses = [f"{kept[f'{part}_loss']:.4f}" for part in parts]
            rows.append([title, f"{kept['epoch']}", *accuracies, *losses])
    head = ["weights of", "epoch", *(f"{part} {kind}" for kind in ("accuracy, %", "loss") for part in parts.values())]
    table = page.table("What the run noted itself, in metrics.json", head, rows)
    return Section(f'<p class="soft">{page.escape(lead)}</p>{page.tiles(tiles)}{table}')


def _measured(rows: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """Of the parts those that were classified: without held-out images the test part is so after the last epoch."""
    return {part: name for part, name in PARTS.items() if any(f"{part}_acc" in row for row in rows)}


def learning_curves(run: Record) -> Section:
    section = Section()
    first, last = run.log[0], run.log[-1]

    def change(part: str, name: str) -> str:
        loss, accuracy = f"{part}_loss", f"{part}_acc"
        if loss not in first:
            return f"{name} loss {last[loss]:.3f}, accuracy {last[accuracy]:.1f} % after the last one"
        return (
            f"{name} loss from {first[loss]:.3f} to {last[loss]:.3f}, "
            f"accuracy from {first[accuracy]:.1f} to {last[accuracy]:.1f} %"
        )

    changes = "; ".join(change(part, name) for part, name in _measured(run.log).items())
    alt = f"Loss, accuracy and learning rate from epoch {first['epoch']:.0f} to {last['epoch']:.0f}: {changes}."
    section.chart("curves", alt, lambda theme: charts.curves(run.log, theme))
    others = "validation and test" if "val_acc" in last else "test"
    text = (
        "Training figures are taken while the weights move, on augmented images, so they can be worse than those on "
        f"the {others} images. The test images choose nothing."
    )
    if "val_acc" not in last:
        text += " All training images are trained on, so the test images are classified after the last epoch alone."
    section.html += page.paragraph(text)
    return section


def side_by_side(runs: Sequence[Record]) -> Section:
    section = Section()
    names = record.names(runs)
    measured = _measured([row for run in runs for row in run.log])
    panels = ", ".join(["Training loss", *(f"{name} accuracy" for part, name in measured.items() if part != "train")])
    alt = f"{panels} over the epochs of {', '.join(names)}."
    logs = {name: run.log for name, run in zip(names, runs, strict=True)}
    section.chart("compare", alt, lambda theme: charts.compare(logs, theme))
    data = {run.metrics["dataset_sha256"] for run in runs}
    if len(data) > 1:
        section.html += page.paragraph("The runs are on different data: their figures are not to be compared.")
    rows = []
    for name, run in zip(names, runs, strict=True):
        metrics = run.metrics
        last, best = metrics["last_epoch"], metrics["best_on_validation"]
        cells = [metrics["model"], metrics["recipe"], metrics["dataset"], f"{run.config['images']['train']:,}"]
        cells += [f"{metrics['parameters']:,}", f"{metrics['epochs']}"]
        cells += [f"{figures['test_acc']:.2f}" if "test_acc" in figures else "" for figures in (last, best or {})]
        rows.append([name, *cells, _duration(metrics["wall_time_s"])])
    head = ["run", "network", "recipe", "data", "training images", "parameters", "epochs", "test accuracy, %"]
    head += ["at best validation, %", "time"]
    section.html += page.table("The runs, from their metrics.json", head, rows, text=(1, 2, 3))
    return section


def classes(network: Trained, found: Evaluation) -> Section:
    section = Section()
    labels = range(len(network.classes))
    accuracies = [found.class_accuracy(label)[1] for label in labels]
    pairs = sorted(zip(accuracies, network.classes, strict=True))
    alt = "Accuracy of each class in percent: " + ", ".join(f"{name} {value:.1f}" for value, name in pairs[::-1]) + "."
    section.chart("per-class", alt, lambda theme: charts.per_class(network.classes, accuracies, found.accuracy, theme))
    # scikit-learn's own annotations know neither of the two.
    options: dict[str, Any] = {"output_dict": True, "zero_division": 0}
    report: Any = classification_report(
        found.labels, found.predictions, labels=labels, target_names=network.classes, **options
    )
    rows = []
    for name in (*network.classes, "macro avg", "weighted avg"):
        one = report[name]
        scores = [f"{one[score]:.4f}" for score in ("precision", "recall", "f1-score")]
        rows.append([name, *scores, f"{one['support']:.0f}"])
    head = ["class", "precision", "recall", "F1", "images"]
    caption = "scikit-learn's classification report; the recall of a class is its accuracy"
    section.html += page.table(caption, head, rows)
    return section


def confusion(network: Trained, found: Evaluation) -> Section:
    section = Section()
    names = network.classes
    counts = confusion_matrix(found.labels, found.predictions, labels=range(len(names)))
    wrong = counts - np.diag(counts.diagonal())
    worst = [np.unravel_index(index, wrong.shape) for index in np.argsort(-wrong, axis=None, kind="stable")[:5]]
    most = ", ".join(f"{names[t]} for {names[p]} ({wrong[t, p]})" for t, p in worst if wrong[t, p])
    alt = f"Confusion matrix, true classes in rows. Most often taken: {most or 'nothing for anything else'}."
    section.chart("confusion", alt, lambda theme: charts.confusion(names, counts, theme))
    if most:
        section.html += page.paragraph(f"Most often taken for another: {most}.")
    rows = [[name, *(f"{count}" for count in row)] for name, row in zip(names, counts, strict=True)]
    section.html += page.table("Images of each true class (row) by predicted class (column)", ["true", *names], rows)
    return section


def layers(model: nn.Module) -> Section:
    """The library's own table: what each layer is, gives, sees and costs."""
    table = convblocks.summary(model, (3, SIZE, SIZE)).table()
    # Of runs of blanks a page shows one; these blanks are the nesting.
    rows = [[row[0].replace("  ", "\u2003"), *row[1:]] for row in table.rows]
    names = [column.title for column in table.columns]
    text = [number for number, column in enumerate(table.columns) if not column.right]
    notes = "".join(f'<p class="soft">{page.escape(note)}</p>' for note in table.notes)
    return Section(page.table("Layers, and what each output sees of the image", names, rows, text=text) + notes)


def configuration(run: Record) -> Section:
    rows = [[key, value] for key, value in _flat(run.config)]
    return Section(page.table("config.json", ["what", "value"], rows, text=(1,)))


def _flat(value: Any, key: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for name, part in value.items() for pair in _flat(part, f"{key}.{name}" if key else name)]
    if isinstance(value, list) and not any(isinstance(part, dict | list) for part in value):
        return [(key, ", ".join(map(str, value)))]
    if isinstance(value, list):
        return [pair for number, part in enumerate(value) for pair in _flat(part, f"{key}.{number}")]
    return [(key, "none" if value is None else str(value))]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
