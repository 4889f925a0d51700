"""Images by Pillow: how each format is encoded, and where it holds the tags of `vsf_cli.media.metadata.tags_of`."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Plans start without Pillow.
    from PIL.Image import Exif, Image

__all__ = ["encode", "encode_jpeg", "encode_png", "encode_webp", "exif_of", "read_comment", "read_exif", "read_png_text"]

IMAGE_DESCRIPTION, EXIF_IFD, USER_COMMENT = 0x010E, 0x8769, 0x9286
UNICODE = b"UNICODE\0"
"""The prefix of a user comment, which EXIF stores as UTF-16."""


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
        info.add_text(key, tags[key])
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
    """Returns the text chunks of a PNG file."""
    return dict(image.text)  # type: ignore[attr-defined]


def read_exif(image: "Image") -> dict[str, str]:
    """Returns the tags that an image has in its EXIF."""
    exif = image.getexif()
    tags = {"vsf": exif.get(IMAGE_DESCRIPTION)}
    if comment := exif.get_ifd(EXIF_IFD).get(USER_COMMENT):
        data = comment.encode("latin-1") if isinstance(comment, str) else comment
        tags["parameters"] = data.removeprefix(UNICODE).decode("utf-16-be", errors="replace")
    return {key: value for key, value in tags.items() if value}


def read_comment(image: "Image") -> dict[str, str]:
    """Returns the JSON that a GIF file has as its comment."""
    return {"vsf": image.info.get("comment", b"").decode(errors="replace")}
