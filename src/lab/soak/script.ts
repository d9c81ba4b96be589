// The script of an episode: everything that was chosen at random, written down, so that a part of it can be left out and the rest still
// means something. Arguments are small numbers that are resolved against what the process has when the item comes (its third region, its
// last child), never addresses.
import { UsageError } from "../../hardware/index.ts";
import { PRESETS, type Preset } from "../../kernel/index.ts";

/** What is made pending on a CPU in the middle of an item. `sensitive`: the handler reads memory that restricted tables lack. */
export const INJECTIONS = ["nmi", "nmi sensitive", "irq", "irq sensitive", "timer", "suspend"] as const;
export type InjectionKind = (typeof INJECTIONS)[number];

export interface Injected {
  readonly kind: InjectionKind;
  /** Kernel steps of that CPU after the item was begun. */
  readonly at: number;
}

/** One thing that a process does. */
export interface Item {
  /** Slot of the process: those that the kernel starts count from 0, children have the slot that their parent's item names. */
  readonly slot: number;
  readonly action: string;
  readonly args: readonly number[];
  readonly inject?: readonly Injected[];
  /** The allocation attempt of this item that fails, from 1. */
  readonly fail?: number;
}

export interface EpisodeConfig {
  readonly preset: Preset;
  readonly model: string;
  readonly commandLine: string;
  readonly cpus: number;
  /** CPUs are the two threads of a core each. */
  readonly hasSiblings?: boolean;
  readonly memoryMegabytes: number;
  /** Processes that the kernel starts. */
  readonly processes: number;
}

export interface Script {
  readonly config: EpisodeConfig;
  readonly items: readonly Item[];
}

/** One line for the configuration and one for each item. */
export function formatScript(script: Script): string {
  return [script.config, ...script.items].map((line) => `${JSON.stringify(line)}\n`).join("");
}

interface Fields {
  readonly preset?: unknown;
  readonly model?: unknown;
  readonly commandLine?: unknown;
  readonly cpus?: unknown;
  readonly hasSiblings?: unknown;
  readonly memoryMegabytes?: unknown;
  readonly processes?: unknown;
  readonly slot?: unknown;
  readonly action?: unknown;
  readonly args?: unknown;
  readonly inject?: unknown;
  readonly fail?: unknown;
  readonly kind?: unknown;
  readonly at?: unknown;
}

function isRecord(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function isOneOf<T extends string>(value: unknown, choices: readonly T[]): value is T {
  return choices.some((choice) => choice === value);
}

/** Reads a script. Bad input is a UsageError that names file and line. */
export function parseScript(text: string, file: string): Script {
  const lines = text.split("\n");
  const parsed = lines.flatMap((line, i): (readonly [number, unknown])[] =>
    line.trim() === "" ? [] : [[i + 1, parseLine(line, file, i + 1)]],
  );
  const [first, ...rest] = parsed;
  if (first === undefined) throw new UsageError(`${file}: empty; the first line is the configuration of the episode`);
  return { config: configOf(first[1], file, first[0]), items: rest.map(([line, value]) => itemOf(value, file, line)) };
}

function parseLine(line: string, file: string, number: number): unknown {
  try {
    return JSON.parse(line);
  } catch {
    throw new UsageError(`${file}:${number}: not a line of JSON`);
  }
}

function configOf(value: unknown, file: string, line: number): EpisodeConfig {
  const bad = (what: string): never => {
    throw new UsageError(`${file}:${line}: ${what}`);
  };
  if (!isRecord(value)) return bad("the configuration is an object");
  const { preset, model, commandLine, cpus, hasSiblings, memoryMegabytes, processes } = value;
  if (!isOneOf(preset, PRESETS)) return bad(`preset is one of ${PRESETS.join(", ")}`);
  if (typeof model !== "string" || typeof commandLine !== "string") return bad("model and commandLine are strings");
  if (!isCount(cpus) || !isCount(memoryMegabytes) || !isCount(processes))
    return bad("cpus, memoryMegabytes and processes are whole numbers");
  if (hasSiblings !== undefined && typeof hasSiblings !== "boolean") return bad("hasSiblings is true or false");
  return { preset, model, commandLine, cpus, ...(hasSiblings === undefined ? {} : { hasSiblings }), memoryMegabytes, processes };
}

function injectedOf(value: unknown): Injected | undefined {
  if (!isRecord(value)) return undefined;
  const { kind, at } = value;
  return isOneOf(kind, INJECTIONS) && isCount(at) ? { kind, at } : undefined;
}

function itemOf(value: unknown, file: string, line: number): Item {
  const bad = (what: string): never => {
    throw new UsageError(`${file}:${line}: ${what}`);
  };
  if (!isRecord(value)) return bad("an item is an object");
  const { slot, action, args, inject, fail } = value;
  if (!isCount(slot) || typeof action !== "string") return bad("an item has a slot and an action");
  if (!Array.isArray(args) || !args.every((arg) => typeof arg === "number")) return bad("args is a list of numbers");
  const numbers: readonly number[] = args;
  let injected: readonly Injected[] | undefined;
  if (inject !== undefined) {
    if (!Array.isArray(inject)) return bad("inject is a list");
    injected = inject.map((one) => injectedOf(one) ?? bad(`an injection has a kind (${INJECTIONS.join(", ")}) and a step`));
  }
  if (fail !== undefined && !isCount(fail)) return bad("fail is a whole number");
  return { slot, action, args: numbers, ...(injected === undefined ? {} : { inject: injected }), ...(fail === undefined ? {} : { fail }) };
}
