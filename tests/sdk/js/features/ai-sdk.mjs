// The ordinary features of the AI SDK, by its providers for OpenAI (chat and responses), for servers that are compatible
// with it, and for Anthropic. Run by ../../features.py.

import assert from "node:assert/strict";

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  APICallError,
  embedMany,
  experimental_generateSpeech as generateSpeech,
  experimental_transcribe as transcribe,
  generateImage,
  generateObject,
  generateText,
  stepCountIs,
  streamObject,
  streamText,
  tool,
} from "ai";
import { z } from "zod";

import { collect, Features, installed, named, PICTURE, sound } from "./frame.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const features = new Features("AI SDK (ai)", installed("ai"));
const openai = (at) => createOpenAI({ baseURL: `${at.url}/v1`, apiKey: "unused" });
const compatible = (at) =>
  createOpenAICompatible({
    name: "cocoon",
    baseURL: `${at.url}/v1`,
    apiKey: "unused",
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
const anthropic = (at) => createAnthropic({ baseURL: `${at.url}/v1`, apiKey: "unused" });
const Lamp = z.object({ place: z.string(), height: z.number() });

/** Every way by which this client asks for text. */
const models = (at) => [
  openai(at).chat(at.model),
  openai(at).responses(at.model),
  compatible(at).chatModel(at.model),
  anthropic(at)(at.model),
];
const tools = {
  get_weather: tool({
    description: "The weather in a city",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `${city} is fine`,
  }),
};
const settings = { maxRetries: 0 };

async function each(at, run) {
  const results = [];
  for (const model of models(at)) {
    try {
      results.push(await run(model));
    } catch (error) {
      error.message = `${model.provider}: ${error.message}`;
      throw error;
    }
  }
  return results;
}

features.case("chat", "generateText, by every provider", (at) =>
  each(at, async (model) => {
    const { text, finishReason, usage } = await generateText({ model, prompt: "The lamp is lit", ...settings });
    assert.equal(text, "You said: The lamp is lit");
    assert.equal(finishReason, "stop");
    assert.ok(usage.inputTokens > 0 && usage.outputTokens > 0, JSON.stringify(usage));
    return [text, usage.inputTokens, usage.outputTokens];
  }),
);

features.case("streaming", "streamText, by every provider", (at) =>
  each(at, async (model) => {
    const stream = streamText({ model, prompt: "The lamp is lit", onError: () => {}, ...settings });
    const parts = await collect(stream.textStream);
    assert.equal(parts.join(""), "You said: The lamp is lit");
    assert.ok((await stream.usage).outputTokens > 0, JSON.stringify(await stream.usage));
    return parts;
  }),
);

features.case("tools", "loops of calls and results, whole and streamed", (at) =>
  each(at, async (model) => {
    const ask = { model, prompt: "get_weather city=Oslo", tools, stopWhen: stepCountIs(3), ...settings };
    const { text, steps } = await generateText(ask);
    assert.equal(steps.length, 2);
    assert.ok(text.includes("Oslo is fine"), text);
    const stream = streamText({ ...ask, onError: () => {} });
    assert.equal((await collect(stream.textStream)).join(""), text);
    return text;
  }),
);

features.case("structured output", "generateObject and streamObject", (at) =>
  each(at, async (model) => {
    const ask = { model, schema: Lamp, prompt: "Lamp with place=cape height=30", ...settings };
    const { object } = await generateObject(ask);
    assert.deepEqual(object, { place: "cape", height: 30 });
    const stream = streamObject({ ...ask, onError: () => {} });
    await collect(stream.partialObjectStream);
    assert.deepEqual(await stream.object, object);
    return object;
  }),
);

features.case("reasoning", "its text", async (at) => {
  const ask = { prompt: "think", ...settings };
  const byCompatible = await generateText({
    ...ask,
    model: compatible(at).chatModel(at.model),
    providerOptions: { cocoon: { reasoningEffort: "low" } },
  });
  const byAnthropic = await generateText({
    ...ask,
    model: anthropic(at)(at.model),
    maxOutputTokens: 4096,
    providerOptions: { anthropic: { thinking: { type: "enabled", budgetTokens: 1024 } } },
  });
  const texts = [byCompatible.reasoningText, byAnthropic.reasoningText];
  assert.ok(texts.every((text) => text?.startsWith("Let me think")), JSON.stringify(texts));
  return texts;
});

features.case("image input", "by every provider", (at) =>
  each(at, async (model) => {
    const content = [
      { type: "text", text: "look" },
      { type: "image", image: PICTURE, mediaType: "image/png" },
    ];
    const { text } = await generateText({ model, messages: [{ role: "user", content }], ...settings });
    assert.ok(text.includes(`${PICTURE.length} bytes`), text);
    return text;
  }),
);

features.case("completions", "the old kind of model", async (at) => {
  const { text } = await generateText({ model: openai(at).completion(at.model), prompt: "The lamp", ...settings });
  return text;
});

features.case("responses", "a text", async (at) => {
  const { text } = await generateText({ model: openai(at).responses(at.model), prompt: "The lamp", ...settings });
  return text;
});

features.case("messages", "a text", async (at) => {
  const { text } = await generateText({ model: anthropic(at)(at.model), prompt: "The lamp", ...settings });
  return text;
});

features.case("embeddings", "embedMany", async (at) => {
  const results = [];
  for (const model of [openai(at).embedding(at.model), compatible(at).textEmbeddingModel(at.model)]) {
    const { embeddings, usage } = await embedMany({ model, values: ["The lamp", "is lit"], ...settings });
    results.push([embeddings, usage.tokens]);
  }
  assert.deepEqual(results[0], results[1]);
  return results;
});

features.case("transcriptions", "a file", async (at) => {
  const { text } = await transcribe({ model: openai(at).transcription(at.model), audio: sound(), ...settings });
  return text;
});

features.case("speech", "binary", async (at) => {
  const model = openai(at).speech(at.model);
  const { audio } = await generateSpeech({ model, text: "The lamp is lit", outputFormat: "wav", ...settings });
  return named(Buffer.from(audio.uint8Array));
});

features.case("images", "a generation", async (at) => {
  const model = openai(at).image(at.model);
  const { image } = await generateImage({ model, prompt: "a lamp", size: "256x256", ...settings });
  return named(Buffer.from(image.uint8Array));
});

features.case("errors", "typed, with what the engine says", (at) =>
  each(at, async (model) => {
    const error = await generateText({ model, prompt: "quirk:status=422", ...settings }).catch((caught) => caught);
    assert.ok(APICallError.isInstance(error), String(error));
    assert.equal(error.statusCode, 422);
    assert.match(error.message, /quirk says 422/);
    return error.message;
  }),
);

features.case("retries, time-outs, cancelling", "its own retry succeeds; an abort stops the engine", async (at) => {
  const model = openai(at).chat(at.model);
  const { text } = await generateText({ model, prompt: "quirk:flaky=ai-sdk", maxRetries: 2 });
  const before = await at.seen();
  const controller = new AbortController();
  const stream = streamText({
    model,
    prompt: "quirk:tokens=2000,delay=20",
    abortSignal: controller.signal,
    onError: () => {},
    ...settings,
  });
  let count = 0;
  for await (const _ of stream.textStream) {
    count += 1;
    if (count === 5) controller.abort();
  }
  await at.waitCancelled(before);
  return text;
});

await features.run();
