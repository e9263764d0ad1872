"""Every kind of image file becomes the same kind of tensor."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from got_core.data.images import FORMATS, image_tensor, load_image, open_image

RED = (255, 0, 0)
EXIF_ORIENTATION = 0x0112
QUARTER_TURN_CLOCKWISE = 6
FAULTS = Path(__file__).parents[1] / "fixtures" / "faults"


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


def tags(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Tags as in TIFF and EXIF: (number, type, count, value or its offset) each, in little-endian order."""
    written = b"".join(struct.pack("<HHI4s", *entry) for entry in sorted(entries))
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + written + bytes(4)


def short(number: int, value: int) -> tuple[int, int, int, bytes]:
    return number, 3, 1, struct.pack("<HH", value, 0)


def tiff(levels: np.ndarray, bits: int, photometric: int, *others: tuple[int, int, int, bytes]) -> bytes:
    """An uncompressed TIFF of one channel."""
    content = levels.tobytes()
    strips = [(number, 4, 1, struct.pack("<I", value)) for number, value in ((273, 2000), (279, len(content)))]
    values = {256: levels.shape[1], 257: levels.shape[0], 258: bits, 259: 1, 262: photometric, 277: 1, 278: 99}
    head = tags(*strips, *(short(*item) for item in values.items()), *others)
    return head.ljust(2000, b"\0") + content


