"""Decoding against images whose pixels are known; every damaged image is named, never guessed."""

import io
import struct
import sys
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from grids_ros.observation import images
from grids_ros.observation.images import MAX_PIXELS, PLAIN, ImageError, to_rgb


def message(encoding, pixels, padding=0, bigendian=False):
    """sensor_msgs/Image by attribute, its rows padded by `padding` bytes of rubbish."""
    if pixels.dtype.itemsize > 1:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">" if bigendian else "<"))
    rows = pixels.reshape(pixels.shape[0], -1).view(np.uint8)
    rows = np.concatenate([rows, np.full((len(rows), padding), 0xAB, np.uint8)], axis=1)
    return SimpleNamespace(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=rows.shape[1],
        is_bigendian=int(bigendian),
        data=rows.tobytes(),
    )


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(sorted(PLAIN)),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 9),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_every_plain_encoding_step_and_byte_order(encoding, height, width, padding, bigendian, seed):
    dtype, channels, order = PLAIN[encoding]
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if channels == 1:
        rgb[:] = rgb[..., :1]
    stored = np.zeros((height, width, channels), np.uint8)
    for colour, channel in enumerate(order):
        stored[..., channel] = rgb[..., colour]
    if dtype == "u2":
        stored = stored.astype(np.uint16) * 257
    elif dtype == "f4":
        stored = (stored / 255.0).astype(np.float32)
    np.testing.assert_array_equal(to_rgb(message(encoding, stored, padding, bigendian)), rgb)


def test_rgb8_is_a_view_of_the_message():
    image = message("rgb8", np.zeros((4, 5, 3), np.uint8))
    image.data = bytearray(image.data)
    decoded = to_rgb(image)
    image.data[0] = 7
    assert decoded[0, 0, 0] == 7


def test_compressed_images():
    rgb = np.zeros((8, 9, 3), np.uint8)
    rgb[:, :4] = (250, 10, 20)
    _, png = cv2.imencode(".png", rgb[..., ::-1])
    np.testing.assert_array_equal(to_rgb(SimpleNamespace(format="png", data=png.tobytes())), rgb)
    _, jpeg = cv2.imencode(".jpg", np.full((16, 16, 3), (20, 10, 250), np.uint8))
    decoded = to_rgb(SimpleNamespace(format="jpeg", data=jpeg.tobytes()))
    assert np.abs(decoded.astype(int) - (250, 10, 20)).max() < 8


def damaged(**changes):
    image = message("rgb8", np.zeros((4, 5, 3), np.uint8))
    for name, value in changes.items():
        setattr(image, name, value)
    return image


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (damaged(step=14), "step is 14 bytes, a row of 5 rgb8 pixels takes 15"),
        (damaged(data=b""), "data holds 0 bytes, 4 rows of step 15 need 60"),
        (damaged(data=b"x" * 59), "data holds 59 bytes"),
        (damaged(height=0), "5x0"),
        (damaged(width=2**31), "expected each side in"),
        (damaged(encoding="hsv8"), "encoding 'hsv8' is not one of rgb8, bgr8"),
        (damaged(encoding=""), "encoding '' is not one of"),
        (message("32FC1", np.full((2, 2, 1), np.nan, np.float32)), "NaN"),
        (SimpleNamespace(format="jpeg", data=b""), "no bytes"),
        (SimpleNamespace(format="jpeg", data=b"not a picture"), "no picture"),
    ],
)
def test_damage_is_named(image, text):
    with pytest.raises(ImageError, match=text):
        to_rgb(image)


@pytest.mark.parametrize("error", [AttributeError("_ARRAY_API not found"), TypeError("buffer is too small")])
def test_what_cv_bridge_raises_is_about_the_image(monkeypatch, error):
    """cv_bridge loads its extension when the first image comes, and numpy checks the bytes of each."""

    class CvBridge:
        def imgmsg_to_cv2(self, message, desired_encoding):
            raise error

    bridge = SimpleNamespace(CvBridge=CvBridge, CvBridgeError=type("CvBridgeError", (TypeError,), {}))
    monkeypatch.setitem(sys.modules, "cv_bridge", bridge)
    with pytest.raises(ImageError, match=f"cannot decode 'yuv444': {error}"):
        to_rgb(damaged(encoding="yuv444"))


