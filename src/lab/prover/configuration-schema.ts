// The shape of a file for `cordon check`, as a JSON schema: what `docs/check.schema.json` holds, for editors, and what a file is checked
// against. Each `description` is also what an error says is accepted.
import { CPU_MODELS } from "../../hardware/index.ts";
import { ASI_OPTIONS, PRESETS } from "../../kernel/index.ts";
import { PROPERTY_NAMES } from "../properties/index.ts";
import { MAX_CPUS, MAX_VCPUS, MAX_VMS } from "./call-arguments.ts";
import { LIMITS, REMOVABLE_FEATURES } from "./configuration.ts";
import { INJECTION_KINDS } from "./injection.ts";
import { CONFIGURATION_NAMES } from "./named-configurations.ts";
import { OPERATIONS } from "./operations.ts";

const number = (what: string, { min, max }: { readonly min: number; readonly max: number }) => ({
  type: "integer",
  minimum: min,
  maximum: max,
  description: `${what}, a whole number from ${min} to ${max}`,
});

const list = (items: readonly string[], what: string) => ({ type: "array", uniqueItems: true, items: { enum: items }, description: what });

export const checkSchema = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  title: "What `cordon check` explores",
  type: "object",
  additionalProperties: false,
  properties: {
    base: { enum: CONFIGURATION_NAMES, description: "the configuration that the rest changes; standard when left out" },
    name: { type: "string", minLength: 1, maxLength: 60, description: "a name for reports, of 1 to 60 characters" },
    cpu: { enum: CPU_MODELS.map(({ key }) => key), description: "the CPU model" },
    without: list(REMOVABLE_FEATURES, "a list of features that the CPU lacks"),
    preset: { enum: PRESETS, description: "the preset of options" },
    cmdline: { type: "string", maxLength: 2047, description: "the kernel command line, at most 2047 bytes" },
    options: {
      type: "object",
      additionalProperties: false,
      properties: Object.fromEntries(
        ASI_OPTIONS.map(({ name, meaning }) => [name, { type: "boolean", description: `true or false: ${meaning}` }]),
      ),
      description: "a mapping of options to true or false",
    },
    cpus: number("logical CPUs", { min: 1, max: MAX_CPUS }),
    processes: number("processes", LIMITS.processes),
    vms: number("virtual machines of each process", { min: 0, max: MAX_VMS }),
    vcpus: number("virtual CPUs of each virtual machine", { min: 1, max: MAX_VCPUS }),
    operations: { ...list(OPERATIONS, "a list of operations"), minItems: 1 },
    injections: list(INJECTION_KINDS, "a list of kinds of injections"),
    "injections-per-event": number("injections in one event", LIMITS.injectionsPerEvent),
    switches: number("suspensions of a path for another CPU in one run", LIMITS.switches),
    failures: number("allocations that fail in one run", LIMITS.failures),
    depth: number("events in one run (0: no bound)", LIMITS.depth),
    "search-memory": number("MiB of memory for the search", LIMITS.searchMegabytes),
    memory: number("MiB of memory of the host", LIMITS.memoryMegabytes),
    workers: number("worker threads", LIMITS.workers),
    properties: { ...list(PROPERTY_NAMES, "a list of properties"), minItems: 1 },
  },
} as const;
