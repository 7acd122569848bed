from progress import Progress


def row(epoch: int, val_acc: float) -> dict[str, float]:
    return {"epoch": epoch, "val_acc": val_acc, "test_acc": val_acc - 1, "train_seconds": 2.0, "seconds": 3.0}


def test_first_reached_is_the_first_epoch_with_the_time_until_its_end() -> None:
    progress = Progress(history=[row(1, 70), row(2, 86), row(3, 84), row(4, 88)])
    found = progress.first_reached([75, 85, 87.5, 90])
    second = {"epoch": 2, "val_acc": 86, "test_acc": 85, "train_seconds": 4.0, "seconds": 6.0}
    assert found == {
        "75": second,
        "85": second,
        "87.5": {"epoch": 4, "val_acc": 88, "test_acc": 87, "train_seconds": 8.0, "seconds": 12.0},
    }


def test_best_is_the_first_of_the_best() -> None:
    best = Progress(history=[row(1, 70), row(2, 86), row(3, 86)]).best()
    assert best
    assert best["epoch"] == 2


def test_without_held_out_images_no_epoch_is_the_best() -> None:
    assert (
        Progress(history=[{"epoch": 1, "train_acc": 70}, {"epoch": 2, "train_acc": 80, "test_acc": 75}]).best() is None
    )
