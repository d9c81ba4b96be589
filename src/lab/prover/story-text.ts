// Stories as text for people, at most 100 columns wide.
import { type CpuWords, STRUCTURES } from "./cpu-words.ts";
import type { Happening, Story, StoryEnd, StoryEvent } from "./story.ts";

const WIDTH = 100;
const STEP_COLUMN = 8;

/** Breaks a line at spaces; what goes on is indented by `indent`. */
function wrap(line: string, indent: number): readonly string[] {
  const lines: string[] = [];
  let rest = line;
  while (rest.length > WIDTH) {
    const cut = rest.lastIndexOf(" ", WIDTH);
    if (cut <= indent) break;
    lines.push(rest.slice(0, cut));
    rest = " ".repeat(indent) + rest.slice(cut + 1);
  }
  return [...lines, rest];
}

/** What there is to say of a CPU, by what it is about. */
function facts(words: CpuWords): ReadonlyMap<string, string> {
  const nested = words.nested === 0 ? "" : `, ${words.nested} handlers nested`;
  return new Map([
    ["runs", `${words.task}, ${words.activity}${nested}`],
    ["CR3", words.tables],
    ["curr_asi", words.currAsi],
    ["target", words.target],
    ["taints", words.taints.join(", ") || "none"],
    ...STRUCTURES.map((structure): readonly [string, string] => [structure, (words.holds[structure] ?? []).join("; ") || "nothing"]),
  ]);
}

const LABEL_COLUMN = 23;

function cpuLines(words: CpuWords, before: CpuWords | undefined): readonly string[] {
  const old = before === undefined ? undefined : facts(before);
  const rows = [...facts(words)].filter(([about, text]) => old?.get(about) !== text);
  return rows.flatMap(([about, text], i) => {
    const head = i === 0 ? `  cpu ${words.cpu}  ` : " ".repeat(9);
    return wrap(`${head}${about.padEnd(LABEL_COLUMN)}${text}`, LABEL_COLUMN + 9);
  });
}

function stateLines(now: readonly CpuWords[], before: readonly CpuWords[] | undefined): readonly string[] {
  const lines = now.flatMap((words) => cpuLines(words, before?.[words.cpu]));
  return lines.length === 0 ? ["  nothing has changed"] : lines;
}

const MARKS: Readonly<Record<Happening["kind"], string>> = { trace: " ", injection: "!", tables: " ", structure: "*", resumed: " " };

function happeningLines({ step, functions, kind, what }: Happening): readonly string[] {
  const where = functions.length === 0 ? "" : `  [${functions.join(" < ")}]`;
  const line = `${MARKS[kind]} ${String(step).padStart(STEP_COLUMN - 3)} ${what}${where}`;
  if (line.length <= WIDTH) return [line];
  return [...wrap(`${MARKS[kind]} ${String(step).padStart(STEP_COLUMN - 3)} ${what}`, STEP_COLUMN + 2), ...wrapped(where.trim())];
}

function wrapped(where: string): readonly string[] {
  return where === "" ? [] : wrap(" ".repeat(STEP_COLUMN + 2) + where, STEP_COLUMN + 4);
}

function eventLines(event: StoryEvent, before: readonly CpuWords[], isLast: boolean): readonly string[] {
  const { number, cpu, context, operation, happenings, steps, after } = event;
  return [
    "",
    ...wrap(`${number}. cpu ${cpu} (${context}): ${operation}`, 3),
    ...happenings.flatMap(happeningLines),
    isLast ? `  here, after ${steps} steps, what has changed:` : `  afterwards (${steps} steps), what has changed:`,
    ...stateLines(after, before),
  ];
}

function endLines(end: StoryEnd): readonly string[] {
  const name = end.property === "" ? "found" : `${end.property}: ${end.meaning}`;
  const whose = end.owner === "" ? "" : ` of ${end.owner}`;
  const where = end.functions.length === 0 ? "" : ` in ${end.functions.join(" < ")}`;
  const structure = end.structure === "" ? "" : `${end.structure}${whose}: `;
  return ["", ...wrap(name, 2), ...wrap(`  cpu ${end.cpu}, step ${end.step}${where}`, 4), ...wrap(`  ${structure}${end.detail}`, 4)];
}

export function storyText(story: Story): string {
  const { configuration, preset, cpuModel, commandLine, cpus, processes, before, events, end } = story;
  const injections = events.flatMap(({ happenings }) => happenings.filter(({ kind }) => kind === "injection")).length;
  const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`;
  const lines = [
    `counterexample: ${count(events.length, "event")}, ${count(injections, "injection")}`,
    ...wrap(
      `  configuration ${configuration}: preset ${preset}, ${cpuModel}, ${count(cpus, "CPU")}, ${count(processes, "process").replace("processs", "processes")}`,
      4,
    ),
    ...wrap(`  kernel command line: ${commandLine}`, 4),
    "  at each line: step of the event, what happened, [kernel functions, innermost first];",
    "  ! is injected, * changes what a structure of the core may hold",
    "",
    "at the beginning:",
    ...stateLines(before, undefined),
    ...events.flatMap((event, i) => eventLines(event, events[i - 1]?.after ?? before, i === events.length - 1)),
    ...endLines(end),
  ];
  return `${lines.join("\n")}\n`;
}
