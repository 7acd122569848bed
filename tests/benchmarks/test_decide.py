"""The table of the "auto" and "graph" backends, from made-up timings to the blocks that go by it."""

import json

import pytest
import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from benchmarks import decide, kernels, warm
from benchmarks.cases import Case, NormCase
from benchmarks.timing import Timing
from convblocks import DepthwiseSeparableConv, ops
from convblocks.layers import _fusion
from convblocks.ops import _choice, _norm_training
from tests.ops.test_choice import gpu as gpu

CONV = "float32 3x3 stride 1x1 undilated channels_last inference"
BLOCK = "separable 64 to 256 bfloat16 3x3 stride 2x2 undilated channels_last inference"
TRAINED = BLOCK.replace("inference", "training")


@pytest.fixture
def timed(monkeypatch):
    """Our kernels take the time that a test says, by the number of images; PyTorch takes 10 microseconds."""
    images, times = [0], {1: 9.0, 2: 9.0}
    data = decide.Question.data

    def made(question, n, device):
        images[0] = n
        return data(question, n, device)

    def clock(call, device, milliseconds):
        us = times[images[0]] if call[0] == "triton" and call[1].__name__ != "alone" else 10.0
        return Timing(us, us, us)

    monkeypatch.setattr(decide.Question, "data", made)
    monkeypatch.setattr(decide, "_by", lambda backend, step: (backend, step))
    monkeypatch.setattr(decide, "measure", clock)
    monkeypatch.setattr(decide, "back_to_back", clock)
    return times


def run(path, *options):
    status = kernels.main(["--device", "cpu", "--quick", "--decide", "--output", str(path), *options])
    return status, json.loads(path.read_text())


def elements(images):
    return images * 64 * 32 * 32


@pytest.mark.parametrize(
    ("times", "least"),
    [({1: 9.0, 2: 9.0}, elements(1)), ({1: 11.0, 2: 9.0}, elements(2)), ({1: 9.0, 2: 9.9}, None)],
    ids=["faster", "faster where large", "no faster than noise"],
)
def test_the_table_is_what_the_timings_say(timed, tmp_path, times, least):
    timed.update(times)
    status, text = run(tmp_path / "decisions.json")
    assert status == 0
    assert text["failed"] == {}
    assert text["environment"]["torch"] == torch.__version__
    found = _choice.read_table(tmp_path / "decisions.json")["cpu"]
    assert {CONV, BLOCK, TRAINED} <= set(found)
    assert all(one == {"auto": least, "graph": least} for one in found.values())


def test_some_cases_alone(timed, tmp_path):
    timed.update({1: 9.0, 2: 9.0})
    assert run(tmp_path / "decisions.json", "--cases", TRAINED, BLOCK)[0] == 0
    assert set(_choice.read_table(tmp_path / "decisions.json")["cpu"]) == {TRAINED, BLOCK}
    # What is missing is measured later, and what is there stays.
    assert run(tmp_path / "decisions.json", "--resume")[0] == 0
    assert {CONV, BLOCK, TRAINED} <= set(_choice.read_table(tmp_path / "decisions.json")["cpu"])


def test_the_clocks_of_the_backends_are_apart(timed, tmp_path, monkeypatch):
    """Our kernels take the host longer, and the GPU less time."""
    eager = decide.back_to_back
    monkeypatch.setattr(decide, "back_to_back", lambda call, *rest: eager(call, *rest)._replace(median=10.0))
    run(tmp_path / "decisions.json")
    found = _choice.read_table(tmp_path / "decisions.json")["cpu"]
    assert all(one == {"auto": None, "graph": elements(1)} for one in found.values())


