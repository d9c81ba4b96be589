// A counterexample as a file that stands alone: the whole configuration, the events by name, and what they are expected to find. Read with
// the same care as a file that people write: a mistake is one line that says where it is and what is accepted there.
import { UsageError } from "../../hardware/index.ts";
import { YamlFile } from "../yaml-file.ts";
import { MAX_CPUS } from "./call-arguments.ts";
import { type Configuration, LIMITS } from "./configuration.ts";
import { configurationIn, type RawConfiguration, rawConfiguration } from "./configuration-file.ts";
import { checkSchema } from "./configuration-schema.ts";
import { decodeInjection, decodeStart, type EventCode, encodeInjection, encodeStart } from "./event-code.ts";
import { INJECTION_KINDS, type InjectionKind } from "./injection.ts";
import { CONTINUE, operationsOf } from "./operations.ts";
import type { Found } from "./search.ts";

export const REPLAY_FORMAT = "cordon-replay";
export const REPLAY_VERSION = 1;

export interface ReplayInjection {
  readonly kind: InjectionKind;
  /** Steps of the event before it; of a failure, which attempt to allocate memory. */
  readonly at: number;
}

export interface ReplayEvent {
  readonly cpu: number;
  readonly operation: string;
  readonly injections: readonly ReplayInjection[];
}

export interface Replay {
  readonly configuration: Configuration;
  readonly events: readonly ReplayEvent[];
  readonly found: Found;
}

interface RawReplay {
  readonly format: string;
  readonly version: number;
  readonly configuration: RawConfiguration;
  readonly events: readonly { readonly cpu: number; readonly operation: string; readonly injections?: readonly ReplayInjection[] }[];
  readonly finding: { readonly signature: string; readonly message: string };
}

/** More events than any search goes deep. */
const MAX_EVENTS = LIMITS.depth.max;
/** The last step that has a code. */
const MAX_STEP = 2 ** 25 - 1;

const text = (what: string) => ({ type: "string", maxLength: 4000, description: `${what}, a string of at most 4000 characters` });

const { $schema, title, ...configurationSchema } = checkSchema;

/** The shape of the file. */
export const replaySchema = {
  $schema,
  title: `A counterexample of ${title}`,
  type: "object",
  additionalProperties: false,
  required: ["format", "version", "configuration", "events", "finding"],
  properties: {
    format: { const: REPLAY_FORMAT, description: `"${REPLAY_FORMAT}"` },
    version: { const: REPLAY_VERSION, description: `${REPLAY_VERSION}` },
    configuration: { ...configurationSchema, description: "a mapping: what was explored" },
    events: {
      type: "array",
      minItems: 1,
      maxItems: MAX_EVENTS,
      description: `a list of 1 to ${MAX_EVENTS} events`,
      items: {
        type: "object",
        additionalProperties: false,
        required: ["cpu", "operation"],
        description: "a mapping with cpu, operation, injections",
        properties: {
          cpu: { type: "integer", minimum: 0, maximum: MAX_CPUS - 1, description: "the number of a CPU" },
          operation: text("an operation"),
          injections: {
            type: "array",
            maxItems: LIMITS.injectionsPerEvent.max + LIMITS.switches.max + LIMITS.failures.max,
            description: "a list of injections",
            items: {
              type: "object",
              additionalProperties: false,
              required: ["kind", "at"],
              description: "a mapping with kind and at",
              properties: {
                kind: { enum: INJECTION_KINDS, description: "a kind of injection" },
                at: { type: "integer", minimum: 0, maximum: MAX_STEP, description: `a step, a whole number from 0 to ${MAX_STEP}` },
              },
            },
          },
        },
      },
    },
    finding: {
      type: "object",
      additionalProperties: false,
      required: ["signature", "message"],
      description: "a mapping with signature and message",
      properties: { signature: text("what tells findings apart"), message: text("the finding in words") },
    },
  },
} as const;

function namesOf(configuration: Configuration): readonly string[] {
  return [CONTINUE, ...operationsOf(configuration).map(({ name }) => name)];
}

function injectionOf(code: number): ReplayInjection {
  const { at, kind } = decodeInjection(code);
  const name = INJECTION_KINDS[kind];
  if (name === undefined) throw new RangeError(`no injection has the number ${kind}`);
  return { kind: name, at };
}

/** The events of a found path by name. */
export function replayEvents(configuration: Configuration, path: readonly EventCode[]): readonly ReplayEvent[] {
  const names = namesOf(configuration);
  return path.map(([start = 0, ...injections]) => {
    const { cpu, operation } = decodeStart(start);
    const name = names[operation];
    if (name === undefined) throw new RangeError(`the configuration has no operation ${operation}`);
    return { cpu, operation: name, injections: injections.map(injectionOf) };
  });
}

export function formatReplay(configuration: Configuration, { path, finding }: Found): string {
  const file: RawReplay = {
    format: REPLAY_FORMAT,
    version: REPLAY_VERSION,
    configuration: rawConfiguration(configuration),
    events: replayEvents(configuration, path),
    finding: { signature: finding.signature, message: finding.message },
  };
  return `${JSON.stringify(file, null, 2)}\n`;
}

/** Reads what `formatReplay` wrote. `file`: its name for messages. UsageError: `FILE:LINE: where: what is accepted`. */
export function parseReplay(content: string, file: string): Replay {
  try {
    JSON.parse(content);
  } catch {
    throw new UsageError(`${file}: not JSON; a replay file that \`cordon check\` wrote is accepted`);
  }
  const yaml = new YamlFile(file, content, replaySchema);
  const raw = yaml.value<RawReplay>();
  const configuration = configurationIn(yaml, raw.configuration, ["configuration"], file);
  const names = namesOf(configuration);
  const path = raw.events.map(({ cpu, operation, injections = [] }, i) => {
    if (cpu >= configuration.cpus)
      yaml.refuse(["events", i, "cpu"], `a number below ${configuration.cpus}, the CPUs of the configuration, is accepted`);
    const number = names.indexOf(operation);
    if (number < 0) yaml.refuse(["events", i, "operation"], `one of ${names.join(", ")} is accepted`);
    injections.forEach(({ kind, at }, k) => {
      const before = injections[k - 1];
      const where = ["events", i, "injections", k];
      if (kind === "failure" && (k > 0 || at === 0))
        yaml.refuse(where, "a failure, from the 1st attempt on, is accepted as the first injection");
      if (before !== undefined && before.kind !== "failure" && before.at > at)
        yaml.refuse(where, "injections in the order of their steps are accepted");
    });
    return [encodeStart(cpu, number), ...injections.map(({ kind, at }) => encodeInjection(at, INJECTION_KINDS.indexOf(kind)))];
  });
  return { configuration, events: replayEvents(configuration, path), found: { path, finding: raw.finding } };
}