def test_an_encoding_that_opencv_has_not_names_cv_bridge(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(ImageError, match="'yuv444' needs cv_bridge"):
        to_rgb(damaged(encoding="yuv444"))


def scene(height: int = 12, width: int = 16) -> np.ndarray:
    """A smooth picture of many colours, (H, W, 3) uint8 RGB."""
    y, x = np.mgrid[:height, :width]
    return np.stack([20 + 12 * x, 30 + 15 * y, 220 - 5 * x - 6 * y], axis=-1).astype(np.uint8)


def bt601(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 in limited range: RGB (H, W, 3) uint8 to YUV (H, W, 3), rounded."""
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255.0
    return np.clip(rgb @ matrix.T + [16, 128, 128], 0, 255).round().astype(np.uint8)


def packed(yuv: np.ndarray, first: str) -> np.ndarray:
    """4:2:2 of (H, W, 3): bytes Y U Y V, or U Y V Y where `first` is chroma; (H, W, 2)."""
    chroma = np.stack([yuv[:, ::2, 1], yuv[:, ::2, 2]], axis=-1).reshape(yuv.shape[:2])
    planes = (yuv[..., 0], chroma) if first == "luma" else (chroma, yuv[..., 0])
    return np.stack(planes, axis=-1)


def even(height: int = 12, width: int = 16) -> np.ndarray:
    """A picture whose blocks of 2x2 are of one colour: chroma of half the resolution loses nothing."""
    return scene(height // 2, width // 2).repeat(2, axis=0).repeat(2, axis=1)


@pytest.mark.parametrize(
    ("encoding", "first"), [("uyvy", "chroma"), ("yuv422", "chroma"), ("yuyv", "luma"), ("yuv422_yuy2", "luma")]
)
@pytest.mark.parametrize("padding", [0, 6])
def test_packed_yuv_is_bt601(encoding, first, padding):
    raw = message(encoding, packed(bt601(even()), first), padding)
    assert np.abs(to_rgb(raw).astype(int) - even()).max() <= 3


@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
@pytest.mark.parametrize("padding", [0, 6])
def test_planar_yuv_is_bt601(encoding, padding):
    yuv = bt601(even())
    chroma = yuv[..., 2:0:-1] if encoding == "nv21" else yuv[..., 1:]
    chroma = chroma if encoding == "nv24" else chroma[::2, ::2]
    rows = [np.pad(yuv[..., 0], ((0, 0), (0, padding))), chroma.reshape(len(chroma), -1)]
    rows[1] = np.pad(rows[1], ((0, 0), (0, padding * (2 if encoding == "nv24" else 1))))
    raw = damaged(encoding=encoding, height=12, width=16, step=16 + padding)
    raw.data = b"".join(part.tobytes() for part in rows)
    assert np.abs(to_rgb(raw).astype(int) - even()).max() <= 3
    raw.data = raw.data[: -(2 + 2 * padding)]
    with pytest.raises(ImageError, match="data holds"):
        to_rgb(raw)


PATTERNS = {"bayer_rggb": "RGGB", "bayer_bggr": "BGGR", "bayer_gbrg": "GBRG", "bayer_grbg": "GRBG"}


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor behind this filter sees of a picture, (H, W)."""
    seen = np.zeros(rgb.shape[:2], rgb.dtype)
    for place, colour in enumerate(pattern):
        row, column = divmod(place, 2)
        seen[row::2, column::2] = rgb[row::2, column::2, "RGB".index(colour)]
    return seen


def bilinear(seen: np.ndarray, pattern: str) -> np.ndarray:
    """Each colour where it was not measured: the mean of its nearest neighbours, (H, W, 3)."""
    values, known = np.zeros((*seen.shape, 3)), np.zeros((*seen.shape, 3))
    for place, colour in enumerate(pattern):
        row, column = divmod(place, 2)
        values[row::2, column::2, "RGB".index(colour)] = seen[row::2, column::2]
        known[row::2, column::2, "RGB".index(colour)] = 1.0
    weights = np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])
    spread = [cv2.filter2D(values[..., c], -1, weights) / cv2.filter2D(known[..., c], -1, weights) for c in range(3)]
    green, measured = cv2.filter2D(values[..., 1], -1, CROSS) / 4.0, known[..., 1] > 0
    return np.stack([spread[0], np.where(measured, values[..., 1], green), spread[2]], axis=-1)


