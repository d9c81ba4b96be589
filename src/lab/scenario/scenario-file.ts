// Reading a scenario: YAML to a checked value, or one line that names the file, the line and what is accepted there.
import { CPU_MODELS, type CpuModel, DEFAULT_CPU_MODEL, findCpuModel } from "../../hardware/index.ts";
import type { Preset } from "../../kernel/index.ts";
import type { Gear } from "../../machine/index.ts";
import { type Path, YamlFile } from "../yaml-file.ts";
import { scenarioSchema } from "./scenario-schema.ts";

/** A program: a file of the host, or one of the RAM file system. */
export interface ScenarioProgram {
  readonly name: string;
  /** Path of a host file, as written in the scenario. */
  readonly file: string | undefined;
  /** Absolute path in the RAM file system. */
  readonly path: string | undefined;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** undefined: wherever the scheduler puts it. */
  readonly cpu: number | undefined;
}

export interface ScenarioGuest {
  readonly name: string;
  readonly image: string;
  readonly memoryBytes: number;
  readonly append: string;
  readonly cpu: number;
}

export interface Scenario {
  readonly model: CpuModel;
  readonly cpus: number;
  /** Host RAM beyond what the kernel and the guests want. */
  readonly memoryBytes: number | undefined;
  readonly commandLine: string;
  readonly preset: Preset;
  readonly gear: Gear;
  readonly limit: number;
  readonly check: boolean;
  readonly root: string | undefined;
  readonly programs: readonly ScenarioProgram[];
  readonly guests: readonly ScenarioGuest[];
}

/** The file as its schema describes it. */
interface RawScenario {
  readonly cpu?: string;
  readonly cpus?: number;
  readonly memory?: string;
  readonly cmdline?: string;
  readonly preset?: Preset;
  readonly gear?: Gear;
  readonly limit?: number;
  readonly check?: boolean;
  readonly root?: string;
  readonly programs?: readonly {
    readonly name: string;
    readonly file?: string;
    readonly path?: string;
    readonly args?: readonly string[];
    readonly env?: Readonly<Record<string, string>>;
    readonly cpu?: number;
  }[];
  readonly guests?: readonly {
    readonly name: string;
    readonly image: string;
    readonly memory?: string;
    readonly append?: string;
    readonly cpu?: number;
  }[];
}

const MIB = 2 ** 20;
const UNITS: Readonly<Record<string, number>> = { K: 2 ** 10, M: MIB, G: 2 ** 30 };
const DEFAULT_GUEST_BYTES = 16 * MIB;
const GUEST_BYTES = { min: 2 * MIB, max: 1024 * MIB };
const HOST_BYTES = { min: 64 * MIB, max: 8192 * MIB };
const DEFAULT_LIMIT = 20_000_000_000;
type Range = { readonly min: number; readonly max: number };

function sizeOf(file: YamlFile, path: Path, text: string | undefined, otherwise: number, range: Range): number {
  if (text === undefined) return otherwise;
  const bytes = Number.parseInt(text, 10) * (UNITS[text.slice(-1)] ?? 1);
  if (bytes < range.min || bytes > range.max)
    file.refuse(path, `${text}: a size from ${range.min / MIB}M to ${range.max / MIB}M is accepted`);
  return bytes;
}

/** Parses and checks a scenario. `file` is its name for messages. UsageError: `FILE:LINE: where: what is accepted`. */
export function parseScenario(text: string, file: string): Scenario {
  const reader = new YamlFile(file, text, scenarioSchema);
  return checked(reader.value<RawScenario>(), reader);
}

/** What no schema can say: that names differ, that CPUs are there, that each program has one source. */
function checked(raw: RawScenario, reader: YamlFile): Scenario {
  const cpus = raw.cpus ?? 1;
  const names = new Set<string>();
  const common = (path: Path, entry: { readonly name: string; readonly cpu?: number }): number => {
    if (names.has(entry.name)) reader.refuse([...path, "name"], `the name ${entry.name} is taken; each needs its own`);
    names.add(entry.name);
    const cpu = entry.cpu ?? 0;
    if (cpu >= cpus) reader.refuse([...path, "cpu"], `CPU ${cpu} is not there; 0 to ${cpus - 1} are (cpus: ${cpus})`);
    return cpu;
  };
  const programs = (raw.programs ?? []).map((entry, i): ScenarioProgram => {
    const path = ["programs", i];
    common(path, entry);
    if ((entry.file === undefined) === (entry.path === undefined)) reader.refuse(path, 'exactly one of "file" and "path" is accepted');
    if (entry.path !== undefined && raw.root === undefined) reader.refuse([...path, "path"], '"path" needs a "root" folder at the top');
    return { name: entry.name, file: entry.file, path: entry.path, args: entry.args ?? [], env: entry.env ?? {}, cpu: entry.cpu };
  });
  const guests = (raw.guests ?? []).map((entry, i): ScenarioGuest => {
    const path = ["guests", i];
    const cpu = common(path, entry);
    const memoryBytes = sizeOf(reader, [...path, "memory"], entry.memory, DEFAULT_GUEST_BYTES, GUEST_BYTES);
    return { name: entry.name, image: entry.image, memoryBytes, append: entry.append ?? "", cpu };
  });
  if (programs.length + guests.length === 0)
    reader.refuse([], 'nothing to run: "programs" or "guests" is accepted with at least one entry');
  return {
    model: findCpuModel(raw.cpu ?? DEFAULT_CPU_MODEL.key) ?? CPU_MODELS[0] ?? DEFAULT_CPU_MODEL,
    cpus,
    memoryBytes: raw.memory === undefined ? undefined : sizeOf(reader, ["memory"], raw.memory, 0, HOST_BYTES),
    commandLine: raw.cmdline ?? "asi=on",
    preset: raw.preset ?? "cordon",
    gear: raw.gear ?? "architectural",
    limit: raw.limit ?? DEFAULT_LIMIT,
    check: raw.check ?? false,
    root: raw.root,
    programs,
    guests,
  };
}
