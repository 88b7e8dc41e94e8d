// The ordinary features of the official OpenAI client for JavaScript. Run by ../../features.py.

import assert from "node:assert/strict";

import OpenAI, { toFile } from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

import { collect, Features, installed, named, PICTURE, PICTURE_URL, sound } from "./frame.mjs";

const features = new Features("openai (JavaScript)", installed("openai"));
const client = (at, more = {}) =>
  new OpenAI({ baseURL: `${at.url}/v1`, apiKey: "unused", maxRetries: 0, timeout: 30_000, ...more });
const user = (content) => [{ role: "user", content }];
const chat = (at, content, more = {}) =>
  client(at).chat.completions.create({ model: at.model, messages: user(content), ...more });
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const weather = { type: "function", function: { name: "get_weather", parameters } };
const clock = { type: "function", function: { name: "get_time", parameters: { type: "object", properties: {} } } };
const Lamp = z.object({ place: z.string(), height: z.number(), lit: z.boolean() });

features.case("models", "listed and looked up", async (at) => {
  const listed = await collect(client(at).models.list());
  assert.ok(listed.some((entry) => entry.id === at.model));
  return (await client(at).models.retrieve(at.model)).id;
});

features.case("chat", "an answer with usage, choices, stop, log probabilities", async (at) => {
  const answer = await chat(at, "The lamp is lit", { n: 2, seed: 1, logprobs: true, top_logprobs: 2 });
  assert.equal(answer.choices[0].message.content, "I heard: The lamp is lit");
  const stopped = await chat(at, "one two three", { stop: " two" });
  assert.equal(stopped.choices[0].message.content, "You said: one");
  const cut = await chat(at, "one two three", { max_completion_tokens: 2 });
  assert.equal(cut.choices[0].finish_reason, "length");
  return [answer, stopped, cut];
});

features.case("streaming", "chunks, and the stream helper", async (at) => {
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = await collect(await chat(at, "The lamp is lit", options));
  assert.ok(chunks.at(-1).usage.total_tokens > 0);
  const helper = client(at).chat.completions.stream({ model: at.model, messages: user("The lamp is lit") });
  assert.equal(await helper.finalContent(), "You said: The lamp is lit");
  return chunks;
});

features.case("tools", "calls, several at once, streamed", async (at) => {
  const both = await chat(at, "get_weather and get_time city=Oslo", { tools: [weather, clock] });
  assert.equal(both.choices[0].message.tool_calls.length, 2);
  const asked = await chat(at, "hello", {
    tools: [weather, clock],
    tool_choice: { type: "function", function: { name: "get_time" } },
  });
  const chunks = await collect(await chat(at, "get_weather city=Oslo", { tools: [weather], stream: true }));
  return [both, asked, chunks];
});

features.case("tools", "the client's own loop", async (at) => {
  const called = [];
  const runner = client(at).chat.completions.runTools({
    model: at.model,
    messages: user("get_weather city=Oslo"),
    stream: true,
    tools: [
      {
        type: "function",
        function: {
          name: "get_weather",
          parameters,
          parse: JSON.parse,
          function: ({ city }) => (called.push(city), `${city} is fine`),
        },
      },
    ],
  });
  assert.equal(await runner.finalContent(), "The tools say: Oslo is fine");
  assert.deepEqual(called, ["Oslo"]);
  return called;
});

features.case("structured output", "parsed by zod, streamed too", async (at) => {
  const body = { model: at.model, messages: user("place=cape"), response_format: zodResponseFormat(Lamp, "lamp") };
  const parsed = await client(at).chat.completions.parse(body);
  assert.equal(Lamp.parse(parsed.choices[0].message.parsed).place, "cape");
  const final = await client(at).chat.completions.stream(body).finalChatCompletion();
  assert.deepEqual(final.choices[0].message.parsed, parsed.choices[0].message.parsed);
  const tools = [zodFunction({ name: "light", parameters: Lamp })];
  const called = await client(at).chat.completions.parse({ model: at.model, messages: user("light"), tools });
  assert.ok(Lamp.safeParse(called.choices[0].message.tool_calls[0].function.parsed_arguments).success);
  const loose = await chat(at, "JSON", { response_format: { type: "json_object" } });
  return [parsed, final, called, loose];
});

