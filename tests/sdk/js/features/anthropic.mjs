// The ordinary features of the official Anthropic client for JavaScript. Run by ../../features.py.

import assert from "node:assert/strict";

import Anthropic from "@anthropic-ai/sdk";

import { collect, Features, installed, PICTURE } from "./frame.mjs";

const features = new Features("@anthropic-ai/sdk (JavaScript)", installed("@anthropic-ai/sdk"));
const client = (at, more = {}) =>
  new Anthropic({ baseURL: at.url, apiKey: "unused", maxRetries: 0, timeout: 30_000, ...more });
const user = (content) => [{ role: "user", content }];
const body = (at, content, more = {}) => ({ model: at.model, max_tokens: 256, messages: user(content), ...more });
const ask = (at, content, more) => client(at).messages.create(body(at, content, more));
const weather = {
  name: "get_weather",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

features.case("messages", "a text, limits, stop sequences", async (at) => {
  const plain = await ask(at, "The lamp is lit", { system: "Be brief" });
  assert.equal(plain.content[0].text, "You said: The lamp is lit");
  const cut = await ask(at, "one two three", { max_tokens: 2 });
  assert.equal(cut.stop_reason, "max_tokens");
  const stopped = await ask(at, "one two three", { stop_sequences: [" two"] });
  assert.equal(stopped.stop_sequence, " two");
  return [plain, cut, stopped];
});

features.case("counting tokens", "before a message is sent", async (at) => {
  const results = [];
  for (const more of [{}, { system: "Be brief" }, { tools: [weather] }]) {
    const counted = await client(at).messages.countTokens({ model: at.model, messages: user("one two"), ...more });
    const { usage } = await ask(at, "one two", more);
    assert.equal(counted.input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
    results.push(counted);
  }
  return results;
});

features.case("streaming", "events in their order, and the helper", async (at) => {
  const events = await collect(await ask(at, "The lamp is lit", { stream: true }));
  assert.equal(events.at(-1).type, "message_stop");
  const final = await client(at).messages.stream(body(at, "The lamp is lit")).finalMessage();
  assert.equal(final.content[0].text, "You said: The lamp is lit");
  return [events, final];
});

features.case("tools", "a loop of calls and results, streamed", async (at) => {
  const tools = [weather];
  const first = await client(at).messages.stream(body(at, "get_weather city=Oslo", { tools })).finalMessage();
  const [call] = first.content;
  assert.deepEqual(call.input, { city: "Oslo" });
  const messages = [
    ...user("get_weather city=Oslo"),
    { role: "assistant", content: [{ type: "tool_use", id: call.id, name: call.name, input: call.input }] },
    ...user([{ type: "tool_result", tool_use_id: call.id, content: "fine" }]),
  ];
  const second = await client(at).messages.create({ model: at.model, max_tokens: 256, messages, tools });
  assert.equal(second.content[0].text, "The tools say: fine");
  return [first, second];
});

features.case("reasoning", "thinking with its signature", async (at) => {
  const more = { max_tokens: 2048, thinking: { type: "enabled", budget_tokens: 1024 } };
  const answer = await ask(at, "think", more);
  assert.deepEqual(answer.content.map((block) => block.type), ["thinking", "text"]);
  return [answer, await client(at).messages.stream(body(at, "think", more)).finalMessage()];
});

features.case("image input", "a picture", async (at) => {
  const source = { type: "base64", media_type: "image/png", data: PICTURE.toString("base64") };
  const answer = await ask(at, [{ type: "text", text: "look" }, { type: "image", source }]);
  assert.ok(answer.content[0].text.includes(`${PICTURE.length} bytes`));
  return answer;
});

features.case("errors", "typed, in Anthropic's form", async (at) => {
  const results = [];
  for (const [status, kind] of [
    [400, Anthropic.BadRequestError],
    [401, Anthropic.AuthenticationError],
    [404, Anthropic.NotFoundError],
    [429, Anthropic.RateLimitError],
    [500, Anthropic.InternalServerError],
  ]) {
    const error = await ask(at, `quirk:status=${status}`).catch((caught) => caught);
    assert.ok(error instanceof kind, String(error));
    results.push([error.status, error.error?.type]);
  }
  const broken = () => client(at).messages.stream(body(at, "one two three quirk:error-event")).finalMessage();
  await assert.rejects(broken, (error) => error instanceof Anthropic.AnthropicError);
  return results.slice(0, -1);
});

features.case("retries, time-outs, cancelling", "as they should be", async (at) => {
  const answer = await client(at, { maxRetries: 2 }).messages.create(body(at, "quirk:flaky=anthropic-js"));
  const before = await at.seen();
  const stream = client(at).messages.stream(body(at, "quirk:tokens=2000,delay=20", { max_tokens: 4096 }));
  stream.on("text", () => stream.abort());
  await assert.rejects(stream.done(), (error) => error instanceof Anthropic.APIUserAbortError);
  await at.waitCancelled(before);
  return answer;
});

await features.run();