def png(depth: int, colours: int, row: bytes, transparent: tuple[int, ...]) -> bytes:
    """A PNG of two pixels; one level, or colour, of the depth is transparent."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 2, 1, depth, colours, 0, 0, 0),
        b"tRNS": struct.pack(f">{len(transparent)}H", *transparent),
        b"IDAT": zlib.compress(b"\0" + row),
        b"IEND": b"",
    }
    written = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def test_the_exif_tag_turns_the_image_upright(tmp_path):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = QUARTER_TURN_CLOCKWISE
    half_red().save(tmp_path / "turned.png", exif=exif)
    pixels = load_image(tmp_path / "turned.png")
    assert pixels.shape == (3, 4, 2)
    assert (pixels[0, :2] == 1).all()
    assert (pixels[0, 2:] == -1).all()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_an_image_is_turned_once(file_format):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = QUARTER_TURN_CLOCKWISE
    data = encoded(half_red().resize((40, 20), Image.Resampling.NEAREST), file_format, exif=exif)
    opened = open_image(data)
    assert opened.size == (20, 40)
    assert torch.equal(image_tensor(opened), load_image(data))
    again = encoded(opened, file_format)
    assert open_image(again).size == (20, 40)


def test_other_tags_do_not_count():
    """Numbers 256 to 333 as any type, as programs have written them."""
    jpeg = encoded(Image.new("RGB", (4, 2), RED), "JPEG")
    grey = np.zeros((2, 4), np.uint8)
    for number in (*range(256, 274), *range(275, 334)):
        for kind in range(1, 13):
            turned = tags(short(EXIF_ORIENTATION, QUARTER_TURN_CLOCKWISE), (number, kind, 1, b"\1\0\0\0"))
            segment = b"Exif\0\0" + turned
            photograph = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]
            assert load_image(photograph).shape == (3, 4, 2), (number, kind)
    for kind in range(1, 13):
        turned = (short(EXIF_ORIENTATION, QUARTER_TURN_CLOCKWISE), (36867, kind, 1, b"\1\0\0\0"))
        assert load_image(tiff(grey, 8, 1, *turned)).shape == (3, 4, 2), kind
    assert load_image(FAULTS / "rotated_odd_exif.jpg").shape == (3, 40, 20)
    opened = Image.open(FAULTS / "rotated_odd_exif.jpg")
    assert torch.equal(image_tensor(opened, (40, 20)), load_image(FAULTS / "rotated_odd_exif.jpg"))


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


@pytest.mark.parametrize(
    ("depth", "colours", "row", "second"),
    [
        (2, 0, bytes([0b00100000]), (2,)),
        (4, 0, bytes([0x0A]), (10,)),
        (8, 0, bytes([0, 100]), (100,)),
        (16, 0, bytes([0, 0, 100, 0]), (25600,)),
        (16, 2, bytes([0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0]), (25600, 0, 0)),
    ],
)
def test_a_level_of_any_depth_may_be_transparent(depth, colours, row, second):
    black, other = load_image(png(depth, colours, row, second))[:, 0].unbind(-1)
    assert (black == -1).all()
    assert (other == 1).all()
    white, other = load_image(png(depth, colours, row, tuple(0 for _ in second)))[:, 0].unbind(-1)
    assert (white == 1).all()
    assert not (other == 1).any()


def test_grey_of_more_than_8_bits_has_a_known_white_or_is_refused():
    dark, half, white = (
        load_image(tiff(np.full((2, 2), level, "<u2"), 16, photometric))[0, 0, 0].item()
        for level, photometric in ((0x3333, 1), (0x3333, 0), (0, 0))
    )
    assert [dark, half, white] == pytest.approx([-0.6, 0.6, 1])
    twelve_bits = np.frombuffer(bytes([0x33, 0x33, 0x33] * 2), np.uint8)[None]
    pixels = load_image(
        tiff(twelve_bits, 12, 1).replace(struct.pack("<HHIH", 256, 3, 1, 6), struct.pack("<HHIH", 256, 3, 1, 4))
    )
    assert pixels[0, 0].tolist() == pytest.approx([-0.6] * 4)
    assert load_image(b"P5 1 1 65535\n\x33\x33")[0, 0, 0].item() == pytest.approx(-0.6)
    for name in ("float_half_grey.tif", "int32_level128.tif"):
        with pytest.raises(ValueError, match=rf"{name}: not a readable image \(an image of mode '[FI]' does not say"):
            load_image(FAULTS / name)
    assert (load_image(FAULTS / "grey16_transparent.png") == 1).all()


def test_text_in_a_png_may_be_long():
    assert load_image(FAULTS / "png_2MB_text.png").shape == (3, 20, 40)


def test_the_whole_image_is_resized_so_relative_positions_stay():
    wide = Image.new("RGB", (80, 20))
    wide.paste(RED, (40, 0, 80, 20))
    pixels = load_image(encoded(wide), size=(16, 32))
    assert pixels.shape == (3, 16, 32)
    assert (pixels[0, :, :14] < -0.9).all()
    assert (pixels[0, :, 18:] > 0.9).all()


@pytest.mark.parametrize("turn", [1, QUARTER_TURN_CLOCKWISE])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(turn):
    waves = np.sin(np.arange(800)[:, None, None] / (40, 60, 80)) * np.cos(np.arange(1200)[None, :, None] / 90)
    photo = Image.fromarray((127.5 + 127 * waves).astype(np.uint8))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = turn
    data = encoded(photo, "JPEG", quality=95, exif=exif)
    size = (40, 60) if turn == 1 else (60, 40)
    assert max(open_image(data, size=size).size) == 150
    assert open_image(data).size == (photo.size if turn == 1 else photo.size[::-1])
    small, full = load_image(data, size), image_tensor(open_image(data), size)
    assert small.shape == full.shape == (3, *size)
    assert (small - full).abs().mean() < 0.01
    assert open_image(data, size=(600, 600)).size == open_image(data).size
    assert open_image(encoded(photo), size=size).size == photo.size


def test_errors_name_the_file_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: no such image file"):
        load_image(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.png: not a readable image \(unknown format: save it as PNG"):
        load_image(tmp_path / "text.png")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"^image bytes: not a readable image \(.*truncated.*\)$"):
        load_image(encoded(noise, "JPEG")[:1000])
    with pytest.raises(ValueError, match="row 3: not a readable image"):
        load_image(b"", name="row 3")
    for name in ("damaged.avif", "damaged.dds"):
        with pytest.raises(ValueError, match=rf"{name}: not a readable image"):
            load_image(FAULTS / name)
    with pytest.raises(ValueError, match="not a readable image"):
        image_tensor(Image.open(io.BytesIO(encoded(noise, "JPEG")[:1000])), (8, 8))


@pytest.mark.filterwarnings("ignore:.*could be decompression bomb")
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded():
    large = encoded(Image.new("1", (13_300, 13_300)))
    message = r"not a readable image \(13,300 x 13,300 pixels are more than 67,108,864: make it smaller\)"
    with pytest.raises(ValueError, match=message):
        load_image(large, (8, 8))
    with pytest.raises(ValueError, match=message):
        image_tensor(Image.open(io.BytesIO(large)), (8, 8))


def test_no_other_program_is_started_to_read_a_file():
    postscript = encoded(Image.new("RGB", (8, 8)), "EPS")
    with pytest.raises(ValueError, match=r"not a readable image \(unknown format: save it as PNG"):
        load_image(postscript)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", [*FORMATS, "MPO"])
def test_damaged_files_are_read_or_refused_in_one_line(file_format):
    rng = np.random.default_rng(0)
    whole = encoded(
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).convert(_mode(file_format)), file_format
    )
    for _ in range(1500):
        content = bytearray(whole[: rng.integers(1, len(whole) + 1) if rng.random() < 0.3 else None])
        # Half of the damage is in the first 200 bytes: headers have most of the decisions.
        for position in rng.integers(0, min(len(content), rng.choice([200, len(whole)])), rng.integers(1, 8)):
            content[position] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        message = "it: not a readable image"
        try:
            assert load_image(bytes(content), (8, 8), name="it").shape == (3, 8, 8)
        except ValueError as error:
            message = str(error)
        assert message.startswith("it: not a readable image")
        assert "\n" not in message


def _mode(file_format: str) -> str:
    return "1" if file_format == "MSP" else "RGB"
