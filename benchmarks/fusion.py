"""How many batch norms `convblocks.deploy.fuse` folds in timm's convolutional networks, and how far the output moves.

`python -m benchmarks.fusion` writes benchmarks/results/fusion.json; `--table` prints it as docs/pages/deploy.md shows
it. The share is of all norms, whether there is a layer that one could go into or not; `kept` says of the others why
they stay. `fused_*` is how far the output moves; `rounding_float32` is how far the original's own float32 output is
from its float64 one, which tells a network that amplifies rounding from a fold that is wrong.
"""

import argparse
import json
import platform
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from benchmarks.record import write
from convblocks.deploy import fuse

RESULTS = Path(__file__).parent / "results" / "fusion.json"
LIMITS = {"float32": 1e-5, "float64": 1e-12}
"""How far the output may move by fusing, as a share of the largest output."""
INPUT_SIZE = (3, 96, 96)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# One or two of each family of timm that normalises by batch.
NETWORKS = (
    *("resnet18", "resnet50", "resnext50_32x4d", "seresnet18", "ecaresnet26t", "resnetv2_18", "wide_resnet50_2"),
    *("mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100", "mobilenetv4_conv_small", "mobileone_s0"),
    *("efficientnet_b0", "efficientnetv2_rw_t", "mnasnet_100", "fbnetc_100", "spnasnet_100", "tinynet_e", "mixnet_s"),
    *("hardcorenas_a", "ghostnet_100", "lcnet_050", "regnetx_002", "regnety_002", "rexnet_100", "semnasnet_075"),
    *("densenet121", "dla34", "dpn48b", "vgg11_bn", "inception_v3", "inception_v4", "xception41", "hrnet_w18_small"),
    *("repvgg_a0", "cspdarknet53", "darknet53", "vovnet39a", "ese_vovnet19b_dw", "selecsls42", "res2net50_26w_4s"),
    *("skresnet18", "hgnet_tiny", "repghostnet_050"),
)


def shaken(model: nn.Module) -> nn.Module:
    """Random statistics: with fresh ones a norm does nothing, and leaving it out would not show."""
    for part in model.modules():
        if isinstance(part, NORMS):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
    return model.eval()


def measure(name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    model = shaken(timm.create_model(name))
    image = torch.randn(2, *INPUT_SIZE, dtype=torch.float64)
    row: dict[str, Any] = {"network": name}
    outputs: dict[str, Tensor] = {}
    for dtype in (torch.float64, torch.float32):
        model, x = model.to(dtype), image.to(dtype)
        fused, report = fuse(model, INPUT_SIZE)
        with torch.no_grad():
            outputs[str(dtype)] = expected = model(x)
            row[f"fused_{str(dtype).removeprefix('torch.')}"] = distance(fused(x), expected)
    row["rounding_float32"] = distance(outputs["torch.float32"], outputs["torch.float64"])
    kept = Counter(re.sub(r"\d+ operations", "several operations", reason) for reason in report.kept.values())
    return row | {"norms": report.norms, "folded": report.folded, "merged": len(report.merged), "kept": dict(kept)}


def distance(output: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest output."""
    return float((output - expected).abs().max() / expected.abs().max())


def within(row: dict[str, Any]) -> bool:
    """Whether the output moves by no more than fuse promises, in both precisions."""
    return row["fused_float32"] <= LIMITS["float32"] and row["fused_float64"] <= LIMITS["float64"]


def table(result: dict[str, Any]) -> str:
    met = sum(within(row) for row in result["networks"])
    lines = [
        "| network | norms | folded | convolutions merged | output moves, float32 | float64 | own rounding | within |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in (*result["networks"], {"network": "**all**", **result["totals"]}):
        keys = ("fused_float32", "fused_float64", "rounding_float32")
        moves = [f"{row[key]:.0e}" if key in row else "" for key in keys]
        verdict = ("yes" if within(row) else "no") if "fused_float32" in row else f"{met} of {len(result['networks'])}"
        cells = (row["network"], f"{row['norms']:,}", f"{row['folded']:,}", str(row["merged"]), *moves, verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NAME", help="names of timm's")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument("--table", action="store_true", help="print the table of the committed results, and stop")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(json.loads(options.output.read_text())))
        return
    rows = []
    for name in options.networks:
        rows.append(measure(name))
        print(json.dumps(rows[-1]), flush=True)
    totals: dict[str, float] = {key: sum(row[key] for row in rows) for key in ("norms", "folded", "merged")}
    totals["share"] = totals["folded"] / totals["norms"]
    result = {
        "command": "python -m benchmarks.fusion",
        "input_size": INPUT_SIZE,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
        "totals": totals,
        "networks": rows,
    }
    write(options.output, json.dumps(result, indent=1) + "\n")
    print(totals)


if __name__ == "__main__":
    main()
