"""One self-contained HTML page of a run's images and answers; knows no run, only lines and image files."""

import base64
import html
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any, Final, TextIO

from PIL import Image, ImageOps

THUMBNAIL_PX: Final = 320
THUMBNAIL_QUALITY: Final = 80
MAX_PX: Final = 64_000_000
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

HEAD: Final = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title><style>
:root { color-scheme: light dark; --line: #8884; --soft: #777; --card: #fff; --page: #f4f4f2;
 --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --card: #222326; --page: #17181a; --bad: #ff8a80; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); font: 15px/1.45 system-ui, sans-serif; }
header { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .5rem 1rem;
 align-items: center; padding: .7rem 1rem; background: var(--card); border-bottom: 1px solid var(--line); }
h1 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
#count { color: var(--soft); }
input[type=search] { flex: 1 1 12rem; min-width: 0; max-width: 26rem; padding: .4rem .6rem; font: inherit;
 border: 1px solid var(--line); border-radius: .4rem; background: transparent; color: inherit; }
main { display: grid; gap: 1rem; padding: 1rem; align-items: start;
 grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; overflow: hidden;
 content-visibility: auto; contain-intrinsic-size: auto 24rem; }
article[hidden] { display: none }
figure { margin: 0; height: 13rem; display: grid; place-items: center; background: #8882;
 color: var(--soft); }
figure img { max-width: 100%; max-height: 13rem; display: block; }
.name { padding: .5rem .8rem; font-size: .85rem; color: var(--soft); overflow-wrap: anywhere;
 border-bottom: 1px solid var(--line); }
dl { margin: 0; padding: .3rem .8rem .8rem; }
dt { margin-top: .5rem; color: var(--soft); font-size: .9rem; overflow-wrap: anywhere;
 white-space: pre-line; }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-line; }
dd small { color: var(--soft); white-space: nowrap; }
dd.failure { color: var(--bad); }
</style></head><body>
<header><h1>$title</h1><input type="search" id="filter" placeholder="Filter by any word" aria-label="Filter">
<label><input type="checkbox" id="failed"> failures only</label><span id="count"></span></header><main>
""")
FOOT: Final = """</main><script>
const cards = [...document.querySelectorAll("article")], filter = document.getElementById("filter");
const failed = document.getElementById("failed"), count = document.getElementById("count");
const texts = cards.map(card => card.textContent.toLowerCase());
const failures = cards.map(card => card.querySelector(".failure") !== null);
function show() {
  const words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  cards.forEach((card, i) => {
    card.hidden = (failed.checked && !failures[i]) || !words.every(word => texts[i].includes(word));
    shown += !card.hidden;
  });
  count.textContent = shown + " of " + cards.length + " images";
}
filter.addEventListener("input", show); failed.addEventListener("change", show); show();
</script></body></html>
"""


def write_contact_sheet(lines: Iterable[dict[str, Any]], path: Path, title: str) -> None:
    """Write the page for lines of answers.jsonl, one at a time; replaces `path` when it is whole."""
    temporary = path.with_name(path.name + ".new")
    # An image's name may not be UTF-8; it is shown with escapes.
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as page:
        page.write(HEAD.substitute(title=html.escape(title)))
        for line in lines:
            _write_card(page, line)
        page.write(FOOT)
    temporary.replace(path)


def _write_card(page: TextIO, line: dict[str, Any]) -> None:
    image = None if line["image"] is None else thumbnail(Path(line["image"]))
    page.write("<article><figure>")
    if image is not None:
        page.write(f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(image).decode()}">')
    else:
        page.write("no picture")
    page.write(f'</figure><div class="name">{html.escape(line["id"])}</div><dl>')
    for answer in line["answers"]:
        page.write(f"<dt>{html.escape(_prompt_text(answer['prompt']))}</dt>")
        if "failure" in answer:
            failure = answer["failure"]
            page.write(
                f'<dd class="failure">{html.escape(failure["code"])}: {html.escape(failure["message"])}</dd>'
            )
        else:
            cut = " · cut at the token limit" if answer["finish_reason"] == "length" else ""
            page.write(f"<dd>{html.escape(answer['text'])} <small>{answer['score']:.2f}{cut}</small></dd>")
    page.write("</dl></article>\n")


def _prompt_text(prompt: Any) -> str:
    """A question's text; of a conversation its turns, each after its role."""
    if isinstance(prompt, str):
        return prompt
    turns = []
    for turn in prompt:
        content = turn["content"]
        if not isinstance(content, str):
            content = " ".join(part["text"] if part["type"] == "text" else "[image]" for part in content)
        turns.append(f"{turn['role']}: {content}")
    return "\n".join(turns)


def thumbnail(path: Path) -> bytes | None:
    """A small JPEG of the image, upright, transparency on white; None if there is no picture to show."""
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            width, height = image.size
            if height * width > MAX_PX:
                return None
            image.draft("RGB", (2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))
            small = ImageOps.exif_transpose(image)
            if small.mode.startswith("I"):
                small = small.point(lambda grey: grey / 257).convert("L")
            small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            with_alpha = small.convert("RGBA")
            white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
            jpeg = io.BytesIO()
            Image.alpha_composite(white, with_alpha).convert("RGB").save(
                jpeg, "JPEG", quality=THUMBNAIL_QUALITY
            )
            return jpeg.getvalue()
    except Exception:  # noqa: BLE001 - whatever is wrong with the file, its row has the worker's sentence about it
        return None
