// Reading a command line: node's own parser underneath, and around it one clear line for everything that can be wrong.
import { type ParseArgsConfig, parseArgs } from "node:util";
import { CPU_MODELS, type CpuModel, findCpuModel, UsageError } from "../hardware/index.ts";

/** The options of one command: "string" takes a value, "boolean" none. */
export type OptionTypes = Readonly<Record<string, "string" | "boolean">>;

export interface Arguments {
  readonly positionals: readonly string[];
  text(name: string): string | undefined;
  flag(name: string): boolean;
  /** One of `accepted`; undefined: not given. */
  choice<T extends string>(name: string, accepted: readonly T[]): T | undefined;
}

/** Parses `args`. Unknown options, missing values and surplus positionals raise UsageError naming what is accepted. */
export function readArguments(
  command: string,
  args: readonly string[],
  types: OptionTypes,
  positionals: { min: number; max: number; what: string },
): Arguments {
  const options: NonNullable<ParseArgsConfig["options"]> = {};
  for (const [name, type] of Object.entries(types)) options[name] = { type };
  const accepted = Object.entries(types).map(([name, type]) => (type === "string" ? `--${name} VALUE` : `--${name}`));
  const parsed = parse(command, args, options, accepted);
  if (parsed.positionals.length < positionals.min || parsed.positionals.length > positionals.max) {
    const given = parsed.positionals.length === 0 ? "none given" : `${parsed.positionals.length} given: ${parsed.positionals.join(" ")}`;
    throw new UsageError(`${command}: takes ${positionals.what} (${given})`);
  }
  return {
    positionals: parsed.positionals,
    text: (name) => {
      const value = parsed.values[name];
      return typeof value === "string" ? value : undefined;
    },
    flag: (name) => parsed.values[name] === true,
    choice: (name, accepted) => {
      const value = parsed.values[name];
      if (value === undefined) return undefined;
      const found = accepted.find((one) => one === value);
      if (found === undefined) throw new UsageError(`--${name} ${String(value)}: one of ${accepted.join(", ")} is accepted`);
      return found;
    },
  };
}

function parse(command: string, args: readonly string[], options: NonNullable<ParseArgsConfig["options"]>, accepted: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
  } catch (error) {
    const reason = error instanceof Error ? (error.message.split(". ")[0] ?? error.message).replace(/\.$/, "") : String(error);
    throw new UsageError(`${command}: ${reason.charAt(0).toLowerCase()}${reason.slice(1)}; accepted: ${accepted.join(", ")}`);
  }
}

/** A whole number in a range, or the default. */
export function wholeNumber(option: string, text: string | undefined, otherwise: number, min: number, max: number): number {
  if (text === undefined) return otherwise;
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= min && value <= max)) throw new UsageError(`--${option} ${text}: a whole number from ${min} to ${max} is accepted`);
  return value;
}

const SIZE_UNITS: Readonly<Record<string, number>> = { "": 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** A size such as 64M in bytes, or the default. */
export function sizeInBytes(option: string, text: string | undefined, otherwise: number, min: number, max: number): number {
  if (text === undefined) return otherwise;
  const match = /^(\d+)([KMG]?)$/i.exec(text);
  const value = match === null ? Number.NaN : Number(match[1]) * (SIZE_UNITS[(match[2] ?? "").toUpperCase()] ?? Number.NaN);
  if (!(value >= min && value <= max)) {
    throw new UsageError(`--${option} ${text}: a size from ${min / 2 ** 20}M to ${max / 2 ** 20}M is accepted (units K, M, G)`);
  }
  return value;
}

/** One of a closed set, or the default. */
export function oneOf<T extends string>(option: string, text: string | undefined, otherwise: T, accepted: readonly T[]): T {
  if (text === undefined) return otherwise;
  const found = accepted.find((value) => value === text);
  if (found === undefined) throw new UsageError(`--${option} ${text}: one of ${accepted.join(", ")} is accepted`);
  return found;
}

/** A CPU model by its key, or the default. */
export function cpuModel(text: string | undefined, otherwise: CpuModel): CpuModel {
  if (text === undefined) return otherwise;
  const found = findCpuModel(text);
  if (found === undefined) throw new UsageError(`--cpu ${text}: one of ${CPU_MODELS.map((model) => model.key).join(", ")} is accepted`);
  return found;
}
