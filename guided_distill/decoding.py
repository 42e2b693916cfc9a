"""Pictures in files, as they are to be seen: turned as their cameras said, on white where they are transparent."""

from io import BufferedIOBase
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from guided_distill.errors import UserError

DAMAGED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file that is no picture, or a broken one."""


def upright(stream: BufferedIOBase | Path, what: object) -> Image.Image:
    """A picture in a file, in colour. Raises `UserError` naming `what` where it is damaged, or not of 8 bits."""
    try:
        with Image.open(stream) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"its mode is {image.mode}, not one of 8 bits")
            turned = ImageOps.exif_transpose(image)
            if turned.has_transparency_data:
                turned = turned.convert("RGBA")
                turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned)
            return turned.convert("RGB")
    except DAMAGED as error:
        raise UserError(f"{what} is not a picture that can be read ({error}): mend it, or take it away") from error


def header(file: Path) -> tuple[tuple[int, int], str]:
    """((width, height) upright, mode); only the head of the file is read. Raises `UserError` for what is no picture."""
    try:
        with Image.open(file) as image:
            (width, height), mode = image.size, image.mode
            told = image.format != "PNG" or "exif" in image.info  # Else Pillow looks for it behind a PNG's pixels.
            turned = told and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # By a quarter.
    except DAMAGED as error:
        raise UserError(f"{file} is not a picture that can be read ({error}): mend it, or take it away") from error
    return (height, width) if turned else (width, height), mode
