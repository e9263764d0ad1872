"""Every kind of image file becomes the same kind of tensor."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from got_core.data.images import load_image

RED = (255, 0, 0)
EXIF_ORIENTATION = 0x0112
QUARTER_TURN_CLOCKWISE = 6


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def half_red() -> Image.Image:
    """Left half red, right half black, 4 x 2."""
    image = Image.new("RGB", (4, 2))
    image.paste(RED, (0, 0, 2, 2))
    return image


def test_pixels_are_channels_first_from_minus_one_to_one():
    pixels = load_image(encoded(half_red()))
    assert pixels.shape == (3, 2, 4)
    assert pixels.dtype == torch.float32
    assert (pixels[0, :, :2] == 1).all()
    assert (pixels[0, :, 2:] == -1).all()
    assert (pixels[1:] == -1).all()


def test_the_exif_tag_turns_the_image_upright(tmp_path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = QUARTER_TURN_CLOCKWISE
    half_red().save(tmp_path / "turned.png", exif=exif)
    pixels = load_image(tmp_path / "turned.png")
    assert pixels.shape == (3, 4, 2)
    assert (pixels[0, :2] == 1).all()
    assert (pixels[0, 2:] == -1).all()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (2, 2), 255), (1, 1, 1)),
        (Image.new("RGB", (2, 2), RED).convert("P"), (1, -1, -1)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 255)), (1, -1, -1)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (1, 1, 1)),
        (Image.new("LA", (2, 2), (0, 255)), (-1, -1, -1)),
        (Image.new("1", (2, 2), 1), (1, 1, 1)),
        (Image.fromarray(np.full((2, 2), 51 * 257, np.uint16)), (-0.6, -0.6, -0.6)),
    ],
    ids=["greyscale", "palette", "opaque", "transparent shows white", "greyscale with alpha", "bits", "16 bits"],
)
def test_every_mode_becomes_rgb(image, expected):
    pixels = load_image(encoded(image))
    assert pixels.shape == (3, 2, 2)
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor(expected, dtype=torch.float32))


def test_a_palette_entry_may_be_transparent():
    image = Image.new("P", (2, 2), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((1, 1), 1)
    pixels = load_image(encoded(image, transparency=0))
    assert pixels[:, 0, 0].tolist() == [1, 1, 1]
    assert pixels[:, 1, 1].tolist() == [1, -1, -1]


def test_the_whole_image_is_resized_so_relative_positions_stay():
    wide = Image.new("RGB", (80, 20))
    wide.paste(RED, (40, 0, 80, 20))
    pixels = load_image(encoded(wide), size=(16, 32))
    assert pixels.shape == (3, 16, 32)
    assert (pixels[0, :, :14] < -0.9).all()
    assert (pixels[0, :, 18:] > 0.9).all()


def test_errors_name_the_file_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: no such image file"):
        load_image(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.png: not a readable image \(unknown format\)"):
        load_image(tmp_path / "text.png")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"^image bytes: not a readable image \(.*truncated.*\)$"):
        load_image(encoded(noise, "JPEG")[:1000])
    with pytest.raises(ValueError, match="row 3: not a readable image"):
        load_image(b"", name="row 3")
