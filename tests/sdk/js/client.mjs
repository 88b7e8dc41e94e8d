// What the unmodified official JavaScript client sees of a gateway. Run by ../run.py; see ../client.py for the options.

import assert from "node:assert/strict";
import { parseArgs } from "node:util";

import OpenAI, { APIError, BadRequestError, NotFoundError, RateLimitError } from "openai";

const { values: flags } = parseArgs({
  options: {
    gateway: { type: "string" },
    model: { type: "string" },
    engine: { type: "string" },
    direct: { type: "boolean", default: false },
    only: { type: "string" },
  },
});
const MODEL = flags.model;
const NETWORK = !flags.direct;
const QUIRKY = flags.engine !== undefined;
const TEXT =
  "The lighthouse stands on the northern cape. It was built in 1871 by the harbour guild. Every evening the keeper " +
  "climbs two hundred steps to light the lamp. The lamp can be seen from thirty miles. Sailors trust the lighthouse " +
  "more than their charts. In winter the cape is often hidden by fog.";
const client = new OpenAI({ baseURL: `${flags.gateway}/v1`, apiKey: "unused", maxRetries: 0, timeout: 60_000 });

const checks = [];
const check = (name, when, run) => when && checks.push([name, run]);

const messages = (quirk) => [{ role: "user", content: quirk ? `${TEXT} quirk:${quirk}` : TEXT }];
const chat = (quirk, more = {}) =>
  client.chat.completions.create({ model: MODEL, messages: messages(quirk), ...more });
const tokens = (count = 8) => Array.from({ length: count }, (_, i) => `tok${i}`).join(" ");
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const seen = async () => (await fetch(`${flags.engine}/_seen`)).json();

async function readStream(stream) {
  const read = { text: "", reason: null, usages: [], chunks: 0 };
  for await (const chunk of await stream) {
    read.chunks += 1;
    if (chunk.usage) read.usages.push(chunk.usage);
    for (const choice of chunk.choices) {
      read.text += choice.text ?? choice.delta?.content ?? "";
      read.reason = choice.finish_reason ?? read.reason;
    }
  }
  return read;
}

function checkUsage(usage) {
  assert.ok(usage?.prompt_tokens > 0 && usage.completion_tokens > 0, `usage is ${JSON.stringify(usage)}`);
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  if (!NETWORK) return;
  const { prompt_total_cost: prompt, completion_total_cost: completion, total_cost: total } = usage;
  assert.ok([prompt, completion, total].every(Number.isSafeInteger), `costs are ${prompt}, ${completion}, ${total}`);
  assert.equal(prompt + completion, total);
  assert.ok(total > 0, "an answer that costs nothing");
}

check("models are listed", true, async () => {
  const listed = [];
  for await (const model of client.models.list()) listed.push(model);
  const ours = listed.find((model) => model.id === MODEL);
  assert.ok(ours, `${MODEL} is not listed`);
  if (NETWORK) assert.equal(typeof ours.cocoon, "object");
});

check("a chat is answered, with usage", true, async () => {
  const answer = await chat();
  assert.ok(answer.choices[0].message.content);
  checkUsage(answer.usage);
  if (NETWORK) assert.equal(typeof answer.cocoon, "object");
  if (QUIRKY) assert.equal(answer.choices[0].message.content, tokens());
});

check("a stream without usage asked shows none", true, async () => {
  const read = await readStream(chat(undefined, { stream: true }));
  assert.ok(read.text && read.chunks >= 2 && ["stop", "length"].includes(read.reason), JSON.stringify(read));
  assert.deepEqual(read.usages, []);
});

check("a stream with usage asked ends with it", true, async () => {
  const read = await readStream(chat(undefined, { stream: true, stream_options: { include_usage: true } }));
  assert.equal(read.usages.length, 1);
  checkUsage(read.usages[0]);
});

check("the client's own stream helper sees the whole answer", true, async () => {
  const whole = (await chat()).choices[0].message.content;
  const runner = client.chat.completions.stream({ model: MODEL, messages: messages() });
  assert.equal(await runner.finalContent(), whole);
});

check("completions are answered, whole and streamed", true, async () => {
  const answer = await client.completions.create({ model: MODEL, prompt: TEXT });
  checkUsage(answer.usage);
  const read = await readStream(client.completions.create({ model: MODEL, prompt: TEXT, stream: true }));
  assert.equal(read.text, answer.choices[0].text);
});

check("an unknown model is a 404", true, async () => {
  const asked = client.chat.completions.create({ model: "no-such-model", messages: messages() });
  await assert.rejects(asked, (error) => error instanceof NotFoundError && error.status === 404);
});

check("a missing field is a 400 that names it", true, async () => {
  const asked = client.chat.completions.create({ model: MODEL });
  await assert.rejects(asked, (error) => error instanceof BadRequestError && error.message.includes("messages"));
});

check("fifty streams at once are all complete", true, async () => {
  const quirk = QUIRKY ? "tokens=30,delay=10" : undefined;
  const reads = await Promise.all(Array.from({ length: 50 }, () => readStream(chat(quirk, { stream: true }))));
  const texts = new Set(reads.map((read) => `${read.reason} ${read.text}`));
  assert.equal(texts.size, 1, [...texts].join(" | "));
  if (QUIRKY) assert.equal(reads[0].text, tokens(30));
});

check("fields that nobody here knows reach the engine", QUIRKY, async () => {
  await chat(undefined, { spline_reticulation: { depth: [1, null] }, seed: 7 });
  const { body } = (await seen()).requests.at(-1);
  assert.deepEqual(body.spline_reticulation, { depth: [1, null] });
  assert.equal(body.seed, 7);
});

check("aborting a stream stops the engine", QUIRKY, async () => {
  const before = await seen();
  const stream = await chat("tokens=2000,delay=20", { stream: true });
  let count = 0;
  for await (const _ of stream) {
    count += 1;
    if (count === 5) break; // leaving the loop aborts the request
  }
  for (let i = 0; i < 100; i += 1) {
    const now = await seen();
    if (now.cancelled > before.cancelled && now.active === 0) return;
    await sleep(50);
  }
  assert.fail("the engine still works 5 s after the caller left");
});

check("tool calls pass whole", QUIRKY, async () => {
  const answer = await chat("tools");
  assert.equal(answer.choices[0].message.tool_calls[0].function.name, "lookup");
});

check("the engine's own 429 is passed on", QUIRKY, async () => {
  await assert.rejects(chat("429"), (error) => error instanceof RateLimitError && error.message.includes("quirky says"));
});

check("a broken stream is an error and never complete", QUIRKY, async () => {
  for (const quirk of ["break-sse", "break-chunk", "error-event"]) {
    const read = { text: "", reason: null };
    const reading = async () => {
      for await (const chunk of await chat(quirk, { stream: true })) {
        for (const choice of chunk.choices) {
          read.text += choice.delta.content ?? "";
          read.reason = choice.finish_reason ?? read.reason;
        }
      }
    };
    await assert.rejects(reading, (error) => !NETWORK || error instanceof APIError, `${quirk}: ${read.text}`);
    assert.equal(read.reason, null, quirk);
  }
});

let failed = 0;
for (const [name, run] of checks) {
  if (flags.only && !name.includes(flags.only)) continue;
  const started = performance.now();
  try {
    await run();
    console.log(`pass ${name} (${((performance.now() - started) / 1000).toFixed(2)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}: ${String(error?.stack ?? error).split("\n").slice(0, 4).join(" ").slice(0, 400)}`);
  }
}
process.exit(failed ? 1 : 0);
