"""The stages for a GPU: a part that fails or hangs stops nothing else, and everything is written down."""

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import Part


def python(code):
    return [sys.executable, "-c", code]


def run(monkeypatch, out, parts, *options):
    monkeypatch.setattr(gpu, "parts", lambda stage, *rest: parts[stage])
    return gpu.main([*parts, "--out", str(out), "--device", "cpu", *options])


def test_a_stage_goes_on_after_a_part_that_fails(monkeypatch, tmp_path, capsys):
    parts = {
        "check": [Part("bad", python("print('why'); raise SystemExit(2)")), Part("good", python("print('fine')"))],
        "kernels": [Part("good", python("print('fine too')"))],
    }
    assert run(monkeypatch, tmp_path, parts) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [(e["stage"], e["part"], e["status"]) for e in summary] == [
        ("check", "bad", 2),
        ("check", "good", 0),
        ("kernels", "good", 0),
    ]
    assert (tmp_path / "kernels-good.log").read_text() == "fine too\n"
    printed = capsys.readouterr().out
    assert "check, bad: FAILED with status 2" in printed
    assert "    why" in printed


def runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    # What nobody has waited for yet is a zombie.
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for the process in /proc")
def test_what_hangs_is_ended_with_all_it_started(monkeypatch, tmp_path):
    mark = tmp_path / "its child"
    hangs = (
        "import pathlib, subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"pathlib.Path({str(mark)!r}).write_text(str(child.pid)); time.sleep(600)"
    )
    parts = {"check": [Part("hangs", python(hangs), 0.5), Part("good", python(""), 0.5)]}
    start = time.monotonic()
    assert run(monkeypatch, tmp_path / "out", parts, "--minutes", "0.1") == 3
    assert time.monotonic() - start < 60
    child = int(mark.read_text())
    until = time.monotonic() + 20
    while runs(child) and time.monotonic() < until:
        time.sleep(0.1)
    assert not runs(child)
    assert [e["status"] for e in json.loads((tmp_path / "out" / "summary.json").read_text())] == [3, 0]


def test_a_part_finds_the_library_from_any_folder(monkeypatch, tmp_path):
    find = "import importlib.util, os; os.chdir('/'); assert importlib.util.find_spec('convblocks')"
    assert (
        run(monkeypatch, tmp_path, {"check": [Part("find", python(f"import sys; sys.path.remove(''); {find}"))]}) == 0
    )


def test_a_summary_is_gone_on_with(monkeypatch, tmp_path):
    parts = {"check": [Part("good", python(""))]}
    assert run(monkeypatch, tmp_path, parts) == run(monkeypatch, tmp_path, parts) == 0
    assert len(json.loads((tmp_path / "summary.json").read_text())) == 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_stage_names_what_exists(tmp_path, device):
    import importlib.util

    for stage in gpu.STAGES:
        if stage == "train" and not (gpu.ROOT / "examples/cifar10/experiments.py").exists():
            continue
        for part in gpu.parts(stage, tmp_path, device, device == "cpu", 9.0, tmp_path):
            words = part.command[part.command.index(sys.executable) + 1 :]
            if words[0] == "-m":
                assert importlib.util.find_spec(words[1]) is not None
            else:
                assert (gpu.ROOT / words[0]).is_file()


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_scripts_of_training_take_their_words(tmp_path, device, quick):
    import experiments
    import throughput
    import train

    scripts = {"throughput": throughput, "speed": train, "table": experiments}
    for part in gpu.parts("train", tmp_path, device, quick, 9.0, tmp_path):
        given = scripts.pop(part.name).parser().parse_args(part.command[2:])
        if part.name == "speed":
            assert (given.recipe, given.graph, given.resume) == ("fast", device == "cuda", False)
    assert not scripts


def test_a_stage_end_to_end_on_the_cpu(tmp_path, capsys):
    options = ["--out", str(tmp_path), "--device", "cpu", "--quick", "--minutes", "5"]
    assert gpu.main(["blocks", *options]) == 0, capsys.readouterr().out
    result = json.loads((tmp_path / "blocks.json").read_text())
    assert result["rows"]
    assert {row["status"] for row in result["rows"]} == {"ok"}
    assert (tmp_path / "blocks.md").read_text().startswith(result["environment"]["device"])
    assert (tmp_path / "blocks.png").read_bytes().startswith(b"\x89PNG")


def test_no_gpu_is_said_plainly(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main(["check", "--out", str(tmp_path)])
    assert "torch sees no GPU here" in capsys.readouterr().err