def test_blocks_go_by_a_table_that_was_written(timed, tmp_path, monkeypatch, gpu):
    timed.update({1: 11.0, 2: 9.0})
    # The tensors of the fixture are fake, the measured ones are not.
    with unset_fake_temporarily():
        run(tmp_path / "decisions.json")
    table = _choice.read_table(tmp_path / "decisions.json")
    monkeypatch.setattr(_choice, "_TABLE", {"9.0": table["cpu"]})
    assert ops.at_work()

    def conv(shape, **options):
        x = torch.empty(shape, device=gpu, memory_format=torch.channels_last)
        return ops.choice(x, torch.empty(shape[1], 1, 3, 3, device=gpu), padding=1, **options)

    assert conv((2, 64, 32, 32)).path == "triton"
    assert conv((7, 64, 16, 16)) == ("torch", "PyTorch was measured to be as fast or faster at this size")
    # Larger, and yet nothing that a measurement of 64 channels and 32 rows tells about.
    for shape in ((2**9, 62, 32, 32), (2**12, 64, 4, 32)):
        assert conv(shape) == ("torch", "no case like this was measured")
    assert conv((2**9, 64, 32, 32), dilation=5).reason == "no case like this was measured"
    block = DepthwiseSeparableConv(64, 256, 3, 2, 1, device=gpu, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        for images, path in ((1, "torch"), (2, "fused")):
            x = torch.empty((images, 64, 32, 32), device=gpu, dtype=torch.bfloat16, memory_format=torch.channels_last)
            assert block.fusion(x).path == path
            assert block.train().fusion(x).path == path
            block.eval()


def test_what_went_wrong_is_written_down_and_left_to_torch(timed, tmp_path, monkeypatch):
    check = decide.BlockData.check

    def broken(data):
        raise RuntimeError("out of shared memory")

    monkeypatch.setattr(decide.BlockData, "check", broken)
    path = tmp_path / "decisions.json"
    status, text = run(path)
    assert status == 1
    assert text["decisions"]["cpu"][BLOCK] == {"auto": None, "graph": None}
    assert text["failed"] == {BLOCK: "RuntimeError: out of shared memory"}
    monkeypatch.setattr(decide.BlockData, "check", check)
    asked = []
    monkeypatch.setattr(decide.Question, "data", _seen(decide.Question.data, asked))
    status, text = run(path, "--resume")
    # Only that, again.
    assert set(asked) == {BLOCK}
    assert status == 0
    assert text["failed"] == {}
    assert text["decisions"]["cpu"][BLOCK] == {"auto": elements(1), "graph": elements(1)}
    asked.clear()
    run(path)
    assert len(set(asked)) == len(text["decisions"]["cpu"]) > 1


def _seen(data, asked):
    def made(question, n, device):
        asked.append(question.name)
        return data(question, n, device)

    return made


def test_time_that_is_up_leaves_what_was_measured(timed, tmp_path):
    path = tmp_path / "decisions.json"
    status, text = run(path, "--minutes", "0")
    assert status == 3
    assert len(text["decisions"]["cpu"]) == 1
    status, text = run(path, "--minutes", "9", "--resume")
    assert status == 0
    assert CONV in text["decisions"]["cpu"]


def test_another_machine_starts_anew(timed, tmp_path):
    path = tmp_path / "decisions.json"
    run(path)
    text = json.loads(path.read_text())
    text["environment"]["device"] = "another"
    text["decisions"]["cpu"]["stale"] = 1
    text["decisions"]["8.0"] = {"kept": 1}
    path.write_text(json.dumps(text))
    _, text = run(path, "--resume")
    assert "stale" not in text["decisions"]["cpu"]
    # What was measured on another kind of GPU stays.
    assert text["decisions"]["8.0"] == {"kept": 1}


def test_every_question_has_a_key_of_its_own_and_bfloat16_comes_first():
    names = [question.name for question in decide.questions(decide.KINDS)]
    assert len(set(names)) == len(names)
    kinds = [question.kind.dtype for question in decide.questions(decide.KINDS)]
    assert kinds == sorted(kinds, key=("bfloat16", "float16", "float32").index)
    assert any(" short" in name for name in names)


@pytest.mark.parametrize("out", [0, 24])
def test_a_question_asks_under_the_name_that_the_blocks_look_up(out):
    for question in decide.questions([Case((1, 16, 8, 8), 3, 2, out=out)]):
        x = question.data(3, "cpu").x
        layout = "channels_last" if x.is_contiguous(memory_format=torch.channels_last) else "contiguous"
        assert layout in question.name
        assert x.shape == (3, 16, 8, 8)


@pytest.mark.parametrize("act", [True, False])
def test_a_question_of_a_norm_asks_under_the_name_that_the_blocks_look_up(act, monkeypatch):
    asked = []
    (question,) = decide.questions([NormCase((1, 16, 8, 8), "float32", act)])
    made = question.data(3, "cpu")
    assert made.x.shape == (3, 16, 8, 8)
    monkeypatch.setattr(_choice, "unfit_device", lambda device: "")
    monkeypatch.setattr(_fusion, "_looks_for_norms", lambda x: True)
    monkeypatch.setattr(_norm_training, "decide", lambda x, path, key: asked.append(key()) or ops.Choice(path, ""))
    assert max(made.check().values()) < 1e-5
    made.step(training=True)()
    assert asked == [question.name] * 2


def _square(number):
    if number < 0:
        raise ValueError("negative")
    return number**2


def test_what_cannot_be_compiled_beforehand_is_only_said():
    assert warm.compile_all(_square, [(2,), (-1,)], 60, processes=1) == ["(-1,): ValueError: negative"]


def _sleep():
    import time

    time.sleep(600)


def test_compiling_ends_when_its_time_is_up():
    assert warm.compile_all(_sleep, [(), ()], 0.5, processes=1) == ["2 were left out: no time"]


def test_questions_are_compiled_in_other_processes():
    todo = decide.questions([decide.QUICK_KINDS[1]])
    assert decide.warm(todo, "cpu", 120, processes=1) == []


def test_tilings_are_gone_on_with(monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed")
    from benchmarks import tune

    compiled, clock = [], [0.0]

    def measured(call, device, milliseconds):
        clock[0] += 1
        if clock[0] == 2:
            raise RuntimeError("out of shared memory")
        return Timing(clock[0], clock[0], clock[0])

    monkeypatch.setattr(tune, "CASES", [Case((1, 16, 8, 8)), Case((1, 16, 8, 8), out=16)])
    monkeypatch.setattr(tune, "compile_all", lambda call, given, seconds: compiled.append(len(given)) or [])
    monkeypatch.setattr(tune, "measure", measured)
    rows = list(tune.tune("cpu", 1, [], float("inf")))
    passes = [(row["case"], row["pass"]) for row in rows]
    every = sum(len(tune.ways(case, tiling)) for case in tune.CASES for tiling in tune.tilings(case))
    assert len(rows) == every - 1
    assert set(passes) == {
        (str(tune.CASES[0]), "forward"),
        (str(tune.CASES[0]), "backward"),
        (str(tune.CASES[1]), "forward"),
    }
    assert compiled == [len(tune.tilings(case)) for case in tune.CASES]
    # What failed is tried again, the rest is not.
    again = list(tune.tune("cpu", 1, json.loads(json.dumps(rows)), float("inf")))
    assert [(row["pass"], row["tiling"]) for row in again] == [("backward", rows[0]["tiling"])]