CROSS = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("encoding", sorted(PATTERNS))
def test_bayer_is_interpolated_between_what_was_measured(encoding, bits):
    rgb = np.random.default_rng(3).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    seen = mosaic(rgb, PATTERNS[encoding])
    stored = seen if bits == 8 else seen.astype(np.uint16) * 257
    decoded = to_rgb(message(f"{encoding}{bits}", stored[..., None], padding=3, bigendian=bits == 16)).astype(int)
    expected = bilinear(seen, PATTERNS[encoding])
    assert np.abs(decoded - expected)[1:-1, 1:-1].max() <= 1.0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"encoding": "uyvy", "width": 5, "step": 10, "data": bytes(40)}, "5 wide, expected an even number"),
        ({"encoding": "nv12", "height": 3, "width": 4, "step": 4, "data": bytes(40)}, "4x3, expected even sides"),
        ({"encoding": "bayer_rggb8", "height": 2, "data": bytes(40)}, "expected 3x3 or more"),
        ({"encoding": "bayer_rggb12"}, "cv_bridge"),
        ({"encoding": "yuyv", "step": 9, "width": 6}, "a row of 6 yuyv pixels takes 12"),
    ],
)
def test_what_opencv_cannot_is_named(changes, text):
    with pytest.raises(ImageError, match=text):
        to_rgb(damaged(**changes))


def compressed(text: str, pixels: np.ndarray, extension: str = ".png") -> SimpleNamespace:
    """A CompressedImage as image_transport makes it: these channels, handed to OpenCV as they are."""
    return SimpleNamespace(format=text, data=cv2.imencode(extension, pixels)[1].tobytes())


RGB = scene()
BGR = np.ascontiguousarray(RGB[..., ::-1])
DEEP = BGR.astype(np.uint16) * 257


@pytest.mark.parametrize(
    ("text", "pixels"),
    [
        ("", BGR),
        ("png", BGR),
        ("jpeg", BGR),  # the bytes say what they are
        ("PNG", BGR),
        ("rgb8; png compressed bgr8", BGR),
        ("bgr8; png compressed bgr8", BGR),
        ("rgba8; png compressed bgr8", BGR),
        ("bgra8;png compressed bgr8", BGR),
        ("rgb8; png compressed rgb8", RGB),
        ("bgr8; png compressed rgb8", RGB),
        ("rgb8; png compressed ", BGR),
        ("bgr16; png compressed bgr16", DEEP),
        ("rgb16; png compressed rgb16", DEEP[..., ::-1]),
        ("yuv422_yuy2; png compressed bgr8", BGR),
        ("bayer_rggb8; png compressed bgr8", BGR),
    ],
)
@pytest.mark.parametrize("extension", [".png", ".tiff", ".webp"])
def test_the_format_says_the_order_of_colours(text, pixels, extension):
    if extension == ".webp":
        if pixels.dtype == np.uint16:
            pytest.skip("WebP has 8 bits")
        image = SimpleNamespace(format=text, data=cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 101])[1])
        image.data = image.data.tobytes()
    else:
        image = compressed(text, np.ascontiguousarray(pixels), extension)
    np.testing.assert_array_equal(to_rgb(image), RGB)


@pytest.mark.parametrize(
    ("text", "swapped"), [("rgb8; jpeg compressed bgr8", False), ("rgb8; jpeg compressed rgb8", True)]
)
def test_jpeg_of_image_transport(text, swapped):
    flat = np.full((16, 16, 3), (250, 60, 10), np.uint8)
    image = compressed(text, np.ascontiguousarray(flat if swapped else flat[..., ::-1]), ".jpg")
    assert np.abs(to_rgb(image).astype(int) - flat).max() < 8


@pytest.mark.parametrize("encoding", sorted(PATTERNS))
@pytest.mark.parametrize("bits", [8, 16])
def test_a_mosaic_that_was_compressed_as_it_is_is_a_mosaic(encoding, bits):
    seen = mosaic(scene(), PATTERNS[encoding])
    stored = seen if bits == 8 else seen.astype(np.uint16) * 257
    raw = to_rgb(message(f"{encoding}{bits}", stored[..., None]))
    np.testing.assert_array_equal(to_rgb(compressed(f"{encoding}{bits}; png compressed ", stored)), raw)


@pytest.mark.parametrize("text", ["mono8; jpeg compressed ", "mono8; png compressed", "8UC1; png compressed mono8", ""])
def test_grey_pictures_are_grey(text):
    grey = scene()[..., :1]
    decoded = to_rgb(compressed(text, grey))
    np.testing.assert_array_equal(decoded, grey.repeat(3, axis=-1))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("16UC1; compressedDepth png", "is a depth image"),
        ("32FC1; compressedDepth rvl", "is a depth image"),
        ("compressedDepth", "is a depth image"),
        ("h264", "is a video stream"),
        ("bgr8; hevc", "is a video stream"),
        ("rgb8; bmp compressed bgr8", "expected jpeg, png, tiff, webp, or"),
        ("rgb8; jpeg", "expected jpeg, png, tiff, webp, or"),
        ("rgb8; jpeg compressed hsv8", "is compressed as 'hsv8'"),
        ("uyvy; png compressed ", "'uyvy' is compressed as it is"),
    ],
)
def test_other_formats_are_refused_by_name(text, why):
    with pytest.raises(ImageError, match=why):
        to_rgb(compressed(text, BGR))


