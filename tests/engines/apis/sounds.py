"""Sound: transcriptions, translations and speech. WAV is real; what other formats would hold is bytes of their size."""

import base64
import hashlib
import io
import struct
import wave as waves

from .asking import Refused
from .speaking import digest, pieces, words

SAMPLE_RATE = 24_000
SAMPLES_PER_CHARACTER = 1_200
BYTES_PER_CHARACTER = {"mp3": 160, "opus": 100, "aac": 160, "flac": 1_200}
TYPES = {"wav": "audio/wav", "pcm": "audio/pcm", "mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac",
         "flac": "audio/flac"}
WORDS_PER_SEGMENT = 6
STREAM_BYTES = 8 * 1024


def noise(text, length):
    """Bytes that follow from a text."""
    return hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(length)


def wave(samples, text):
    """A WAV file of that many samples: one channel, 16 bits, 24 kHz."""
    data = noise(text, 2 * samples)
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, SAMPLE_RATE,
                       2 * SAMPLE_RATE, 2, 16, b"data", len(data))
    return head + data


def seconds_of(data):
    """How long a sound is: a WAV's own word, else as if it had 16 kB a second."""
    try:
        with waves.open(io.BytesIO(data)) as sound:
            return sound.getnframes() / sound.getframerate()
    except (waves.Error, EOFError):
        return len(data) / 16_000


async def speech(answer):
    body = answer.need("input", "voice")
    text, format = str(body["input"]), body.get("response_format", "mp3")
    if format not in TYPES:
        raise Refused(f"response_format is one of {', '.join(TYPES)}", "response_format")
    speed = float(body.get("speed") or 1)
    if not 0.25 <= speed <= 4:
        raise Refused("speed must be from 0.25 to 4", "speed")
    seed = f"{text} {body['voice']} {body.get('instructions')}"
    samples = int(len(text) * SAMPLES_PER_CHARACTER / speed)
    if format in ("wav", "pcm"):
        data = wave(samples, seed)[0 if format == "wav" else 44:]
    else:
        data = noise(seed, int(len(text) * BYTES_PER_CHARACTER[format] / speed))
    if body.get("stream_format") == "sse":
        usage = {"input_tokens": words(text), "output_tokens": len(text), "total_tokens": words(text) + len(text)}
        parts = [base64.b64encode(data[i:i + STREAM_BYTES]).decode() for i in range(0, len(data), STREAM_BYTES)]
        events = [(1, None, {"type": "speech.audio.delta", "audio": part}) for part in parts]
        await answer.stream_events([*events, (0, None, {"type": "speech.audio.done", "usage": usage})], done=b"")
        return
    # Its length is known to nobody before its end.
    await answer.head(200, TYPES[format])
    for start in range(0, len(data), STREAM_BYTES):
        await answer.c.wait(int(answer.q.get("delay", 0)) / 1000)
        await answer.body(data[start:start + STREAM_BYTES])
    await answer.end()


def heard(answer, language):
    """The text of the file, and its length in seconds."""
    file = answer.r.files("file")[0]
    if "echo" in answer.q:
        return answer.r.echo(), 1.0
    said = f"A sound of {len(file.data)} bytes named {file.file}, {digest(file.data)}."
    prompt = answer.r.field("prompt")
    if prompt:
        said += f" You expected: {prompt}."
    return f"{said} In {language}.", seconds_of(file.data)


def clock(seconds, mark):
    millis = round(seconds * 1000)
    return f"{millis // 3_600_000:02}:{millis // 60_000 % 60:02}:{millis // 1000 % 60:02}{mark}{millis % 1000:03}"


def segments_of(text, seconds):
    """Parts of a text with their time, six words each."""
    tokens = text.split()
    groups = [tokens[i:i + WORDS_PER_SEGMENT] for i in range(0, len(tokens), WORDS_PER_SEGMENT)]
    step = seconds / max(1, len(groups))
    return [(index * step, (index + 1) * step, " ".join(group)) for index, group in enumerate(groups)]


def captions(text, seconds, mark):
    for index, (start, end, words_) in enumerate(segments_of(text, seconds)):
        number = f"{index + 1}\n" if mark == "," else ""
        yield f"{number}{clock(start, mark)} --> {clock(end, mark)}\n{words_}\n\n"


def verbose(task, language, text, seconds, granularities):
    value = {"task": task, "language": language, "duration": seconds, "text": text,
             "usage": {"type": "duration", "seconds": int(seconds) + 1}}
    if "segment" in granularities or not granularities:
        value["segments"] = [{"id": index, "seek": 0, "start": start, "end": end, "text": said,
                              "tokens": [len(word) for word in said.split()], "temperature": 0.0, "avg_logprob": -0.25,
                              "compression_ratio": 1.5, "no_speech_prob": 0.01}
                             for index, (start, end, said) in enumerate(segments_of(text, seconds))]
    if "word" in granularities:
        tokens = text.split()
        step = seconds / max(1, len(tokens))
        value["words"] = [{"word": word, "start": index * step, "end": (index + 1) * step}
                          for index, word in enumerate(tokens)]
    return value


async def transcribe(answer, task):
    r = answer.need_form("file")
    format = r.field("response_format", "json")
    language = r.field("language", "english") if task == "transcribe" else "english"
    text, seconds = heard(answer, language)
    sound, said = int(seconds * 10) + 1, len(pieces(text))
    prompted = words(r.field("prompt", ""))
    usage = {"type": "tokens", "input_tokens": sound + prompted, "output_tokens": said,
             "input_token_details": {"audio_tokens": sound, "text_tokens": prompted},
             "total_tokens": sound + prompted + said}
    if r.field("stream", "").lower() == "true":
        events = [(1, None, {"type": "transcript.text.delta", "delta": token}) for token in pieces(text)]
        await answer.stream_events([*events, (0, None, {"type": "transcript.text.done", "text": text, "usage": usage})])
    elif format == "json":
        await answer.reply_json(200, {"text": text, "usage": usage})
    elif format == "verbose_json":
        granularities = r.fields("timestamp_granularities")
        await answer.reply_json(200, verbose(task, language, text, seconds, granularities))
    elif format == "text":
        await answer.reply(200, "text/plain; charset=utf-8", f"{text}\n".encode())
    elif format == "srt":
        await answer.reply(200, "application/x-subrip", "".join(captions(text, seconds, ",")).encode())
    elif format == "vtt":
        await answer.reply(200, "text/vtt", ("WEBVTT\n\n" + "".join(captions(text, seconds, "."))).encode())
    else:
        raise Refused("response_format is one of json, text, srt, verbose_json, vtt", "response_format")


async def transcriptions(answer):
    await transcribe(answer, "transcribe")


async def translations(answer):
    await transcribe(answer, "translate")


ROUTES = {"/v1/audio/speech": speech, "/v1/audio/transcriptions": transcriptions,
          "/v1/audio/translations": translations}
