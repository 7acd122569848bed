import json
from pathlib import Path

import pytest
import throughput
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10))))
def test_covered_is_what_at_least_one_interval_holds(parts: list[tuple[int, int]]) -> None:
    intervals = [(float(start), float(start + length)) for start, length in parts]
    expected = sum(any(start <= point < end for start, end in intervals) for point in range(50))
    assert throughput.covered(intervals) == expected


def test_figures_are_of_what_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--model twelve_layer --images 64 --batch-size 8 --steps 2 --device cpu --precision fp32"
    assert throughput.main([*words.split(), "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert json.loads(capsys.readouterr().out) == found
    assert (found["model"], found["batch_size"], found["precision"], found["graph"]) == (
        "twelve_layer",
        8,
        "fp32",
        False,
    )
    assert found["images_per_s"] == pytest.approx(8 / found["step_ms"] * 1000, rel=0.05, abs=1)
    assert 0.5 < found["busy"] <= 1


def test_missing_gpu_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert throughput.main(["--device", "cpu", "--graph"]) == 2
    assert "CUDA graphs need a GPU" in capsys.readouterr().err


def test_kernels_and_copies_count_and_named_ranges_do_not() -> None:
    def event(start: int, end: int, device: DeviceType, annotation: bool = False) -> FunctionEvent:
        return FunctionEvent(
            0, "name", 0, start, end, device_type=device, is_user_annotation=annotation, is_async=False
        )  # pyright: ignore[reportArgumentType]

    events = [
        event(0, 9, DeviceType.CPU),
        event(3, 5, DeviceType.CUDA),
        event(1, 20, DeviceType.CUDA, annotation=True),
        event(8, 9, DeviceType.CUDA),
    ]
    assert throughput.on_gpu(events) == [(3, 5), (8, 9)]


def test_the_page_quotes_the_committed_measurement() -> None:
    root = Path(__file__).parents[2]
    found = json.loads((root / "benchmarks" / "results" / "throughput-nvidia-h200.json").read_text())
    told = (
        f"Training `{found['model']}` by `{found['recipe']}` on an H200 takes {found['step_ms']:.2f} ms a step of "
        f"{found['batch_size']} images, {found['images_per_s']:,} images/s, and for {100 * found['busy']:.1f} % "
    )
    assert told in " ".join((root / "docs" / "pages" / "train.md").read_text().split())
