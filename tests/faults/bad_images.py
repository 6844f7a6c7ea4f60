"""Image files as strangers make them: broken, enormous, disguised; each with what must come of it."""

import io

from PIL import Image


def many_scans(side_px: int, scans: int) -> bytes:
    """A grey progressive JPEG that goes over the same picture again and again."""
    file = io.BytesIO()
    Image.new("L", (side_px, side_px), 128).save(file, "JPEG", progressive=True, quality=50)
    content = file.getvalue()
    # No scan without its table: what is repeated is the last one, which has the table that came before it.
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (scans - content.count(b"\xff\xda")) + content[-2:]
