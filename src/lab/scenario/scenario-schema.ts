// The shape of a scenario file, as a JSON schema: what `docs/scenario.schema.json` holds, for editors, and what a file is checked against.
// Each `description` is also what an error says is accepted.
import { CPU_MODELS } from "../../hardware/index.ts";
import { PRESETS } from "../../kernel/index.ts";

const SIZE = "^[0-9]+[KMG]?$";
const NAME = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$";
/** Logical CPUs of the host. */
const MAX_CPUS = 8;

const cpu = { type: "integer", minimum: 0, maximum: MAX_CPUS - 1, description: "the CPU it stays on, from 0" };
const name = {
  type: "string",
  pattern: NAME,
  description: "a name of 1 to 15 letters, digits, dots, dashes and underscores",
};

export const scenarioSchema = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  title: "A scenario for `cordon run --scenario` and `cordon map`: programs and guests on one simulated host",
  type: "object",
  additionalProperties: false,
  properties: {
    cpu: { enum: CPU_MODELS.map((model) => model.key), description: "the CPU model" },
    cpus: { type: "integer", minimum: 1, maximum: MAX_CPUS, description: "a whole number of logical CPUs from 1 to 8" },
    memory: { type: "string", pattern: SIZE, description: "memory of the host, a size such as 256M" },
    cmdline: { type: "string", maxLength: 2047, description: "the kernel command line of the host, at most 2047 bytes" },
    preset: { enum: PRESETS, description: "the preset of options" },
    gear: { enum: ["architectural", "detailed"], description: "the gear of the core" },
    limit: { type: "integer", minimum: 1, description: "a whole number of simulated cycles after which everything is stopped" },
    check: { type: "boolean", description: "true or false: evaluate S1 to S10 all the way" },
    root: { type: "string", description: "a folder whose files become the RAM file system, relative to this file" },
    programs: {
      type: "array",
      description: "a list of programs",
      items: {
        type: "object",
        required: ["name"],
        additionalProperties: false,
        properties: {
          name,
          file: { type: "string", minLength: 1, description: "a static ELF program, relative to this file" },
          path: { type: "string", pattern: "^/", description: "a program in the RAM file system, an absolute path" },
          args: { type: "array", items: { type: "string", description: "a text" }, description: "a list of texts" },
          env: { type: "object", additionalProperties: { type: "string", description: "a text" }, description: "names and texts" },
          cpu,
        },
      },
    },
    guests: {
      type: "array",
      description: "a list of guests",
      items: {
        type: "object",
        required: ["name", "image"],
        additionalProperties: false,
        properties: {
          name,
          image: { type: "string", minLength: 1, description: "a static ELF64 guest, relative to this file" },
          memory: { type: "string", pattern: SIZE, description: "memory of the guest, a size from 2M to 1024M" },
          append: { type: "string", maxLength: 2047, description: "the command line of the guest, at most 2047 bytes" },
          cpu,
        },
      },
    },
  },
} as const;
