// Configurations from files and flags: a checked configuration, or one line that says where the mistake is and what is accepted there.
import { CPU_MODELS, type Feature, UsageError } from "../../hardware/index.ts";
import { ASI_OPTIONS, PRESETS, type Preset } from "../../kernel/index.ts";
import { PROPERTY_NAMES, type PropertyName } from "../properties/index.ts";
import { type Path, YamlFile } from "../yaml-file.ts";
import { MAX_CPUS, MAX_VCPUS, MAX_VMS } from "./call-arguments.ts";
import { type Configuration, LIMITS, withoutFeatures } from "./configuration.ts";
import { checkSchema } from "./configuration-schema.ts";
import { INJECTION_KINDS, type InjectionKind } from "./injection.ts";
import { CONFIGURATION_NAMES, CONFIGURATIONS } from "./named-configurations.ts";
import { isVmOperation, OPERATIONS } from "./operations.ts";

/** The file as its schema describes it. */
export interface RawConfiguration {
  readonly base?: string;
  readonly name?: string;
  readonly cpu?: string;
  readonly without?: readonly Feature[];
  readonly preset?: Preset;
  readonly cmdline?: string;
  readonly options?: Readonly<Record<string, boolean>>;
  readonly cpus?: number;
  readonly processes?: number;
  readonly vms?: number;
  readonly vcpus?: number;
  readonly operations?: readonly string[];
  readonly injections?: readonly InjectionKind[];
  readonly "injections-per-event"?: number;
  readonly switches?: number;
  readonly failures?: number;
  readonly depth?: number;
  readonly "search-memory"?: number;
  readonly memory?: number;
  readonly workers?: number;
  readonly properties?: readonly PropertyName[];
}

/** Throws the one line about `key`. */
type Refuse = (key: keyof RawConfiguration, message: string) => never;

export function namedConfiguration(name: string): Configuration {
  const found = CONFIGURATIONS.get(name);
  if (found === undefined) throw new UsageError(`no configuration ${name}; accepted: ${CONFIGURATION_NAMES.join(", ")}`);
  return found;
}

/** Parses and checks a file. `file` is its name for messages. UsageError: `FILE:LINE: where: what is accepted`. */
export function parseConfiguration(text: string, file: string): Configuration {
  const yaml = new YamlFile(file, text, checkSchema);
  return configurationIn(yaml, yaml.value<RawConfiguration>(), [], file);
}

/** The configuration that stands at `place` of a file and was checked against its schema. `name`: when it gives none. */
export function configurationIn(yaml: YamlFile, raw: RawConfiguration, place: Path, name: string): Configuration {
  const path = (key: string): Path => (key in raw ? [...place, key] : place);
  const base = namedConfiguration(raw.base ?? "standard");
  return checked({ ...changed(base, raw), name: raw.name ?? name }, (key, message) => yaml.refuse(path(key), message));
}

/** All of a configuration as a file has it, so that reading it gives the same whatever the named ones become. */
export function rawConfiguration(configuration: Configuration): RawConfiguration {
  const { name, model, preset, commandLine, options, cpus, processes, vms, vcpus, operations, injections, depth } = configuration;
  const whole = CPU_MODELS.find(({ key }) => key === model.key) ?? model;
  return {
    name,
    cpu: model.key,
    without: whole.features.filter((feature) => !model.features.includes(feature)),
    preset,
    cmdline: commandLine,
    options,
    cpus,
    processes,
    vms,
    vcpus,
    operations,
    injections,
    "injections-per-event": configuration.injectionsPerEvent,
    switches: configuration.switches,
    failures: configuration.failures,
    depth,
    "search-memory": configuration.searchMegabytes,
    memory: configuration.memoryMegabytes,
    workers: configuration.workers,
    properties: configuration.properties,
  };
}

function changed(base: Configuration, raw: RawConfiguration): Configuration {
  const found = CPU_MODELS.find(({ key }) => key === raw.cpu);
  return {
    ...base,
    ...(raw.name === undefined ? {} : { name: raw.name }),
    model: withoutFeatures(found ?? base.model, raw.without ?? []),
    preset: raw.preset ?? base.preset,
    commandLine: raw.cmdline ?? base.commandLine,
    options: { ...base.options, ...raw.options },
    cpus: raw.cpus ?? base.cpus,
    processes: raw.processes ?? base.processes,
    vms: raw.vms ?? base.vms,
    vcpus: raw.vcpus ?? base.vcpus,
    operations: raw.operations ?? base.operations,
    injections: raw.injections ?? base.injections,
    injectionsPerEvent: raw["injections-per-event"] ?? base.injectionsPerEvent,
    switches: raw.switches ?? base.switches,
    failures: raw.failures ?? base.failures,
    depth: raw.depth ?? base.depth,
    searchMegabytes: raw["search-memory"] ?? base.searchMegabytes,
    memoryMegabytes: raw.memory ?? base.memoryMegabytes,
    workers: raw.workers ?? base.workers,
    properties: raw.properties ?? base.properties,
  };
}

