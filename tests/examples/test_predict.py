"""predict.py: every kind of image file that Pillow reads, and what is no image."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pictures
import predict as script
import pytest
import sources
import trained
from PIL import Image, ImageCms, ImageOps

COLOUR = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
GREY = COLOUR[..., 0]
THREE = np.repeat(GREY[..., None], 3, axis=2)
STRETCHED = np.rint((THREE - THREE.min().astype(float)) * (255 / np.ptp(THREE))).astype(np.uint8)
BLACK = np.zeros_like(COLOUR)


def left_half(pixels: object) -> np.ndarray:
    """The pixels, the right half of which shows the white that they are laid on."""
    return np.where(np.arange(32)[None, :, None] < 16, pixels, np.full((32, 32, 3), 255)).astype(np.uint8)


def alpha(image: Image.Image) -> Image.Image:
    """The right half made transparent."""
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    image.putalpha(mask)
    return image


def of(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    of(COLOUR).rotate(90).save(path, exif=exif)


def palette_with_a_hole(path: Path) -> None:
    pixels = np.where(np.arange(32)[None, :] < 16, 1, 0).astype(np.uint8).repeat(32, 0)
    image = of(pixels).convert("P")
    image.putpalette([9, 9, 9, 50, 60, 70])
    image.save(path, transparency=0)


FILES: list[tuple[str, Callable[[Path], object], np.ndarray]] = [
    ("rgb.png", lambda path: of(COLOUR).save(path), COLOUR),
    ("rgb.bmp", lambda path: of(COLOUR).save(path), COLOUR),
    ("rgb.ppm", lambda path: of(COLOUR).save(path), COLOUR),
    ("rgb.tga", lambda path: of(COLOUR).save(path), COLOUR),
    ("rgb.tiff", lambda path: of(COLOUR).save(path, compression="tiff_lzw"), COLOUR),
    ("rgb.webp", lambda path: of(COLOUR).save(path, lossless=True), COLOUR),
    ("misnamed.jpg", lambda path: of(COLOUR).save(path, format="PNG"), COLOUR),
    ("grey.png", lambda path: of(GREY).save(path), THREE),
    ("grey.gif", lambda path: of(GREY).save(path), THREE),
    ("bilevel.png", lambda path: of(GREY > 99).save(path), 255 * (THREE > 99)),
    ("grey16.png", lambda path: of(GREY.astype(np.uint16) * 257).save(path), THREE),
    ("grey16.tif", lambda path: of(GREY.astype(np.uint16) * 257).save(path), THREE),
    ("grey32.tif", lambda path: of(GREY.astype(np.int32) * 65537).save(path), STRETCHED),
    ("float.tif", lambda path: of(GREY.astype(np.float32) / 256 + 0.001).save(path), STRETCHED),
    ("flat.tif", lambda path: of(np.full((32, 32), 0.5, np.float32)).save(path), BLACK),
    ("alpha.png", lambda path: alpha(of(COLOUR)).save(path), left_half(COLOUR)),
    ("alpha.webp", lambda path: alpha(of(COLOUR)).save(path, lossless=True), left_half(COLOUR)),
    ("grey-alpha.png", lambda path: alpha(of(GREY)).save(path), left_half(THREE)),
    ("hole.png", palette_with_a_hole, left_half([50, 60, 70])),
    ("turned.png", turned, COLOUR),
    ("moving.gif", lambda path: of(GREY).save(path, save_all=True, append_images=[of(255 - GREY)]), THREE),
    ("moving.png", lambda path: of(COLOUR).save(path, save_all=True, append_images=[of(255 - COLOUR)]), COLOUR),
    ("pages.tif", lambda path: of(COLOUR).save(path, save_all=True, append_images=[of(255 - COLOUR)]), COLOUR),
]


@pytest.mark.parametrize(("name", "write", "expected"), FILES, ids=[name for name, *_ in FILES])
def test_32x32_files_of_every_kind_keep_their_pixels(
    name: str, write: Callable[[Path], object], expected: np.ndarray, tmp_path: Path
) -> None:
    write(tmp_path / name)
    np.testing.assert_array_equal(pictures.read(tmp_path / name), expected)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colour_spaces_become_rgb(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32), (200, 40, 90))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        made = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
        assert made
        image = made
    else:
        image = image.convert(mode)
    image.save(tmp_path / "image.tif")
    difference = pictures.read(tmp_path / "image.tif").astype(int) - (200, 40, 90)
    assert abs(difference).max() <= 4


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (31, 33), (64, 48), (500, 400)])
def test_any_size_becomes_its_middle(size: tuple[int, int], tmp_path: Path) -> None:
    # A blue square in the middle of red: all that is left of the long side is blue.
    image = Image.new("RGB", size, "red")
    side = min(size)
    image.paste((0, 0, 255), ((size[0] - side) // 2, (size[1] - side) // 2, -(-(size[0] + side) // 2), size[1]))
    image.paste((0, 0, 255), ((size[0] - side) // 2, (size[1] - side) // 2, size[0], -(-(size[1] + side) // 2)))
    image.save(tmp_path / "image.png")
    # The pixels at the edge see a little of what is cropped.
    assert (pictures.read(tmp_path / "image.png")[3:-3, 3:-3] == (0, 0, 255)).all()


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((320, 320, 3), np.uint8)
    stripes[:, ::2] = 255
    of(stripes).save(tmp_path / "stripes.png")
    assert abs(pictures.read(tmp_path / "stripes.png").astype(int) - 127).max() <= 4


def test_the_shorter_side_is_resized_and_the_middle_cropped(tmp_path: Path) -> None:
    image = of(COLOUR).resize((150, 100), Image.Resampling.NEAREST)
    image.save(tmp_path / "image.png")
    expected = image.resize((48, 32), Image.Resampling.BICUBIC).crop((8, 0, 40, 32))
    np.testing.assert_array_equal(pictures.read(tmp_path / "image.png"), np.asarray(expected))


def no_image(path: Path) -> None:
    path.write_bytes(b"GIF89a" + bytes(40))


def cut(path: Path) -> None:
    of(COLOUR).save(path)
    path.write_bytes(path.read_bytes()[:1500])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("cut.png", cut, "cannot be read as an image: "),
        ("cut.bmp", cut, "cannot be read as an image: image file is truncated"),
        ("empty.png", Path.touch, "cannot be read as an image: cannot identify image file"),
        ("text.jpg", lambda path: path.write_text("hello"), "cannot be read as an image: cannot identify image file"),
        ("bad.gif", no_image, "cannot be read as an image: "),
        ("nan.tif", lambda path: of(np.full((32, 32), np.nan, np.float32)).save(path), "not finite"),
        ("absent.png", lambda path: None, "does not exist"),
        ("folder", Path.mkdir, "holds no image file"),
    ],
)
def test_what_is_no_image_is_named_and_the_rest_go_on(
    name: str,
    write: Callable[[Path], object],
    message: str,
    tmp_path: Path,
    digits_run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad, good = tmp_path / name, tmp_path / "good.png"
    write(bad)
    of(COLOUR).save(good)
    status = script.main([str(digits_run), str(bad), str(good), "--top", "1", "--device", "cpu"])
    out, err = capsys.readouterr()
    assert status == 1
    assert re.fullmatch(rf"{re.escape(str(good))}: \d \d+\.\d%\n", out)
    assert err.startswith(f"predict.py: {bad} ")
    assert message in err
    assert err.count("\n") == 1


def test_a_folder_gives_what_the_network_says_of_its_images(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "CHUNK", 7)
    digits = sources.read_digits()
    (tmp_path / "deep").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    for number in range(20):
        of(digits.test.images[number]).save(tmp_path / ("deep" if number < 10 else "") / f"{number:02}.PNG")
    assert script.main([str(digits_run), str(tmp_path), "--json", "--device", "cpu"]) == 0
    found = {Path(one["file"]).stem: one["classes"] for one in map(json.loads, capsys.readouterr().out.splitlines())}
    network = trained.load(digits_run, device="cpu")
    expected = network.logits(digits.test.images[:20]).softmax(1)
    assert len(found) == 20
    for number, probabilities in enumerate(expected):
        values, labels = probabilities.topk(3)
        shown = found[f"{number:02}"]
        assert list(shown) == [network.classes[label] for label in labels]
        assert list(shown.values()) == pytest.approx(values.tolist(), abs=1e-5)


def test_text_shows_the_most_probable_first(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of(COLOUR).save(tmp_path / "a.png")
    assert script.main([str(digits_run), str(tmp_path / "a.png"), "--top", "10", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    shares = [float(share) for share in re.findall(r"([\d.]+)%", out)]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.6)


def test_json_names_what_failed(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "absent.png")
    assert script.main([str(digits_run), path, "--json", "--device", "cpu"]) == 1
    assert json.loads(capsys.readouterr().out) == {"file": path, "error": "does not exist"}


@pytest.mark.parametrize("top", ["0", "11"])
def test_top_beyond_the_classes_is_refused(top: str, digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([str(digits_run), "a.png", "--top", top, "--device", "cpu"]) == 2
    assert f"--top {top} is not between 1 and 10" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_not_unicode(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    of(COLOUR).save(path)
    assert script.main([str(digits_run), str(path), "--device", "cpu"]) == 0
    assert "/caf\\udce9.png: " in capsys.readouterr().out


def test_orientation_agrees_with_pillow(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        of(COLOUR).save(path, exif=exif)
        with Image.open(path) as image:
            np.testing.assert_array_equal(pictures.read(path), np.asarray(ImageOps.exif_transpose(image)))
