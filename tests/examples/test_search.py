"""The search: equal batches for all candidates, a file that goes on where it stopped, a page that shows it."""

import json
from pathlib import Path

import candidates
import pytest
import search
import torch
import torch.nn.functional as F
from search import Protocol
from torch import nn

from data import ImageSet

TINY = Protocol(images=40, epochs=2, batch_size=16)


def test_batches_are_crops_of_the_reflected_image_half_of_them_mirrored() -> None:
    images = torch.randn(40, 3, 32, 32)
    made = list(search.batches(images, torch.arange(40), TINY))
    assert len(made) == TINY.epochs * 3
    padded = F.pad(images, [4] * 4, mode="reflect")
    mirrored = 0
    for batch, labels in made:
        for image, label in zip(batch, labels, strict=True):
            windows = padded[label].unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
            plain, turned = (bool((windows == one).flatten(1).all(1).any()) for one in (image, image.flip(-1)))
            assert plain != turned
            mirrored += turned
    assert 20 <= mirrored <= 60
    for epoch in (made[:3], made[3:]):
        assert torch.cat([labels for _, labels in epoch]).sort().values.tolist() == list(range(40))


def test_every_candidate_gets_the_same_batches() -> None:
    images, labels = torch.randn(40, 3, 32, 32), torch.arange(40)
    first, second = (list(search.batches(images, labels, TINY)) for _ in range(2))
    assert all(torch.equal(a, b) and torch.equal(i, j) for (a, i), (b, j) in zip(first, second, strict=True))


@pytest.mark.parametrize("name", candidates.CANDIDATES)
def test_candidates_are_of_one_size(name: str) -> None:
    assert 90_000 < search.facts(candidates.CANDIDATES[name]())["parameters"] < 100_000


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def broken() -> nn.Module:
    model = small()
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    return model


@pytest.fixture
def run(shared_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search, "CANDIDATES", {"one": small, "two": small, "broken": broken})

    def go(*names: str, protocol: Protocol = TINY) -> dict:
        search.search(protocol, shared_tree, tmp_path / "search.json", list(names), ["--only", *names])
        return json.loads((tmp_path / "search.json").read_text())

    return go


def test_a_search_goes_on_where_it_stopped(run) -> None:
    first = run("one")
    assert first["protocol"]["images"] == 40
    assert first["held_out"] == 6
    both = run("one", "two")
    assert both["candidates"]["one"] == first["candidates"]["one"]
    # One network and one protocol: the second is the first again, down to the last digit.
    same = ("parameters", "macs", "held_out_accuracy", "held_out_loss", "train_loss")
    assert [both["candidates"]["two"][key] for key in same] == [first["candidates"]["one"][key] for key in same]


def test_a_candidate_says_where_it_was_measured(run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("one")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(search.environment, "hardware", lambda device: {"cpu": "another"})
        both = run("one", "two")
    assert both["candidates"]["two"]["hardware"] == {"cpu": "another"}
    assert both["candidates"]["one"] == first["candidates"]["one"]
    assert first["candidates"]["one"]["hardware"] == search.environment.hardware("cpu")
    assert first["candidates"]["one"]["versions"] == search.environment.versions()


def test_a_file_of_another_protocol_is_refused(run) -> None:
    run("one")
    with pytest.raises(SystemExit, match="is of another protocol"):
        run("two", protocol=Protocol(images=40, epochs=1, batch_size=16))


def test_a_candidate_that_diverges_is_no_result(run) -> None:
    run("one")
    with pytest.raises(SystemExit, match="the loss of the last epoch is nan"):
        run("broken")
    assert list(run("one")["candidates"]) == ["one"]


def test_test_images_are_not_looked_at(run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    tensors = search._tensors

    def noting(images: ImageSet, *rest):
        seen.append(len(images))
        return tensors(images, *rest)

    monkeypatch.setattr(search, "_tensors", noting)
    run("one")
    assert seen == [40, 6]  # of 60 training images: those trained on, and those held out


def test_the_page_holds_the_table_of_the_committed_file() -> None:
    page = search.PAGE.read_text()
    assert page == search.replaced(page, search.table(search.RESULTS)), "run: python examples/cifar10/search.py --write"


def test_committed_figures_are_of_these_candidates() -> None:
    content = json.loads(search.RESULTS.read_text())
    for name, row in content["candidates"].items():
        facts = search.facts(candidates.CANDIDATES[name]())
        assert {key: row[key] for key in facts} == facts
