// Reading a scenario: YAML to a checked value, or one line that names the file, the line and what is accepted there.
import { Ajv2020, type ErrorObject } from "ajv/dist/2020.js";
import { type Document, isMap, isNode, LineCounter, parseDocument } from "yaml";
import { CPU_MODELS, type CpuModel, DEFAULT_CPU_MODEL, findCpuModel, UsageError } from "../../hardware/index.ts";
import type { Preset } from "../../kernel/index.ts";
import type { Gear } from "../../machine/index.ts";
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
/** Nesting and aliases beyond any scenario: a document that exceeds it is refused, not expanded. */
const MAX_ALIASES = 100;

type Path = readonly (string | number)[];

class ScenarioReader {
  private readonly file: string;
  private readonly document: Document.Parsed;
  private readonly lines: LineCounter;

  constructor(file: string, document: Document.Parsed, lines: LineCounter) {
    this.file = file;
    this.document = document;
    this.lines = lines;
  }

  /** Throws the one line. */
  refuse(path: Path, message: string, atKey?: string): never {
    const place = path.length === 0 ? "" : `${pathText(path)}: `;
    throw new UsageError(`${this.file}:${this.lineOf(path, atKey)}: ${place}${message}`);
  }

  private lineOf(path: Path, atKey: string | undefined): number {
    const node = path.length === 0 ? this.document.contents : this.document.getIn(path, true);
    if (atKey !== undefined && isMap(node)) {
      const pair = node.items.find(({ key }) => isNode(key) && String(key) === atKey);
      if (pair !== undefined && isNode(pair.key) && pair.key.range) return this.lines.linePos(pair.key.range[0]).line;
    }
    if (isNode(node) && node.range) return this.lines.linePos(node.range[0]).line;
    return path.length === 0 ? 1 : this.lineOf(path.slice(0, -1), undefined);
  }

  size(path: Path, text: string | undefined, otherwise: number, range: { readonly min: number; readonly max: number }): number {
    if (text === undefined) return otherwise;
    const bytes = Number.parseInt(text, 10) * (UNITS[text.slice(-1)] ?? 1);
    if (bytes < range.min || bytes > range.max)
      this.refuse(path, `${text}: a size from ${range.min / MIB}M to ${range.max / MIB}M is accepted`);
    return bytes;
  }
}

function pathText(path: Path): string {
  return path.map((part, i) => (typeof part === "number" ? `[${part}]` : i === 0 ? part : `.${part}`)).join("");
}

function accepted(error: ErrorObject): string {
  const schema = error.parentSchema as { readonly description?: string; readonly type?: string } | undefined; // ajv: verbose
  if (error.keyword === "enum") return `one of ${(error.params as { allowedValues: string[] }).allowedValues.join(", ")} is accepted`;
  return `${schema?.description ?? `a value of type ${schema?.type ?? "another kind"}`} is accepted`;
}

function refuseSchemaError(reader: ScenarioReader, error: ErrorObject): never {
  const path = error.instancePath
    .split("/")
    .slice(1)
    .map((part) => (/^\d+$/.test(part) ? Number(part) : part.replace(/~1/g, "/").replace(/~0/g, "~")));
  if (error.keyword === "additionalProperties") {
    const key = (error.params as { additionalProperty: string }).additionalProperty;
    const known = Object.keys((error.parentSchema as { properties?: object } | undefined)?.properties ?? {});
    reader.refuse(path, `unknown key "${key}"; accepted: ${known.join(", ")}`, key);
  }
  if (error.keyword === "required") {
    reader.refuse(path, `the key "${(error.params as { missingProperty: string }).missingProperty}" is missing`);
  }
  if (path.length === 0) reader.refuse(path, `a mapping is accepted, with ${Object.keys(scenarioSchema.properties).join(", ")}`);
  reader.refuse(path, accepted(error));
}

/** Parses and checks a scenario. `file` is its name for messages. UsageError: `FILE:LINE: where: what is accepted`. */
export function parseScenario(text: string, file: string): Scenario {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const [problem] = document.errors;
  if (problem !== undefined) throw new UsageError(`${file}:${lines.linePos(problem.pos[0]).line}: ${problem.message.split("\n")[0]}`);
  const reader = new ScenarioReader(file, document, lines);
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: MAX_ALIASES });
  } catch (error) {
    reader.refuse([], error instanceof Error ? error.message : String(error));
  }
  const validate = new Ajv2020({ allErrors: false, verbose: true }).compile<RawScenario>(scenarioSchema);
  if (!validate(value)) {
    const error = validate.errors?.[0];
    if (error !== undefined) refuseSchemaError(reader, error);
    throw new UsageError(`${file}: not a scenario`);
  }
  return checked(value, reader);
}

/** What no schema can say: that names differ, that CPUs are there, that each program has one source. */
function checked(raw: RawScenario, reader: ScenarioReader): Scenario {
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
    const memoryBytes = reader.size([...path, "memory"], entry.memory, DEFAULT_GUEST_BYTES, GUEST_BYTES);
    return { name: entry.name, image: entry.image, memoryBytes, append: entry.append ?? "", cpu };
  });
  if (programs.length + guests.length === 0)
    reader.refuse([], 'nothing to run: "programs" or "guests" is accepted with at least one entry');
  return {
    model: findCpuModel(raw.cpu ?? DEFAULT_CPU_MODEL.key) ?? CPU_MODELS[0] ?? DEFAULT_CPU_MODEL,
    cpus,
    memoryBytes: raw.memory === undefined ? undefined : reader.size(["memory"], raw.memory, 0, HOST_BYTES),
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
