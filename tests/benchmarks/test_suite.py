"""The comparison of blocks and networks: checked before timed, nothing lost, the same structure where it says so."""

import functools
import json
import pickle

import pytest
import torch
from torch import nn

from benchmarks import blocks, check, networks, suite, ways
from benchmarks.check import Data, Subject
from benchmarks.record import Record
from benchmarks.suite import IDENTITY, Job, Machine
from benchmarks.ways import PLAIN, WAYS, Way

SMALL = (2, 4, 5, 5)
CPU = Machine("cpu", torch.float32, 0.1, 1e9)
HERE = {"device": "this one"}


def subject(make=lambda: nn.Conv2d(4, 4, 3), name="convblocks", shape=SMALL):
    return Subject("case", name, make, shape)


def nothing(job, data):
    return {"bytes": 1, "macs": 1}


def record(tmp_path, **options):
    return Record(tmp_path / "rows.json", HERE, {}, IDENTITY, **options)


class Mistaken(nn.Module):
    """Right in contiguous memory, wrong in channels_last, as a kernel that mixes up its strides."""

    def __init__(self, factor):
        super().__init__()
        self.conv, self.factor = nn.Conv2d(4, 4, 1), factor

    def forward(self, x):
        return self.conv(x) if x.is_contiguous() else self.conv(x) * self.factor


@pytest.mark.parametrize("direction", ["inference", "training"])
@pytest.mark.parametrize("factor", [1.01, float("nan"), float("inf")])
def test_a_way_with_wrong_numbers_is_reported_and_not_timed(direction, factor):
    job = Job(subject(lambda: Mistaken(factor)), Way("eager channels_last"), direction)
    (row,) = suite.rows_of(job, CPU, nothing)
    assert row["status"] == "wrong"
    assert "y is off by" in row["why"]
    assert "median" not in row


def test_a_way_that_raises_is_reported():
    class Broken(Mistaken):
        def forward(self, x):
            if not x.is_contiguous():
                raise NotImplementedError("not for this layout\nand more")
            return self.conv(x)

    (row,) = suite.rows_of(Job(subject(lambda: Broken(1)), Way("eager channels_last"), "inference"), CPU, nothing)
    assert (row["status"], row["why"]) == ("failed", "NotImplementedError: not for this layout")


def test_what_is_not_written_shows():
    class Forgetful(nn.Module):
        def forward(self, x):
            out = torch.empty_like(x)
            out[1:] = x[1:]
            return out if not x.is_contiguous() else x.clone()

    (row,) = suite.rows_of(Job(subject(Forgetful), Way("eager channels_last"), "inference"), CPU, nothing)
    assert (row["status"], row["why"]) == ("wrong", "y is off by nan, more than 1.0e-03")


def test_a_right_way_is_timed():
    (row,) = suite.rows_of(Job(subject(), Way("eager channels_last"), "training"), CPU, nothing)
    assert row["status"] == "ok"
    assert row["mode"] == "eager"
    assert 0 < row["low"] <= row["median"] <= row["high"]
    assert set(row["errors"]) == {"y", "dx", "dw"}
    assert all(error < 1e-5 for error in row["errors"].values())


def test_gradients_beyond_comparison_are_compared_in_float32():
    class Turned(Mistaken):
        """A sine whose phase bfloat16 cannot hold."""

        def forward(self, x):
            return torch.sin(300 * super().forward(x))

    data = Data(subject(lambda: Turned(1)), "training", torch.bfloat16, "cpu")
    _, found = check.check(data, Way("eager channels_last"))
    assert found.dtype == torch.float32
    assert found.why == ""
    _, found = check.check(Data(subject(lambda: Turned(1.01)), "training", torch.bfloat16, "cpu"), Way("channels_last"))
    assert "is off by" in found.why


def test_a_large_training_step_is_compared_at_few_images(monkeypatch):
    class Large(nn.Module):
        """Wrong numbers, or none at all, for many images only."""

        def __init__(self, factor):
            super().__init__()
            self.conv, self.head, self.factor = nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), factor

        def forward(self, x):
            return self.head(self.conv(x) * (1.0 if len(x) <= 2 else self.factor)).flatten(1)

    monkeypatch.setattr(check, "IMAGES", 2)
    for factor, why in ((1.0, ""), (float("nan"), "y is off by inf")):
        one = subject(functools.partial(Large, factor), shape=(8, 4, 5, 5))
        _, found = check.check(Data(one, "step", torch.float32, "cpu"), Way("eager channels_last"))
        assert found.why.startswith(why)
        assert bool(found.why) == bool(why)


def test_the_reference_is_computed_once_for_all_ways(monkeypatch):
    exact, count = Data.exact, []
    monkeypatch.setattr(Data, "exact", lambda self: count.append(1) or exact(self))
    one = subject(shape=(3, 4, 5, 5))
    for way in (Way("eager channels_last"), Way("eager contiguous", "contiguous")):
        _, found = check.check(Data(one, "training", torch.float32, "cpu"), way)
        assert found.why == ""
    assert len(count) == 1


