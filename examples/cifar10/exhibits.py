"""The sections of a report that show images: what is taken for something else, what the network looks at."""

import heatmaps
import numpy as np
import page
import plots
from evaluation import Evaluation
from numpy.typing import NDArray
from record import Record
from rundir import AUGMENTED
from sections import Section
from testset import TestSet
from trained import Trained

MISTAKES = 24
EXPLAINED = 12
"""Mistakes shown, and those of them with heat maps."""


def mistakes(network: Trained, test: TestSet, found: Evaluation) -> Section:
    chosen = most_confident_mistakes(found)[:MISTAKES]
    if not len(chosen):
        return Section(page.paragraph("None: every test image is classified correctly."))
    captions = [_verdict(network, found, index) for index in chosen]
    figures = []
    for index, caption in zip(chosen, captions, strict=True):
        image = page.img(page.png(test.images.images[index]), f"test image {index}: {caption}", pixels=True)
        figures.append(([image], caption))
    text = "Of the test images that are classified wrongly, those with the highest probability of the wrong class."
    title = f"Most confident mistakes of {network.name}"
    file = plots.grid(title, test.images.images[chosen], [c.replace(", not ", "\nnot ") for c in captions], columns=6)
    return Section(page.paragraph(text) + page.grid(figures), {"mistakes.png": file})


def attention(network: Trained, test: TestSet, found: Evaluation) -> Section:
    """Grad-CAM overlays."""
    layer = heatmaps.last_map(network.model)
    if layer is None:
        return Section(page.paragraph("The network has no map of at least 5x5 to draw these on."))
    name, module, side = layer
    # The first of each class, so that nobody has chosen them.
    first = np.array([np.flatnonzero(found.labels == label)[0] for label in range(len(network.classes))])
    wrong = most_confident_mistakes(found)[:EXPLAINED]
    predicted, true = found.predictions, found.labels
    questions = [(first, predicted[first], "predicted"), (wrong, predicted[wrong], "predicted")]
    questions.append((wrong, true[wrong], "true"))
    asked, labels = (np.concatenate([question[part] for question in questions]) for part in (0, 1))
    try:
        every = heatmaps.overlays(network, module, test.images.images[asked], labels.tolist())
    except ImportError as error:
        return Section(page.paragraph(f"These need the package grad-cam, which cannot be imported ({error})."))
    of_first, of_predicted, of_true = np.split(every, [len(first), len(first) + len(wrong)])

    def figure(index: np.intp, *overlays: tuple[NDArray[np.uint8], int]) -> tuple[list[str], str]:
        images = [page.img(page.png(test.images.images[index]), f"test image {index}", pixels=True)]
        for overlay, label in overlays:
            alt = f"test image {index}: what speaks for {network.classes[label]}"
            images.append(page.img(page.png(overlay), alt))
        return images, _verdict(network, found, index)

    section = Section(
        page.paragraph(
            f"Grad-CAM on the output of {name}, the last map of at least 5x5 (it is {side}x{side}): bright is what "
            "speaks for a class, on a scale of its own in each image."
        )
    )
    section.html += page.heading("The first test image of each class, and what speaks for the predicted class")
    section.html += page.grid([figure(i, (one, int(predicted[i]))) for i, one in zip(first, of_first, strict=True)])
    if len(wrong):
        title = "The most confident mistakes: what speaks for the predicted class, and for the true one"
        section.html += page.heading(title)
        pairs = zip(wrong, of_predicted, of_true, strict=True)
        section.html += page.grid([figure(i, (one, int(predicted[i])), (two, int(true[i]))) for i, one, two in pairs])
    captions = [f"{network.classes[label]}\n{kind}" for _, labels, kind in questions for label in labels]
    section.files["grad-cam.png"] = plots.grid(f"Grad-CAM of {network.name}, {name}", every, captions, columns=6)
    return section


def augmented(run: Record) -> Section:
    path = run.folder / AUGMENTED
    if not path.is_file():
        return Section(page.paragraph(f"The run folder holds no {AUGMENTED}."))
    content = path.read_bytes()
    recipe = run.config["recipe"]["augment"]
    text = f"Training images as the network gets them, by the pipeline {recipe!r}, each under its class."
    alt = f"Augmented training images of {run.config['dataset']} in rows of eight, each under the name of its class."
    return Section(page.paragraph(text) + page.white(content, alt), {AUGMENTED: content})


def most_confident_mistakes(found: Evaluation) -> NDArray[np.intp]:
    """Indices of the wrongly classified images, the most probable wrong class first."""
    wrong = np.flatnonzero(found.predictions != found.labels)
    return wrong[np.argsort(-found.probabilities[wrong, found.predictions[wrong]], kind="stable")]


def _verdict(network: Trained, found: Evaluation, index: np.intp) -> str:
    predicted, true = int(found.predictions[index]), int(found.labels[index])
    share = f"{network.classes[predicted]} {found.probabilities[index, predicted]:.1%}"
    return share if predicted == true else f"{share}, not {network.classes[true]}"
