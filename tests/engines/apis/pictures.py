"""Images: generations, edits and variations, as real PNGs of one colour."""

import base64
import re
import struct
import zlib

import quirky

from .asking import Refused
from .speaking import digest, words

LARGEST_SIDE = 2048
LARGEST_COUNT = 10
TOKENS_PER_SIDE = 16


def png(width, height, seed):
    """A PNG with the colour that follows from the seed."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colour = bytes.fromhex(digest(seed, 6))
    rows = (b"\0" + colour * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


class Order:
    """What images are wanted; `get` reads a field of the JSON or the form."""

    def __init__(self, get, seed):
        self.seed = seed
        try:
            self.count = int(get("n") or 1)
        except ValueError:
            self.count = 0
        if not 1 <= self.count <= LARGEST_COUNT:
            raise Refused(f"n must be from 1 to {LARGEST_COUNT}", "n")
        size = get("size") or "auto"
        found = re.fullmatch(r"(\d{1,4})x(\d{1,4})", "1024x1024" if size == "auto" else size)
        self.width, self.height = map(int, found.groups()) if found else (0, 0)
        if not (1 <= self.width <= LARGEST_SIDE and 1 <= self.height <= LARGEST_SIDE):
            raise Refused(f"there is no size {size}", "size")
        self.format = get("response_format") or "b64_json"
        if self.format != "b64_json":
            raise Refused("only b64_json is given here: nothing is kept that a URL could lead to", "response_format")
        self.partial = int(get("partial_images") or 0)
        self.stream = get("stream") in (True, "true", "True")

    def usage(self, prompt, images):
        written = self.count * -(-self.width // TOKENS_PER_SIDE) * -(-self.height // TOKENS_PER_SIDE)
        return {"input_tokens": prompt + images, "output_tokens": written, "total_tokens": prompt + images + written,
                "input_tokens_details": {"text_tokens": prompt, "image_tokens": images}}

    def image(self, index):
        return base64.b64encode(png(self.width, self.height, f"{self.seed} {index}")).decode()

    def size(self):
        return f"{self.width}x{self.height}"


async def give(answer, order, prompt, usage, kind):
    more = {"background": "opaque", "output_format": "png", "quality": "high", "size": order.size()}
    if order.stream:
        events = []
        for index in range(order.partial):
            value = {"b64_json": order.image(-1 - index), "partial_image_index": index, "created_at": quirky.CREATED}
            events.append((1, f"{kind}.partial_image", {"type": f"{kind}.partial_image", **value, **more}))
        value = {"type": f"{kind}.completed", "b64_json": order.image(0), "created_at": quirky.CREATED, **more}
        await answer.stream_events([*events, (1, f"{kind}.completed", {**value, "usage": usage})], done=b"")
        return
    data = [{"b64_json": order.image(index), "revised_prompt": prompt} for index in range(order.count)]
    await answer.reply_json(200, {"created": quirky.CREATED, "data": data, **more, "usage": usage})


async def generations(answer):
    body = answer.need("prompt")
    prompt = str(body["prompt"])
    shown = answer.r.echo() if "echo" in answer.q else f"{prompt}, in one colour"
    order = Order(body.get, prompt)
    await give(answer, order, shown, order.usage(words(prompt), 0), "image_generation")


async def edits(answer):
    r = answer.need_form("image")
    prompt = r.field("prompt")
    if not prompt:
        raise Refused("prompt is required", "prompt")
    files = r.files("image") + r.files("mask")
    named = ", ".join(f"{part.name} {part.file} {len(part.data)} bytes {digest(part.data)}" for part in files)
    order = Order(r.field, f"{prompt} {named}")
    shown = r.echo() if "echo" in answer.q else f"{prompt}, from {named}"
    await give(answer, order, shown, order.usage(words(prompt), 16 * len(files)), "image_edit")


async def variations(answer):
    r = answer.need_form("image")
    file = r.files("image")[0]
    order = Order(r.field, digest(file.data))
    await give(answer, order, f"a variation of {digest(file.data)}", order.usage(0, 16), "image_variation")


ROUTES = {"/v1/images/generations": generations, "/v1/images/edits": edits, "/v1/images/variations": variations}
