"""Images by Pillow: how each format is encoded, and where it holds the tags of `vsf_cli.media.metadata.tags_of`."""

import codecs
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Plans start without Pillow.
    from PIL.Image import Exif, Image

__all__ = ["encode", "encode_jpeg", "encode_png", "encode_webp", "exif_of", "read_comment", "read_exif", "read_png_text"]

IMAGE_DESCRIPTION, EXIF_IFD, USER_COMMENT, WINDOWS_COMMENT = 0x010E, 0x8769, 0x9286, 0x9C9C
UNICODE = b"UNICODE\0"
"""The prefix of a user comment, which EXIF stores as UTF-16."""
PREFIXES = (UNICODE, b"ASCII\0\0\0", b"JIS\0\0\0\0\0", bytes(8))
"""All prefixes of a user comment. Other programs write any encoding after any of them."""
OTHER_TAGS = {0x010F: "make", 0x0110: "model", 0x0131: "software"}


def encode(image: "Image", format: str, **options: Any) -> bytes:
    """Returns an image as the bytes of a file in one of Pillow's formats."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def encode_png(image: "Image", tags: Mapping[str, str]) -> bytes:
    """Returns a PNG file with the tags as text chunks."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key in sorted(tags):
        # As Latin-1, which Pillow would choose, a text can be taken for UTF-8.
        (info.add_text if tags[key].isascii() else info.add_itxt)(key, tags[key])
    return encode(image, "PNG", pnginfo=info)


def encode_jpeg(image: "Image", tags: Mapping[str, str]) -> bytes:
    """Returns a JPEG file with the tags in its EXIF, and colours at full resolution."""
    return encode(image, "JPEG", exif=exif_of(tags), quality=95, subsampling=0)


def encode_webp(image: "Image", tags: Mapping[str, str]) -> bytes:
    """Returns a WebP file with the tags in its EXIF."""
    return encode(image, "WEBP", exif=exif_of(tags), quality=95, method=6)


def exif_of(tags: Mapping[str, str]) -> "Exif":
    """Returns EXIF with our JSON as the description and the text as the user comment, where other tools look for it."""
    from PIL.Image import Exif

    exif = Exif()
    if tags:
        exif[IMAGE_DESCRIPTION] = tags["vsf"]
        exif.get_ifd(EXIF_IFD)[USER_COMMENT] = UNICODE + tags["parameters"].encode("utf-16-be")
    return exif


def read_png_text(image: "Image") -> dict[str, str]:
    """Returns the text chunks of a PNG file, after what it has in its EXIF."""
    from PIL.PngImagePlugin import iTXt

    texts: dict[str, str] = image.text  # type: ignore[attr-defined]
    read = {key: value if isinstance(value, iTXt) else _as_utf8(value) for key, value in texts.items()}
    return {**read_exif(image), **read}


def _as_utf8(text: str) -> str:
    """Returns a text that was read as Latin-1 although it is UTF-8, as other programs write it, as what it is."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def read_exif(image: "Image") -> dict[str, str]:
    """Returns the tags that an image has in its EXIF and in its comment."""
    exif = image.getexif()
    inner, description = exif.get_ifd(EXIF_IFD), _plain(exif.get(IMAGE_DESCRIPTION))
    tags = {
        "comment": _plain(image.info.get("comment")),
        "xmp": _plain(image.info.get("xmp")),
        **{name: _plain(exif.get(number)) for number, name in OTHER_TAGS.items()},
        "description": description,
        "vsf": description,
        "parameters": _decoded(inner.get(USER_COMMENT)) or _decoded(exif.get(WINDOWS_COMMENT)),
    }
    return {key: value for key, value in tags.items() if value}


def _plain(value: Any) -> str:
    return _decoded(value) if isinstance(value, (bytes, str)) else ""


def _decoded(value: Any) -> str:
    """Returns the text of a comment: UTF-8, or UTF-16 in either order, with a mark of its order or without."""
    data = value.encode("latin-1", "replace") if isinstance(value, str) else bytes(value or b"")
    prefix = next((prefix for prefix in PREFIXES if data.startswith(prefix)), b"")
    data = data.removeprefix(prefix)
    marks = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
    for mark, encoding in marks.items():
        if data.startswith(mark):
            return data.removeprefix(mark).decode(encoding, "replace").replace("\0", "").strip()
    return data.decode(_encoding(data, prefix == UNICODE), "replace").replace("\0", "").strip()


def _encoding(data: bytes, wide: bool) -> str:
    """Returns the encoding of a text without a mark; `wide` is that of which nothing tells."""
    whole = data.rstrip(b"\0")
    even, odd = whole[::2].count(0), whole[1::2].count(0)
    # Of UTF-16, every other byte of a Latin letter is 0.
    if max(even, odd) > len(whole) / 40 and min(even, odd) < max(even, odd) / 2:
        return "utf-16-be" if even > odd else "utf-16-le"
    try:
        whole.decode("utf-8")
    except UnicodeDecodeError:
        return "utf-16-be" if wide else "latin-1"
    return "utf-8"


def read_comment(image: "Image") -> dict[str, str]:
    """Returns the comment of a GIF file, where its JSON is."""
    comment = image.info.get("comment", b"").decode(errors="replace")
    return {"vsf": comment, "comment": comment} if comment else {}