@pytest.mark.parametrize("way", [way for way in WAYS["inference"] if not way.cuda and way.compiled is None], ids=str)
@pytest.mark.parametrize("case", [s for s in blocks.subjects("cpu", True) if s.name == "convblocks"], ids=str)
def test_every_way_of_every_block_gives_its_numbers(case, way):
    data = Data(case, "inference", torch.float32, "cpu")
    assert max(data.errors(way, data.exact()).values()) < 1e-5


SAME = {("DepthwiseSeparableConv", "timm"), ("DepthwiseSeparableConv", "torchvision"), ("GAPHead", "timm")}
SAME |= {("GAPHead", "torchvision"), ("JointDilatedDepthwise", "torchvision")}


def test_rivals_of_the_same_structure_give_the_same_numbers():
    found = blocks.subjects("cpu", True)
    ours = {s.case: s for s in found if s.name == "convblocks"}
    compared = set()
    for rival in found:
        if (rival.case.split()[0], rival.name) not in SAME:
            continue
        outs = []
        for one in (ours[rival.case], rival):
            torch.manual_seed(0)
            module = one.make().double().eval()
            outs.append(module(torch.randn(one.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))))
        torch.testing.assert_close(*outs)
        compared.add((rival.case.split()[0], rival.name))
    assert compared == SAME


def test_what_stands_beside_a_downsampling_gives_its_size():
    sizes = {}
    for one in blocks.subjects("cpu", True):
        if "Downsample" in one.case:
            sizes.setdefault(one.case, set()).add(one.make().eval()(torch.randn(one.shape)).shape)
    assert len(sizes) == 3
    assert all(len(found) == 1 for found in sizes.values())


def test_bytes_and_macs_of_a_block_and_a_network():
    (block,) = (
        s for s in blocks.subjects("cpu", True) if s.case == "DepthwiseSeparableConv 2x16x8x8" and s.name == "timm"
    )
    made = {
        d: blocks.work(Job(block, PLAIN, d), Data(block, d, torch.bfloat16, "cpu")) for d in ("inference", "training")
    }
    elements, weights = 2 * 16 * 8 * 8, 9 * 16 + 16 * 16 + 4 * 16
    macs = 2 * 64 * (9 * 16 + 16 * 16)
    assert made["inference"] == {"bytes": 2 * (2 * elements + weights), "macs": macs}
    assert made["training"] == {"bytes": 2 * 5 * elements + 3 * 4 * weights, "macs": 3 * macs}
    one = subject(lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1, bias=False)))
    found = networks.work(Job(one, PLAIN, "inference"), Data(one, "inference", torch.bfloat16, "cpu"))
    weights = 4 * 8 * 9 + 8 + 16
    assert found["bytes"] == 2 * (2 * (4 * 25 + 8 * 9) + 2 * (8 * 9 + 2 * 9) + weights)
    assert found["macs"] == 2 * 9 * (8 * 4 * 9 + 16)
    assert found["images"] == 2


