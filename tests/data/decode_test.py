"""Encoded images of every mode, against Pillow's own conversion."""

import io

import numpy as np
import pytest
from PIL import Image

from ddjax.config import Data
from ddjax.data import decode, open_data
from ddjax.data.base import Undecodable

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (12, 10), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (12, 10), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_png_modes():
    colour = Image.fromarray(RGB)
    with_alpha = Image.fromarray(np.dstack([RGB, ALPHA]))
    grey_alpha = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
    np.testing.assert_array_equal(decode.decode(encode(colour)), RGB)
    np.testing.assert_array_equal(decode.decode(encode(with_alpha)), RGB)
    np.testing.assert_array_equal(decode.decode(encode(Image.fromarray(GREY)))[..., 0], GREY)
    np.testing.assert_array_equal(decode.decode(encode(grey_alpha))[..., 0], GREY)
    np.testing.assert_array_equal(decode.decode(encode(Image.fromarray(GREY > 127)))[..., 0], (GREY > 127) * 255)
    palette = colour.quantize(16)
    np.testing.assert_array_equal(decode.decode(encode(palette)), np.asarray(palette.convert("RGB")))
    clear = encode(palette, transparency=bytes(range(16)))
    np.testing.assert_array_equal(decode.decode(clear), np.asarray(palette.convert("RGB")))


def test_sixteen_bits_are_scaled_not_clipped():
    deep = RNG.integers(0, 65536, (6, 5), dtype=np.uint16)
    found = decode.decode(encode(Image.fromarray(deep)))
    np.testing.assert_array_equal(found[..., 0], np.round(deep * (255 / 65535)).astype(np.uint8))


def test_jpeg_modes():
    for image, channels in ((Image.fromarray(RGB), 3), (Image.fromarray(GREY), 1)):
        data = encode(image, "JPEG", quality=90)
        found = decode.decode(data)
        with Image.open(io.BytesIO(data)) as held:
            np.testing.assert_array_equal(found.squeeze(), np.asarray(held))
        assert found.shape == (12, 10, channels)
        assert decode.header(data) == (12, 10, channels)
    ink = encode(Image.fromarray(RGB).convert("CMYK"), "JPEG")
    with Image.open(io.BytesIO(ink)) as held:
        np.testing.assert_array_equal(decode.decode(ink), np.asarray(held.convert("RGB")))


def test_a_jpeg_with_stray_bytes_is_read_and_one_that_lacks_some_is_not():
    data = encode(Image.fromarray(RGB), "JPEG")
    np.testing.assert_array_equal(decode.decode(data + b"stray"), decode.decode(data))
    with pytest.raises(Undecodable, match=r"(?i)truncated"):
        decode.decode(data[: len(data) * 3 // 4])


def test_other_formats():
    for kind in ("BMP", "GIF", "TIFF", "PPM", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(Image.fromarray(RGB), kind, **options)
        with Image.open(io.BytesIO(data)) as held:
            np.testing.assert_array_equal(decode.decode(data), np.asarray(held.convert("RGB")))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"%!PS-Adobe-3.0 EPSF", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"\xff\xd8\xff", "."),
        (encode(Image.fromarray(RGB))[:60], "."),
        (encode(Image.fromarray(RNG.random((4, 4), np.float32)), "TIFF"), "mode F"),
    ],
)
def test_what_is_no_image(data, reason):
    with pytest.raises(Undecodable, match=reason):
        decode.decode(data)


def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    for kind in ("PNG", "JPEG"):
        with pytest.raises(Undecodable, match="declares 10x12 pixels, more than 100"):
            decode.decode(encode(Image.fromarray(RGB), kind))


def test_channels():
    grey = decode.as_channels(RGB, 1)[..., 0]
    np.testing.assert_array_equal(grey, np.asarray(Image.fromarray(RGB).convert("L")))
    both = decode.as_channels(GREY[..., None], 3)
    np.testing.assert_array_equal(both, np.repeat(GREY[..., None], 3, axis=-1))
    assert decode.as_channels(np.zeros((2, 2, 4), np.uint8), 3).shape == (2, 2, 3)


def test_resize_rules():
    image = RNG.integers(0, 256, (20, 40, 3), dtype=np.uint8)
    picture = Image.fromarray(image)
    squashed = np.asarray(picture.resize((10, 10), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(decode.resize(image, (10, 10), "squash"), squashed)
    central = np.asarray(picture.crop((10, 0, 30, 20)).resize((20, 20)))
    np.testing.assert_array_equal(decode.resize(image, (20, 20), "crop"), central)
    assert decode.resize(image[..., :1], (10, 5), "crop").shape == (10, 5, 1)
    assert decode.resize(image, (10, 10), "none") is image


def test_channels_of_a_set_follow_its_images_or_the_word(broken):
    def grey(size=8):
        return encode(Image.fromarray(RNG.integers(0, 256, (size, size), dtype=np.uint8)))

    every = {f"{c}/{i}.png": grey() for c in ("cat", "dog") for i in range(8)}
    root, mixed = broken(every, "grey"), broken({f"cat/{i}.png": grey() for i in range(7)}, "mixed")
    for resident in (1 << 30, 0):
        open_ = lambda **data: open_data(Data(**data), 0, resident_bytes=resident)  # noqa: B023, E731
        assert open_(train=f"folder:{root}").train.shape == (8, 8, 1)
        assert open_(train=f"folder:{root}", channels="rgb").train.shape == (8, 8, 3)
        found = open_(train=f"folder:{mixed}")
        assert {s.shape for s in (found.train, found.val, found.test)} == {(8, 8, 3)}
        assert open_(train=f"folder:{mixed}", channels="grey").card.channels == 1
        only_test_is_colour = open_(train=f"folder:{root}", test=f"folder:{broken()}")
        assert only_test_is_colour.train.shape == (8, 8, 3)
