// The frame of the feature checks in JavaScript; see ../../features/frame.py, which it repeats.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

const ADDED = new Set(["cocoon", "prompt_total_cost", "completion_total_cost", "total_cost"]);
const ADDED_LIMIT = "max_output_tokens";
export const PICTURE = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
  "base64",
);
export const PICTURE_URL = `data:image/png;base64,${PICTURE.toString("base64")}`;

/** A WAV file of silence: one channel, 16 bits, 8 kHz. */
export function sound(seconds = 0.5) {
  const samples = Buffer.alloc(Math.floor(seconds * 8000) * 2);
  const head = Buffer.alloc(44);
  head.write("RIFF", 0);
  head.writeUInt32LE(36 + samples.length, 4);
  head.write("WAVEfmt ", 8);
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(1, 20);
  head.writeUInt16LE(1, 22);
  head.writeUInt32LE(8000, 24);
  head.writeUInt32LE(16000, 28);
  head.writeUInt16LE(2, 32);
  head.writeUInt16LE(16, 34);
  head.write("data", 36);
  head.writeUInt32LE(samples.length, 40);
  return Buffer.concat([head, samples]);
}

/** The version of an installed package. */
export function installed(name) {
  return JSON.parse(readFileSync(new URL(`../node_modules/${name}/package.json`, import.meta.url))).version;
}

export const named = (data) => ({
  bytes: data.length,
  sha256: createHash("sha256").update(data).digest("hex"),
});

export async function collect(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

/** Where a case runs: the engine itself, or the network in front of it. */
class Place {
  constructor(url, engine, model, network) {
    Object.assign(this, { url, engine, model, network });
  }

  async seen() {
    return (await fetch(`${this.engine}/_seen`)).json();
  }

  async waitCancelled(before) {
    for (let i = 0; i < 250; i += 1) {
      const now = await this.seen();
      if (now.cancelled > before.cancelled && now.active === 0) return;
      await new Promise((done) => setTimeout(done, 20));
    }
    throw new Error("the engine still works 5 s after the caller left");
  }
}

function withoutAdditions(value) {
  if (Array.isArray(value)) return value.map(withoutAdditions);
  if (value === null || typeof value !== "object") return value;
  const estimated = value.cocoon?.estimated === true;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key]) => !ADDED.has(key) && !(estimated && key === "usage"))
      .map(([key, inner]) => [key, withoutAdditions(inner)]),
  );
}

function difference(direct, network, path = "answer") {
  const both = [direct, network];
  if (both.every(Array.isArray)) {
    if (direct.length !== network.length) return `${path} has ${direct.length} and ${network.length} items`;
    return direct.map((one, index) => difference(one, network[index], `${path}[${index}]`)).find(Boolean);
  }
  if (both.every((value) => value !== null && typeof value === "object" && !Array.isArray(value))) {
    for (const key of new Set([...Object.keys(direct), ...Object.keys(network)])) {
      if (key === ADDED_LIMIT && direct[key] == null && Number.isInteger(network[key])) continue;
      const found = difference(direct[key] ?? null, network[key] ?? null, `${path}.${key}`);
      if (found) return found;
    }
    return undefined;
  }
  if (direct === network) return undefined;
  return `${path} is ${JSON.stringify(direct)?.slice(0, 150)} and ${JSON.stringify(network)?.slice(0, 150)}`;
}

/** The cases of one client, by the feature of docs/clients.md that they show. */
export class Features {
  constructor(client, version) {
    Object.assign(this, { client, version, cases: [], result: {} });
    this.flags = parseArgs({
      options: Object.fromEntries(["engine", "gateway", "model", "only"].map((name) => [name, { type: "string" }])),
    }).values;
  }

  /** Registers a case; `lacks` says why the network is known not to have it yet: then it must fail there. */
  case(feature, name, run, lacks) {
    this.cases.push([feature, name, run, lacks]);
  }

  async failure(run) {
    const { engine, gateway, model } = this.flags;
    const places = [["the engine itself", new Place(engine, engine, model, false)]];
    if (gateway) places.push(["the network", new Place(gateway, engine, model, true)]);
    const saw = [];
    for (const [where, place] of places) {
      try {
        const result = await run(place);
        saw.push(withoutAdditions(JSON.parse(JSON.stringify(result ?? null))));
      } catch (error) {
        return `with ${where}: ${String(error?.stack ?? error).split("\n").slice(0, 5).join(" ").slice(0, 600)}`;
      }
    }
    const found = saw.length === 2 && difference(...saw);
    return found ? `the engine itself and the network differ: ${found}` : undefined;
  }

  /** Runs all cases, prints a line for each and one for the table, and ends the process. */
  async run() {
    const lacking = {};
    let failed = 0;
    for (const [feature, name, run, lacks] of this.cases) {
      const label = `${feature}: ${name}`;
      if (this.flags.only && !label.includes(this.flags.only)) continue;
      const started = performance.now();
      let failure = await this.failure(run);
      if (lacks && this.flags.gateway) {
        const failsThere = failure?.startsWith("with the network");
        failure = failsThere ? undefined : failure ?? "it works now: it is no longer lacking";
        lacking[feature] = lacks;
      }
      this.result[feature] = (this.result[feature] ?? true) && failure === undefined && !(feature in lacking);
      failed += failure !== undefined;
      if (failure) console.log(`FAIL ${label}: ${failure}`);
      else console.log(`pass ${label} (${((performance.now() - started) / 1000).toFixed(2)} s)`);
    }
    console.log(`table ${JSON.stringify({ client: this.client, version: this.version, features: this.result, lacking })}`);
    process.exit(failed ? 1 : 0);
  }
}