def test_jobs_come_in_the_order_of_what_matters():
    found = suite.jobs(blocks.subjects("cuda", False), ("inference", "training"), "cuda", "convblocks")
    assert [job.rank for job in found] == sorted(job.rank for job in found)
    assert found[0].subject.case == "DepthwiseSeparableConv 512x64x32x32"
    assert {job.way.compiled for job in found[: len(found) // 10]} == {None}
    assert len({tuple(suite._key(job, CPU).values()) for job in found}) == len(found)
    names = {(job.subject.case.split()[0], job.way.name, job.direction) for job in found}
    for block in ("DepthwiseSeparableConv", "DilatedDownsample", "JointDilatedDepthwise", "GAPHead"):
        for way in ("eager contiguous", "folded channels_last", "triton channels_last", "compiled channels_last"):
            assert (block, way, "inference") in names
        for way in ("eager channels_last", "triton channels_last", "max-autotune channels_last"):
            assert (block, way, "training") in names


def test_no_time_leaves_out_and_keeps_what_was_measured(tmp_path, capsys):
    todo = [Job(subject(), way, "inference") for way in WAYS["inference"][:3]]
    kept = record(tmp_path)
    assert suite.run(todo[:1], CPU, kept, nothing, 1e9) == 0
    went_on = record(tmp_path, resume=True)
    assert suite.run(todo, CPU, went_on, nothing, 0.0) == 0
    content = json.loads((tmp_path / "rows.json").read_text())
    assert [row["way"] for row in content["rows"]] == ["eager contiguous"]
    assert content["left_out"] == [str(job) for job in todo[1:]]
    assert "no time was left for 2 of 3" in capsys.readouterr().out
    assert suite.run(todo, CPU, record(tmp_path, resume=True), nothing, 1e9) == 0
    content = json.loads((tmp_path / "rows.json").read_text())
    assert [row["way"] for row in content["rows"]] == [job.way.name for job in todo]
    assert content["left_out"] == []


def test_going_on_measures_again_what_went_wrong_and_refuses_another_machine(tmp_path):
    job = Job(subject(lambda: Mistaken(2)), Way("eager channels_last"), "inference")
    assert suite.run([job], CPU, record(tmp_path), nothing, 1e9) == 1
    right = job._replace(subject=subject())
    again = record(tmp_path, resume=True)
    assert suite.run([right], CPU, again, nothing, 1e9) == 0
    assert [row["status"] for row in again.rows] == ["ok"]
    with pytest.raises(ValueError, match=r"was measured with .*this one.* this is .*another"):
        Record(tmp_path / "rows.json", {"device": "another"}, {}, IDENTITY, resume=True)


def test_a_run_that_is_killed_while_it_writes_loses_nothing(tmp_path, monkeypatch):
    kept = record(tmp_path)
    kept.add([{"status": "ok"}])

    def killed(self, text):
        with self.open("w") as file:
            file.write(text[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        kept.add([{"status": "ok"}])
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == 1


@pytest.mark.parametrize(
    ("module", "direction", "case"),
    [(blocks, "training", "GAPHead 2x16x8x8"), (networks, "step", "eva8_s6 32x3x32x32")],
    ids=["blocks", "networks"],
)
def test_the_command_writes_what_it_measured(module, direction, case, tmp_path, capsys):
    path = tmp_path / "rows.json"
    words = ["--device", "cpu", "--quick", "--passes", direction, "--ways", "eager", "--output", str(path)]
    # A small network: where a CPU does not multiply bfloat16 itself, a training step in it takes minutes.
    status = module.main([*words, "--cases", case, "--milliseconds", "0.5"])
    content = json.loads(path.read_text())
    assert status == 0, capsys.readouterr().out
    (run,) = content["runs"]
    assert run["command"].startswith(f"python -m benchmarks.{module.__name__.split('.')[-1]} --device cpu --quick")
    assert content["environment"]["torch"] == torch.__version__
    assert {row["way"] for row in content["rows"]} == {"eager contiguous", "eager channels_last"}
    assert all(row["case"] == case and row["status"] == "ok" for row in content["rows"])
    assert run["copy bytes per second"] > 1e8
    assert run["product operations per second"] > 1e8
    with pytest.raises(SystemExit):
        module.main([*words, "--cases", "no such case"])
    assert "leave nothing to do" in capsys.readouterr().err


def test_the_exit_status_says_that_something_went_wrong(tmp_path, monkeypatch):
    words = ["--device", "cpu", "--quick", "--ways", "eager channels", "--passes", "inference", "--cases", "GAPHead"]
    monkeypatch.setattr(check, "wrong", lambda *_: "so it is")
    assert blocks.main([*words, "--output", str(tmp_path / "rows.json")]) == 1
    assert {row["status"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]} == {"wrong"}


def test_a_compiled_way_is_compiled_and_right():
    data = Data(
        subject(lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())),
        "inference",
        torch.float32,
        "cpu",
    )
    compiled = ways.ready(data.module.eval(), Way("", compiled="default", folded=True), SMALL)
    assert type(compiled).__name__ == "OptimizedModule"
    _, found = check.check(data, Way("compiled channels_last", compiled="default"))
    assert found.why == ""


# torch 2.6 says so of a setting that it cannot put into the key of its cache.
@pytest.mark.filterwarnings("ignore:Skipping serialization")
def test_a_frozen_way_holds_its_weights_as_constants():
    from torch._inductor.utils import run_and_get_code

    data = Data(subject(lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())), "inference", torch.float32, "cpu")
    way = Way("", compiled="frozen")
    with ways.setting(way, gradients=False):
        _, (code,) = run_and_get_code(data.call(way))
    assert "_frozen_param" in code


@pytest.mark.parametrize("benchmark", [blocks, networks])
def test_what_is_compiled_beforehand_can_be_handed_to_another_process(benchmark):
    passes = ("inference", "training") if benchmark is blocks else ("inference", "step")
    todo = suite.ours_alone(suite.jobs(benchmark.subjects("cuda", False), passes, "cuda", "convblocks"))
    assert {job.direction for job in todo} == set(passes)
    assert {job.subject.name for job in todo} == {"convblocks"}
    assert pickle.loads(pickle.dumps(todo[0].way)) == todo[0].way
    for job in todo:
        assert pickle.loads(pickle.dumps(job.subject)).shape == job.subject.shape


def test_kernels_are_compiled_in_other_processes():
    todo = suite.jobs(blocks.subjects("cpu", True)[:1], ("inference", "training"), "cuda", "convblocks")
    machine = suite.Machine("cpu", torch.bfloat16, 1, 1.0)
    assert len(suite.ours_alone(todo)) == 3
    assert suite.warm(todo, machine, 120, processes=1) == []
