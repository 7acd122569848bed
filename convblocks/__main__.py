"""The command line: `python -m convblocks summary|rf|audit|plot MODEL`."""

# What matplotlib leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from convblocks.introspect.answers import ReceptiveField
from convblocks.introspect.audit import Audit, audit
from convblocks.introspect.kinds import KINDS
from convblocks.introspect.loading import FORMS, load_model
from convblocks.introspect.receptive_field import receptive_field
from convblocks.introspect.requirements import PRESETS, Requirements
from convblocks.introspect.summary import summary

EXAMPLES = """\
examples:
  python -m convblocks summary timm:resnet50 --depth 2
  python -m convblocks rf torchvision:vgg11 --layer features.10
  python -m convblocks audit networks.py:small --input 3,32,32 --max-parameters 200000
  python -m convblocks plot timm:resnet50 --layer layer2 --out field.png

The exit status is 0, 1 where an audit fails, 2 where the arguments or the network are wrong.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 where an audit fails, 2 where the arguments or the network are wrong."""
    options = _parser().parse_args(arguments)
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # `| head` has read enough; what is left must not be flushed into nothing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ImportError, OSError) as error:
        # One line, whatever torch puts into several.
        text = " ".join(str(error).split())
        hint = "; --input gives another size" if options.input is None and "input_size=" in text else ""
        print(f"convblocks: {text}{hint}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convblocks",
        description="What a network sees and costs, and whether it keeps a specification. No weights are loaded.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("model", metavar="MODEL", help=FORMS)
        sub.add_argument(
            "--input",
            type=_size,
            metavar="C,H,W",
            help="input size (default: the network's own in timm, else 3,224,224)",
        )
        return sub

    sub = command("summary", _summary, "a table of the layers: output, receptive field, parameters, MACs")
    sub.add_argument("--depth", type=_whole(0), metavar="N", help="levels of nesting to show (default: all)")
    sub.add_argument("--width", type=_whole(1), metavar="N", help="columns of the table (default: the terminal)")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print a Markdown table")
    form.add_argument("--html", action="store_true", help="print an HTML table")
    form.add_argument("--geometry", action="store_true", help="print the receptive-field table: r, n and j, in and out")

    sub = command("rf", _field, "the receptive field of the output, or of named layers")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.add_argument("--layer", action="append", default=[], metavar="NAME", help="a layer (may be repeated)")

    sub = command("audit", _audit, "hold the network to a specification; exit status 1 where it fails")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.add_argument("--preset", choices=sorted(PRESETS), help="a ready specification")
    sub.add_argument("--max-parameters", type=_whole(0), metavar="N", help="most parameters")
    sub.add_argument("--max-macs", type=_whole(0), metavar="N", help="most multiply-accumulates")
    sub.add_argument(
        "--min-receptive-field",
        type=_whole(0),
        metavar="N",
        help="smallest field, in pixels, of the last map before pooling",
    )
    sub.add_argument("--max-receptive-field", type=_whole(0), metavar="N", help="largest field of that map")
    sub.add_argument(
        "--min-coverage", type=float, metavar="SHARE", help="least share of the field's pixels that reach it, 0 to 1"
    )
    for side in ("least", "most"):
        sub.add_argument(
            f"--at-{side}",
            action="append",
            default=[],
            type=_count,
            metavar="KIND=N",
            help=f"at {side} N layers of a kind: {', '.join(KINDS)}",
        )
    sub.add_argument(
        "--no-dense-after-pooling", action="store_true", help="the pooled features map straight to the classes"
    )

    sub = command("plot", _plot, "draw the receptive field of a layer and its growth through the network")
    sub.add_argument("--layer", default=None, metavar="NAME", help="the layer (default: the last map before pooling)")
    sub.add_argument(
        "--out", default="receptive_field.png", metavar="FILE", help="picture to write (default: %(default)s)"
    )
    return parser


def _size(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers such as 3,224,224, got {text!r}") from None


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}, got {text!r}")
        return int(text)

    return parse


def _count(text: str) -> tuple[str, int]:
    kind, _, count = text.rpartition("=")
    if not kind or not count.isdigit():
        raise argparse.ArgumentTypeError(f"must be KIND=N, such as dilated=1, got {text!r}")
    return kind, int(count)


def _input(options: argparse.Namespace, model: Any) -> tuple[int, ...]:
    own: dict[str, Any] = getattr(model, "default_cfg", None) or {}
    return options.input or tuple(own.get("input_size", (3, 224, 224)))


def _print_json(data: Any) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return "global"
        if isinstance(value, dict):
            return {key: plain(item) for key, item in cast("dict[Any, Any]", value).items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in cast("Sequence[Any]", value)]
        return value

    print(json.dumps(plain(data), indent=1))


def _summary(options: argparse.Namespace) -> int:
    model = load_model(options.model)
    table = summary(model, _input(options, model), depth=options.depth)
    if options.json:
        _print_json(
            {
                "parameters": table.parameters,
                "trainable": table.trainable,
                "macs": table.macs,
                "activation_bytes": table.activation_bytes,
                "layers": table.records(),
            }
        )
    elif options.markdown:
        print(table.markdown())
    elif options.html:
        print(table.html())
    else:
        print(table.geometry().text(options.width) if options.geometry else table.text(options.width))
    return 0


def _describe(field: ReceptiveField) -> dict[str, Any]:
    local = field.local
    return {
        "size": field.size,
        "jump": field.jump,
        "start": field.start,
        "local": {"size": local.size, "jump": local.jump, "start": local.start, "period": local.period},
        "at_most": field.at_most,
        "unknown": field.unknown,
        "gates": field.gates,
    }


def _field(options: argparse.Namespace) -> int:
    model = load_model(options.model)
    field = receptive_field(model, _input(options, model))
    chosen = {"output": field}
    if options.layer:
        missing = [name for name in options.layer if name not in field.layers]
        if missing:
            raise ValueError(f"the network has no layer {missing[0]!r} that ran; try `summary` for the names")
        chosen = {name: field.layers[name] for name in options.layer}
    if options.json:
        _print_json({name: _describe(one) for name, one in chosen.items()})
    else:
        for name, one in chosen.items():
            print(f"{name}: {one!r}")
    return 0


def _audit(options: argparse.Namespace) -> int:
    asked: dict[str, Any] = {
        "max_parameters": options.max_parameters,
        "max_macs": options.max_macs,
        "min_receptive_field": options.min_receptive_field,
        "max_receptive_field": options.max_receptive_field,
        "min_coverage": options.min_coverage,
        "at_least": dict(options.at_least),
        "at_most": dict(options.at_most),
        "linear_after_pooling": 0 if options.no_dense_after_pooling else None,
    }
    given = {key: value for key, value in asked.items() if value is not None and value != {}}
    if not given and not options.preset:
        raise ValueError("give --preset or at least one requirement")
    model = load_model(options.model)
    size = _input(options, model)
    asked_for = [PRESETS[options.preset]] if options.preset else []
    asked_for += [Requirements(**given)] if given else []
    result = Audit([finding for one in asked_for for finding in audit(model, size, one).findings])
    if options.json:
        _print_json({"passed": result.passed, "findings": result.records()})
    else:
        print(result.text())
    return 0 if result.passed else 1


def _plot(options: argparse.Namespace) -> int:
    from convblocks.introspect.plotting import plot_receptive_field

    out = Path(options.out)
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"--out must be a file in a folder that exists, got {options.out!r}")
    out = out if out.suffix else out.with_suffix(".png")
    model = load_model(options.model)
    figure = plot_receptive_field(model, _input(options, model), layer=options.layer)
    figure.savefig(out, dpi=120)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