features.case("reasoning", "its text and its tokens", async (at) => {
  const answer = await chat(at, "think", { reasoning_effort: "low" });
  assert.ok(answer.choices[0].message.reasoning_content.startsWith("Let me think"));
  return [answer, await collect(await chat(at, "think", { reasoning_effort: "low", stream: true }))];
});

features.case("image input", "a data URL", async (at) => {
  const parts = [
    { type: "text", text: "look" },
    { type: "image_url", image_url: { url: PICTURE_URL } },
  ];
  const answer = await chat(at, parts);
  assert.ok(answer.choices[0].message.content.includes(`${PICTURE.length} bytes`));
  return answer;
});

features.case("audio input and output", "a sound in, a spoken answer out", async (at) => {
  const heard = await chat(at, [
    { type: "input_audio", input_audio: { data: sound().toString("base64"), format: "wav" } },
  ]);
  const spoken = await chat(at, "say it", { modalities: ["text", "audio"], audio: { voice: "alloy", format: "wav" } });
  assert.equal(Buffer.from(spoken.choices[0].message.audio.data, "base64").subarray(0, 4).toString(), "RIFF");
  return [heard, spoken];
});

features.case("completions", "whole and streamed", async (at) => {
  const body = { model: at.model, prompt: ["one", "two"], echo: true, logprobs: 2, max_tokens: 16 };
  const whole = await client(at).completions.create(body);
  assert.equal(whole.choices.length, 2);
  return [whole, await collect(await client(at).completions.create({ ...body, stream: true }))];
});

features.case("responses", "a text, events in their order, the stream helper", async (at) => {
  const body = { model: at.model, input: "The lamp is lit", reasoning: { effort: "low", summary: "auto" } };
  const whole = await client(at).responses.create(body);
  assert.equal(whole.output_text, "You said: The lamp is lit");
  const events = await collect(await client(at).responses.create({ ...body, stream: true }));
  assert.equal(events.at(-1).type, "response.completed");
  const final = await client(at).responses.stream(body).finalResponse();
  assert.equal(final.output_text, whole.output_text);
  return [whole, events, final];
});

features.case("counting tokens", "before a response is asked for", async (at) => {
  const tools = [{ type: "function", name: "get_weather", strict: true, parameters }];
  const results = [];
  for (const more of [{}, { instructions: "Be brief" }, { input: user("a b c"), tools }]) {
    const body = { model: at.model, input: "one two three", ...more };
    const counted = await client(at).responses.inputTokens.count(body);
    const { usage } = await client(at).responses.create(body);
    assert.deepEqual([counted.object, counted.input_tokens], ["response.input_tokens", usage.input_tokens]);
    results.push(counted);
  }
  return results;
});

features.case("responses", "tools and parsed models", async (at) => {
  const tools = [{ type: "function", name: "get_weather", strict: true, parameters }];
  const input = user("get_weather city=Oslo");
  const first = await client(at).responses.create({ model: at.model, input, tools });
  const [call] = first.output;
  assert.deepEqual(JSON.parse(call.arguments), { city: "Oslo" });
  input.push(call, { type: "function_call_output", call_id: call.call_id, output: "fine" });
  const second = await client(at).responses.create({ model: at.model, input, tools });
  assert.equal(second.output_text, "The tools say: fine");
  const text = { format: zodTextFormat(Lamp, "lamp") };
  const parsed = await client(at).responses.parse({ model: at.model, input: "place=cape", text });
  assert.equal(parsed.output_parsed.place, "cape");
  return [first, second, parsed];
});

features.case("embeddings", "a batch, floats and base64", async (at) => {
  const standard = await client(at).embeddings.create({ model: at.model, input: ["a", "b"], dimensions: 8 });
  const floats = await client(at).embeddings.create({
    model: at.model,
    input: ["a", "b"],
    dimensions: 8,
    encoding_format: "float",
  });
  assert.deepEqual(Array.from(standard.data[1].embedding), floats.data[1].embedding);
  return floats;
});

