"""What was asked: JSON and forms, and the texts, images, sounds and files inside."""

import base64
import binascii
import json

import quirky

from .speaking import digest

RAW_KEPT = 64 * 1024
WORDS_OF_AN_IMAGE, WORDS_OF_A_SOUND, WORDS_OF_A_FILE = 16, 8, 12


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, message, param=None, code=None, status=400):
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class Part:
    """One part of a form."""

    def __init__(self, headers, data):
        disposition = headers.get("content-disposition", "")
        found = dict(item.strip().partition("=")[::2] for item in disposition.split(";")[1:])
        self.name, self.file = (found.get(key, "").strip('"') or None for key in ("name", "filename"))
        self.type, self.data = headers.get("content-type"), data

    def view(self):
        shown = {"name": self.name, "file": self.file, "type": self.type, "bytes": len(self.data)}
        return {**shown, "sha256": digest(self.data, 64)}


def form_parts(content_type, body):
    """The parts of a multipart body, or None where it is none."""
    kind, _, rest = (content_type or "").partition(";")
    boundary = rest.partition("boundary=")[2].split(";")[0].strip().strip('"')
    if kind.strip().lower() != "multipart/form-data" or not boundary:
        return None
    parts = []
    for piece in (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1"))[1:-1]:
        head, _, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        lines = (line.partition(":") for line in head.decode("utf-8", "replace").split("\r\n"))
        parts.append(Part({name.strip().lower(): value.strip() for name, _, value in lines}, data))
    return parts


class Request(quirky.Request):
    def __init__(self, *arguments):
        self.parts = None
        super().__init__(*arguments)
        self.parts = form_parts(self.header("content-type"), self.body)
        if self.parts is not None:
            self.json = None
            for text in (self.field("prompt"), self.field("input")):
                for word in (text or "").split():
                    if word.startswith("quirk:"):
                        self.quirks.update(quirky.parse_quirks(word[len("quirk:"):]))

    def field(self, name, default=None):
        """The text of a form's field."""
        found = [part for part in self.parts or [] if part.name == name and part.file is None]
        return found[-1].data.decode("utf-8", "replace") if found else default

    def fields(self, *names):
        """The texts of a list in a form, with or without brackets after its name."""
        wanted = {name + end for name in names for end in ("", "[]")}
        return [part.data.decode("utf-8", "replace") for part in self.parts or [] if part.name in wanted and not part.file]

    def files(self, name):
        return [part for part in self.parts or [] if part.name in (name, f"{name}[]") and part.file is not None]

    def last_text(self):
        """The newest text of whatever kind of request this is: where quirks are asked for."""
        for name in ("messages", "input", "prompt", "query", "contents"):
            value = self.json.get(name)
            if value is None:
                continue
            if name in ("messages", "input") and isinstance(value, list) and value:
                users = [item for item in value if isinstance(item, dict) and item.get("role") == "user"]
                value = (users[-1] if users else value[-1])
            if isinstance(value, dict):
                value = value.get("content", value.get("text", ""))
            return self.content_text(value)
        return ""

    def prompt_text(self):
        return ""

    def echo(self):
        """What was received, as text."""
        if self.parts is not None:
            return json.dumps([part.view() for part in self.parts])
        return self.body.decode("utf-8", "replace")

    def seen(self):
        more = {"sha256": digest(self.body, 64), "raw": self.body[:RAW_KEPT].decode("utf-8", "replace")}
        if self.parts is not None:
            more["parts"] = [part.view() for part in self.parts]
        return {**super().seen(), **more}


class Content:
    """What one message says: its texts, notes on what else is in it, and how many words that counts as."""

    def __init__(self, content):
        self.texts, self.notes, self.sounds = [], [], 0
        self.words = 0
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, str):
                self.texts.append(part)
            elif isinstance(part, dict):
                self.read(part)
        self.text = " ".join(self.texts)
        self.words += len(self.text.split())

    def read(self, part):
        kind = part.get("type")
        if isinstance(part.get("text"), str):
            self.texts.append(part["text"])
        elif kind == "refusal":
            self.texts.append(str(part.get("refusal")))
        elif kind == "image_url":
            url = part.get("image_url")
            self.note("image", self.bytes_of(url.get("url") if isinstance(url, dict) else url), WORDS_OF_AN_IMAGE)
        elif kind == "input_image":
            self.note("image", self.bytes_of(part.get("image_url") or part.get("file_id")), WORDS_OF_AN_IMAGE)
        elif kind == "input_audio":
            sound = part.get("input_audio") or {}
            self.note(f"sound {sound.get('format')}", self.decoded(sound.get("data")), WORDS_OF_A_SOUND)
            self.sounds += WORDS_OF_A_SOUND
        elif kind in ("file", "input_file"):
            file = part.get("file", part)
            self.note(f"file {file.get('filename')}", self.bytes_of(file.get("file_data") or file.get("file_url")),
                      WORDS_OF_A_FILE)
        elif kind in ("image", "document"):
            source = part.get("source") or {}
            data = source.get("data") if source.get("type") == "text" else None
            found = data.encode() if data is not None else self.bytes_of(source.get("url") or source.get("data"))
            self.note(f"{kind} {source.get('media_type')}", found, WORDS_OF_AN_IMAGE)

    def note(self, what, found, words):
        self.words += words
        self.notes.append(f"[{what} {found}]" if isinstance(found, str)
                          else f"[{what} of {len(found)} bytes {digest(found)}]")

    def bytes_of(self, reference):
        """What a data URL or plain base64 holds; the address itself where it is another one."""
        reference = str(reference)
        if reference.startswith("data:"):
            return self.decoded(reference.partition(",")[2])
        return reference if reference.startswith(("http:", "https:", "file-")) else self.decoded(reference)

    @staticmethod
    def decoded(text):
        try:
            return base64.b64decode(str(text), validate=True)
        except binascii.Error:
            raise Refused("the data is not base64", "messages", "invalid_base64") from None
