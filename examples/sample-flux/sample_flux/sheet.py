"""A contact sheet: one row of pictures for each model, one column for each prompt."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sample_flux.draw import Pictures

SIDE = 96  # pixels of a picture on the sheet
GAP = 6
LEFT = 112  # pixels for the names of the models
TOP = 52  # pixels for the prompts
BACKGROUND, INK = (255, 255, 255), (30, 30, 30)


def contact_sheet(prompts: Sequence[str], rows: Mapping[str, Pictures], path: Path) -> None:
    """Write a PNG.

    Args:
        prompts: n sentences.
        rows: for each model its pictures, uint8 [n, size, size, 3].
        path: of the PNG.
    """
    width, height = LEFT + len(prompts) * (SIDE + GAP), TOP + len(rows) * (SIDE + GAP)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(11), ImageFont.load_default(14)
    for column, prompt in enumerate(prompts):
        text = "\n".join(textwrap.wrap(prompt, 17))
        pen.multiline_text((LEFT + column * (SIDE + GAP), TOP - 4), text, INK, small, anchor="ld", spacing=2)
    for row, (name, pictures) in enumerate(rows.items()):
        y = TOP + row * (SIDE + GAP)
        pen.text((GAP, y + SIDE // 2), name, INK, large, anchor="lm")
        for column, picture in enumerate(pictures):
            enlarged = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(enlarged, (LEFT + column * (SIDE + GAP), y))
    sheet.quantize(192).save(path, optimize=True)