/** What no schema can say: that the parts go together. */
function checked(configuration: Configuration, refuse: Refuse): Configuration {
  const { model, vms, operations, injections, failures, switches, cpus, commandLine } = configuration;
  const vmOperation = operations.find(isVmOperation);
  if (model.vendor !== "GenuineIntel" && vmOperation !== undefined) {
    refuse("operations", `"${vmOperation}" needs VMX; with ${model.name}, which has SVM, only operations of processes are accepted`);
  }
  if (vmOperation !== undefined && !model.features.includes("VMX")) refuse("operations", `"${vmOperation}" needs VMX, which the CPU lacks`);
  if (vmOperation !== undefined && vms === 0) refuse("operations", `"${vmOperation}" needs at least one of "vms"`);
  if (vmOperation !== undefined && /\bfred=on\b/.test(commandLine)) refuse("operations", `"${vmOperation}" is not there with fred=on`);
  if (injections.includes("failure") !== failures > 0) {
    refuse("failures", 'a number above 0 is accepted exactly when "failure" is among the injections');
  }
  if (injections.includes("switch") && switches === 0)
    refuse("switches", 'with "switch" among the injections, a number above 0 is accepted');
  const isIntel = model.vendor === "GenuineIntel";
  if (!isIntel && operations.includes("getppid by SYSENTER")) refuse("operations", "SYSENTER is used on Intel's CPUs only");
  if (isIntel && operations.includes("getppid by SYSCALL of 32-bit code")) {
    refuse("operations", "SYSCALL of 32-bit code is undefined on Intel's CPUs");
  }
  const alone = operations.find((name) => NEED_TWO_CPUS.has(name));
  if (alone !== undefined && cpus < 2) refuse("operations", `"${alone}" needs two CPUs or more`);
  return configuration;
}

/** What can never happen on one CPU. */
const NEED_TWO_CPUS: ReadonlySet<string> = new Set(["sched_setaffinity"]);

const LISTS = { operations: OPERATIONS, injections: INJECTION_KINDS, properties: PROPERTY_NAMES } as const;
const NUMBERS: Readonly<Record<string, { readonly min: number; readonly max: number }>> = {
  cpus: { min: 1, max: MAX_CPUS },
  processes: LIMITS.processes,
  vms: { min: 0, max: MAX_VMS },
  vcpus: { min: 1, max: MAX_VCPUS },
  "injections-per-event": LIMITS.injectionsPerEvent,
  switches: LIMITS.switches,
  failures: LIMITS.failures,
  depth: LIMITS.depth,
  "search-memory": LIMITS.searchMegabytes,
  memory: LIMITS.memoryMegabytes,
  workers: LIMITS.workers,
};

/** Flags of the command that change a configuration: `--cpus 2`, `--operations "getppid,sched_yield"`. All take a value. */
export const CONFIGURATION_FLAGS: readonly string[] = [
  "cpu",
  "preset",
  "cmdline",
  "options",
  ...Object.keys(LISTS),
  ...Object.keys(NUMBERS),
];

function oneOf<T extends string>(flag: string, value: string, accepted: readonly T[]): T {
  const found = accepted.find((one) => one === value);
  if (found === undefined) throw new UsageError(`--${flag} ${value}: one of ${accepted.join(", ")} is accepted`);
  return found;
}

function listOf<T extends string>(flag: string, text: string, accepted: readonly T[]): readonly T[] {
  const values = text.split(",").map((value) => value.trim());
  return values.filter((value) => value !== "").map((value) => oneOf(flag, value, accepted));
}

/** `name=on,name=off`. */
function optionsOf(text: string): Readonly<Record<string, boolean>> {
  const names = ASI_OPTIONS.map(({ name }) => name);
  return Object.fromEntries(
    text.split(",").map((part) => {
      const [name = "", value = ""] = part.trim().split("=");
      return [oneOf("options", name, names), oneOf("options", value, ["on", "off"]) === "on"];
    }),
  );
}

/** `base` with what the flags change. `flag`: the value of one, undefined: not given. UsageError names the flag and what is accepted. */
export function withFlags(base: Configuration, flag: (name: string) => string | undefined): Configuration {
  const numbers: Record<string, number> = {};
  for (const [name, { min, max }] of Object.entries(NUMBERS)) {
    const text = flag(name);
    if (text === undefined) continue;
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= min && value <= max)) throw new UsageError(`--${name} ${text}: a whole number from ${min} to ${max} is accepted`);
    numbers[name] = value;
  }
  const given = <T>(name: string, parse: (text: string) => T): Readonly<Record<string, T>> => {
    const text = flag(name);
    return text === undefined ? {} : { [name]: parse(text) };
  };
  const raw: RawConfiguration = {
    ...numbers,
    ...given("cpu", (text) =>
      oneOf(
        "cpu",
        text,
        CPU_MODELS.map(({ key }) => key),
      ),
    ),
    ...given("preset", (text) => oneOf("preset", text, PRESETS)),
    ...given("cmdline", (text) => text),
    ...given("options", optionsOf),
    ...given("operations", (text) => listOf("operations", text, OPERATIONS)),
    ...given("injections", (text) => listOf("injections", text, INJECTION_KINDS)),
    ...given("properties", (text) => listOf("properties", text, PROPERTY_NAMES)),
  };
  return checked(changed(base, raw), (key, message) => {
    throw new UsageError(`--${key}: ${message}`);
  });
}
