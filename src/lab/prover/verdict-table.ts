// Many verdicts beside each other: each option beyond the posted series, alone and together, and each configuration under the posted series
// and under the default; what is violated, with its shortest story.
import { ASI_OPTIONS } from "../../kernel/index.ts";
import type { Configuration } from "./configuration.ts";
import { decodeInjection, decodeStart, type EventCode } from "./event-code.ts";
import { INJECTION_KINDS } from "./injection.ts";
import { CONFIGURATIONS, namedOf } from "./named-configurations.ts";
import { operationNames } from "./operations.ts";
import { prove, type Verdict } from "./prove.ts";

/** What is varied: a preset, or options on top of one. */
export interface Subject {
  readonly name: string;
  readonly preset: Configuration["preset"];
  readonly options: Configuration["options"];
}

/** Each option the other way round than the default has it, then those that change what another one relies on, then the presets. */
export const OPTION_SUBJECTS: readonly Subject[] = [
  ...ASI_OPTIONS.map(({ name, isOnByDefault }): Subject => {
    const isOn = !isOnByDefault.cordon;
    return { name: `cordon.${name}=${isOn ? "on" : "off"}`, preset: "cordon", options: { [name]: isOn } };
  }),
  combined({ exit_after_run: false, domain_per_vm: true }),
  combined({ exit_after_run: false, noflush: true }),
  combined({ switch_restricted: true, noflush: true }),
  combined({ switch_restricted: true, rsb_taint: true }),
  combined({ protect_user_data: false, flush_taints: true }),
  { name: "preset cordon-fast", preset: "cordon-fast", options: {} },
  { name: "preset cordon", preset: "cordon", options: {} },
];

export const PRESET_SUBJECTS: readonly Subject[] = [
  { name: "preset rfc-v2", preset: "rfc-v2", options: {} },
  { name: "preset cordon", preset: "cordon", options: {} },
];

/** Where each option is tried. */
export const OPTION_CONFIGURATIONS: readonly string[] = ["small-userspace", "small-kvm"];
/** Where the presets are tried: everywhere but on several CPUs with everything, which takes long. */
export const PRESET_CONFIGURATIONS: readonly string[] = [...CONFIGURATIONS.keys()].filter((name) => name !== "standard");

function combined(options: Configuration["options"]): Subject {
  const name = Object.entries(options).map(([option, isOn]) => `${option}=${isOn ? "on" : "off"}`);
  return { name: name.join(" "), preset: "cordon", options };
}

export interface Cell {
  readonly subject: string;
  readonly configuration: string;
  readonly verdict: Verdict;
}

export interface TableOptions {
  readonly depth: number;
  readonly workers: number;
  readonly progress?: (done: string) => void;
}

/** Judges every subject in every configuration, one of each kind of finding. */
export async function judgeAll(
  subjects: readonly Subject[],
  configurations: readonly string[],
  { depth, workers, progress }: TableOptions,
): Promise<readonly Cell[]> {
  const cells: Cell[] = [];
  for (const name of configurations) {
    const base = namedOf(name);
    for (const { name: subject, preset, options } of subjects) {
      const configuration = { ...base, preset, options: { ...base.options, ...options }, depth, workers };
      const verdict = await prove(configuration, { findsAll: true });
      cells.push({ subject, configuration: name, verdict });
      progress?.(`${name}, ${subject}: ${verdict.outcome}, ${verdict.result.states} states`);
    }
  }
  return cells;
}

/** One event: who does what, and what is injected where. */
function eventText(names: readonly string[], code: EventCode): string {
  const [start = 0, ...injections] = code;
  const { cpu, operation } = decodeStart(start);
  const injected = injections.map((one) => {
    const { at, kind } = decodeInjection(one);
    const name = INJECTION_KINDS[kind] ?? String(kind);
    return name === "failure" ? `allocation ${at} fails` : `${name} before step ${at}`;
  });
  return `cpu ${cpu}: ${names[operation] ?? "?"}${injected.length === 0 ? "" : ` (${injected.join(", ")})`}`;
}

/** The events in their order, a line each. */
export function eventLines(names: readonly string[], path: readonly EventCode[], indent = ""): string {
  return path.map((code, i) => `${indent}${i + 1}. ${eventText(names, code)}\n`).join("");
}

function covered({ result }: Verdict): string {
  return result.end === "closed" ? "all" : `up to ${result.depth} events`;
}

/** The table in Markdown, then the story of each finding. */
export function tableText(cells: readonly Cell[]): string {
  const rows = cells.map(({ subject, configuration, verdict }) => {
    const { outcome, why, result } = verdict;
    const properties = [...new Set(result.found.map(({ finding }) => finding.signature.split(" ")[0] ?? ""))].sort();
    const said = outcome === "refuted" ? `refuted: ${properties.join(", ")}` : why === "" ? outcome : `${outcome}: ${why}`;
    return `| ${configuration} | ${subject} | ${said} | ${covered(verdict)} | ${result.states} | ${result.executions} |`;
  });
  const stories = cells.flatMap(({ subject, configuration, verdict }) =>
    verdict.result.found.map(({ path, finding }) => {
      const names = operationNames(verdict.configuration);
      return `**${configuration}, ${subject}.** ${finding.message}\n\n${eventLines(names, path)}`;
    }),
  );
  const head = "| configuration | what | verdict | covered | states | executions |\n|---|---|---|---|---|---|";
  return `${head}\n${rows.join("\n")}\n${stories.length === 0 ? "" : `\n${stories.join("\n")}`}`;
}