features.case("moderations", "a text", async (at) => {
  const answer = await client(at).moderations.create({ model: at.model, input: "such violence" });
  assert.equal(answer.results[0].flagged, true);
  return answer;
});

features.case("transcriptions", "a file, whole and streamed; a translation", async (at) => {
  const file = await toFile(sound(), "lamp.wav", { type: "audio/wav" });
  const whole = await client(at).audio.transcriptions.create({ model: at.model, file });
  const text = await client(at).audio.transcriptions.create({ model: at.model, file, response_format: "srt" });
  const events = await collect(await client(at).audio.transcriptions.create({ model: at.model, file, stream: true }));
  const translated = await client(at).audio.translations.create({ model: at.model, file });
  assert.equal(events.at(-1).text, whole.text);
  return [whole, text, events, translated];
});

features.case("speech", "binary, of the right length", async (at) => {
  const input = "The lamp is lit";
  const body = { model: at.model, input, voice: "alloy", response_format: "wav" };
  const answer = await client(at).audio.speech.create(body);
  const data = Buffer.from(await answer.arrayBuffer());
  assert.equal(data.length, 44 + 2400 * input.length);
  return named(data);
});

features.case("images", "generations, edits, streamed", async (at) => {
  const body = { model: at.model, prompt: "a lamp", size: "256x256" };
  const made = await client(at).images.generate({ ...body, n: 2 });
  const image = await toFile(PICTURE, "a.png", { type: "image/png" });
  const edited = await client(at).images.edit({ ...body, image: [image, image] });
  const events = await collect(await client(at).images.generate({ ...body, stream: true, partial_images: 1 }));
  assert.equal(events.at(-1).type, "image_generation.completed");
  return [made, edited, events];
});

features.case("errors", "typed, with what the engine says", async (at) => {
  const results = [];
  for (const [status, kind] of [
    [400, OpenAI.BadRequestError],
    [401, OpenAI.AuthenticationError],
    [404, OpenAI.NotFoundError],
    [422, OpenAI.UnprocessableEntityError],
    [429, OpenAI.RateLimitError],
    [500, OpenAI.InternalServerError],
  ]) {
    const error = await chat(at, `quirk:status=${status}`).catch((caught) => caught);
    assert.ok(error instanceof kind, String(error));
    results.push([error.status, error.param, error.type]);
  }
  const broken = async () => collect(await chat(at, "one two three quirk:error-event", { stream: true }));
  await assert.rejects(broken, (error) => error instanceof OpenAI.APIError);
  return results.slice(0, -1);
});

features.case("retries, time-outs, cancelling", "as they should be", async (at) => {
  const answer = await client(at, { maxRetries: 2 }).chat.completions.create({
    model: at.model,
    messages: user("quirk:flaky=js"),
  });
  let before = await at.seen();
  const hasty = client(at, { timeout: 400 });
  await assert.rejects(
    hasty.chat.completions.create({ model: at.model, messages: user("quirk:first=8000") }),
    (error) => error instanceof OpenAI.APIConnectionTimeoutError,
  );
  await at.waitCancelled(before);
  before = await at.seen();
  const stream = await chat(at, "quirk:tokens=2000,delay=20", { stream: true });
  let count = 0;
  for await (const _ of stream) {
    count += 1;
    if (count === 5) break;
  }
  await at.waitCancelled(before);
  before = await at.seen();
  const controller = new AbortController();
  const asked = client(at).responses.create(
    { model: at.model, input: "quirk:first=8000" },
    { signal: controller.signal },
  );
  setTimeout(() => controller.abort(), 200);
  await assert.rejects(asked, (error) => error instanceof OpenAI.APIUserAbortError);
  await at.waitCancelled(before);
  return answer;
});

features.case("raw answers", "headers, and requests by hand", async (at) => {
  const { data, response } = await client(at)
    .chat.completions.create({ model: at.model, messages: user("a b c") })
    .withResponse();
  if (at.network) assert.ok(response.headers.get("x-cocoon-request-id"));
  const body = { model: at.model, query: "a lamp", documents: ["the cape", "the lamp"] };
  const ranked = await client(at).post("/rerank", { body });
  assert.equal(ranked.results[0].index, 1);
  return [data, ranked];
});

await features.run();