def bomb_png(width: int, height: int) -> bytes:
    """A small PNG that declares a large picture."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(100)))]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


def enlarged(data: bytes, codec: str) -> bytes:
    """A picture of 8x4 pixels whose header declares the largest size that the codec can."""
    data = bytearray(data)
    if codec == ".jpg":
        at = data.index(b"\xff\xc0") + 5
        assert data[at : at + 4] == struct.pack(">HH", 4, 8)
        data[at : at + 4] = b"\xff\xff\xff\xff"
    elif codec == ".tiff":
        (first,) = struct.unpack_from("<I", data, 4)
        for index in range(struct.unpack_from("<H", data, first)[0]):
            place = first + 2 + 12 * index
            if struct.unpack_from("<H", data, place)[0] in (256, 257):
                struct.pack_into("<HII", data, place + 2, 4, 1, 2**31)
    else:
        struct.pack_into("<I", data, 21, struct.unpack_from("<I", data, 21)[0] | 0xFFFFFFF)
    return bytes(data)


@pytest.mark.parametrize("name", [" " * 16_000, "rgb8; " + "j" * 16_000, "a" * 1_000_000])
def test_a_name_of_many_letters_is_refused_before_it_is_matched(name, monkeypatch):
    """Sixteen thousand blanks took 2.5 s."""
    monkeypatch.setattr(images, "_pixel_formats", None)
    for field in ("format", "encoding"):
        with pytest.raises(
            ImageError, match=rf"^{field} is .*\({len(name)} characters\), expected at most 200"
        ) as error:
            to_rgb(SimpleNamespace(**{field: name, "data": b"\xff\xd8\xff"}))
        assert len(str(error.value)) < 200


@pytest.mark.parametrize("text", ["x" * 190, "rgb8; jpeg compressed " + "y" * 150, "z" * 150 + "; jpeg compressed "])
def test_errors_do_not_repeat_long_names(text):
    for fields in ({"format": text, "data": b"no picture"}, {"encoding": text}):
        with pytest.raises(ImageError) as error:
            to_rgb(SimpleNamespace(**fields))
        assert text not in str(error.value) and "characters)" in str(error.value)


def test_declared_sizes_are_checked_before_anything_is_decompressed(monkeypatch):
    bombs = [bomb_png(44000, 44000), bomb_png(16000, 16000), bomb_png(MAX_PIXELS // 1000 + 1, 1000), bomb_png(0, 9)]
    small = np.zeros((4, 8, 3), np.uint8)
    lossless = {".webp": [cv2.IMWRITE_WEBP_QUALITY, 101]}
    bombs += [
        enlarged(cv2.imencode(codec, small, lossless.get(codec, []))[1].tobytes(), codec)
        for codec in (".jpg", ".tiff", ".webp")
    ]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decompressed"))
    for bomb in bombs:
        with pytest.raises(ImageError, match="expected each side in|million pixels"):
            to_rgb(SimpleNamespace(format="", data=bomb))


@pytest.mark.parametrize("codec", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_orientation_turns_nothing(codec, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"tiffinfo": {274: orientation}} if codec == "TIFF" else {"exif": exif}
    buffer = io.BytesIO()
    Image.fromarray(scene(8, 16)).save(buffer, codec, **options)
    decoded = to_rgb(SimpleNamespace(format=codec.lower(), data=buffer.getvalue()))
    assert decoded.shape == (8, 16, 3) and np.abs(decoded.astype(int) - scene(8, 16)).mean() < 6


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([".png", ".jpg", ".tiff", ".webp"]), st.integers(0, 2**31))
def test_a_flipped_bit_or_a_cut_is_a_picture_or_an_error_by_name(codec, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(cv2.imencode(codec, scene())[1].tobytes())
    if rng.random() < 0.3:
        data = data[: rng.integers(1, len(data))]
    else:
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    try:
        assert to_rgb(SimpleNamespace(format="", data=bytes(data))).dtype == np.uint8
    except ImageError:
        pass
