"""Encoded image bytes to uint8 ``[H, W, D]``: JPEG by simplejpeg, all else and odd JPEG by Pillow.

An image decodes to its native channels (1 for a grey mode, else 3) and is then brought to the
channels and the size that the set wants. Conversions: grey to RGB by repetition; RGB to grey by
ITU-R 601 luma; palette and CMYK to RGB; alpha is dropped, not blended; 16-bit grey is scaled by
255/65535; of an animation the first frame counts; an EXIF orientation is not applied,
as torchvision does not.
Resizing is Pillow's bicubic with its anti-aliasing, as published evaluation protocols use it.
"""

import io
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from ddjax.data.base import Undecodable

Resize = Literal["none", "squash", "crop"]
MAX_PIXELS = 1 << 26  # an image that declares more is taken for a decompression bomb
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif")
_OTHER_ENDINGS = (".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
EXTENSIONS = _JPEG_ENDINGS + _OTHER_ENDINGS


def decode(data: bytes) -> np.ndarray:
    """The image in ``data`` as uint8 ``[H, W, 1]`` or ``[H, W, 3]``; `Undecodable` if it is none.

    simplejpeg is strict: whatever it complains of is tried again with Pillow, which forgives stray
    bytes but not missing ones.
    """
    if data[:2] == b"\xff\xd8":
        try:
            height, width, space = _jpeg_header(data)
            if space in ("Gray", "YCbCr", "RGB"):
                _check_area(width, height)
                return simplejpeg.decode_jpeg(data, "GRAY" if space == "Gray" else "RGB")
        except ValueError:
            return _decode_pillow(data)
    return _decode_pillow(data)


def header(data: bytes) -> tuple[int, int, int]:
    """Height, width and native channels from the file's header, without decoding its pixels."""
    if data[:2] == b"\xff\xd8":
        try:
            height, width, space = _jpeg_header(data)
            return height, width, 1 if space == "Gray" else 3
        except ValueError:
            return _header_pillow(data)
    return _header_pillow(data)


def as_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """``[H, W, 1 | 3 | 4]`` to ``channels`` (1 or 3).

    Grey is repeated; colour becomes L = (19595 R + 38470 G + 7471 B + 2^15) / 2^16, as in Pillow.
    """
    if image.shape[-1] == 4:
        image = image[..., :3]
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    luma = image.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]


def resize(image: np.ndarray, size: tuple[int, int], rule: Resize) -> np.ndarray:
    """``[H, W, D]`` to ``size``: ``squash`` bends the aspect, ``crop`` keeps the central box.

    With ``none``, or where the size fits already, the image is returned as it is.
    """
    height, width = image.shape[:2]
    if rule == "none" or (height, width) == size:
        return image
    box = (0.0, 0.0, float(width), float(height))
    if rule == "crop":
        scale = min(height / size[0], width / size[1])
        top, left = (height - scale * size[0]) / 2, (width - scale * size[1]) / 2
        box = (left, top, left + scale * size[1], top + scale * size[0])
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    scaled = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)
    return np.asarray(scaled).reshape(*size, image.shape[-1])


def _jpeg_header(data: bytes) -> tuple[int, int, str]:
    height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    return int(height), int(width), str(space)


def _check_area(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Undecodable(f"declares {width}x{height} pixels, more than {MAX_PIXELS}")


def _is_grey(mode: str) -> bool:
    return mode in ("1", "L", "LA", "La", "I") or mode.startswith("I;16")


def _opened(data: bytes) -> Image.Image:
    """The image with its header read; every complaint of Pillow's becomes `Undecodable`."""
    if not data:
        raise Undecodable("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError:
        raise Undecodable("not an image") from None
    except Exception as error:  # Pillow raises almost any type on a malformed file
        raise Undecodable(f"{type(error).__name__}: {error}") from error
    _check_area(image.width, image.height)
    return image


def _header_pillow(data: bytes) -> tuple[int, int, int]:
    with _opened(data) as image:
        return image.height, image.width, 1 if _is_grey(image.mode) else 3


def _decode_pillow(data: bytes) -> np.ndarray:
    with _opened(data) as image:
        try:
            return _pixels(image)
        except (MemoryError, Undecodable):
            raise
        except Exception as error:  # as above
            raise Undecodable(str(error) or type(error).__name__) from error


def _pixels(image: Image.Image) -> np.ndarray:
    mode = image.mode
    if mode in ("F", "LAB"):
        raise Undecodable(f"mode {mode} is no 8- or 16-bit image")
    if mode == "I" or mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise Undecodable("32-bit values beyond 0..65535")
        return ((deep * 255 + 32767) // 65535).astype(np.uint8)[..., None]
    if _is_grey(mode):
        return np.asarray(image.convert("L"))[..., None]
    if mode == "P":
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
