// A counterexample as a story: its events executed again on a fresh system while everything that happens is written down in the kernel's own
// terms. As data; `story-text.ts` makes text of it.
import { fail, OWNER_NONE } from "../../hardware/index.ts";
import { kernelCallers } from "../../kernel/index.ts";
import type { ResidueCpu } from "../../residue/index.ts";
import { type CpuTruth, PROPERTIES, type Violation } from "../properties/index.ts";
import { type Configuration, kernelCommandLine } from "./configuration.ts";
import { type CpuWords, cpuWords, heldWords, STRUCTURES } from "./cpu-words.ts";
import { decodeInjection, decodeStart, type EventCode } from "./event-code.ts";
import { EventExplorer } from "./event-explorer.ts";
import type { Finding } from "./explorable.ts";
import { INJECTION_KINDS, type InjectionKind } from "./injection.ts";
import { KernelNames } from "./kernel-names.ts";
import { CONTINUE } from "./operations.ts";
import type { Found } from "./search.ts";
import { PlaceCounts, placeKey, type StepPlace, stepPlace } from "./step-place.ts";
import { System } from "./system.ts";
import { traceWords } from "./trace-words.ts";

export interface Happening {
  /** Steps of the event before it. */
  readonly step: number;
  /** Kernel functions that ran, innermost first; or "user code", "guest code". */
  readonly functions: readonly string[];
  readonly kind: "trace" | "injection" | "tables" | "structure" | "resumed";
  readonly what: string;
  /** Of an injection: where it is in terms that other machines know. */
  readonly place?: InjectedPlace;
}

export interface InjectedPlace extends StepPlace {
  /** Steps of the event before it that were made by the same functions. */
  readonly occurrence: number;
}

export interface StoryEvent {
  readonly number: number;
  readonly cpu: number;
  /** What the CPU was doing when the event began. */
  readonly context: string;
  readonly operation: string;
  readonly happenings: readonly Happening[];
  /** Kernel steps that were executed. */
  readonly steps: number;
  /** Every CPU afterwards; of the last event, where it was stopped. */
  readonly after: readonly CpuWords[];
}

export interface StoryEnd {
  readonly signature: string;
  readonly message: string;
  /** Empty for what no property names: a warning, a kernel that stops. */
  readonly property: string;
  readonly meaning: string;
  readonly cpu: number;
  readonly step: number;
  readonly functions: readonly string[];
  readonly structure: string;
  readonly owner: string;
  readonly detail: string;
}

/** The format of `--json`, described in this folder's README. */
export interface Story {
  readonly format: "cordon-story-1";
  readonly configuration: string;
  readonly preset: string;
  readonly cpuModel: string;
  readonly commandLine: string;
  readonly cpus: number;
  readonly processes: number;
  /** Every CPU before the first event. */
  readonly before: readonly CpuWords[];
  readonly events: readonly StoryEvent[];
  readonly end: StoryEnd;
}

const INJECTED: Readonly<Record<InjectionKind, string>> = {
  nmi: "an NMI arrives",
  "nmi sensitive": "an NMI arrives; its handler reads sensitive memory",
  irq: "an interrupt arrives",
  "irq sensitive": "an interrupt arrives; its handler reads sensitive memory",
  timer: "the timer fires",
  "machine check": "a machine check arrives",
  switch: "the path is suspended here: other CPUs may have their turn",
  failure: "",
};

/** Functions of a place that are told. */
const FUNCTIONS = 3;
const USER_CODE: readonly string[] = ["user code"];
const GUEST_CODE: readonly string[] = ["guest code"];

function nth(n: number): string {
  const ending = n % 100 > 10 && n % 100 < 14 ? "th" : (["th", "st", "nd", "rd"][n % 10] ?? "th");
  return `${n}${ending}`;
}

/** Executes events and writes down what happens. */
export class StoryTeller {
  readonly system: System;
  readonly explorer: EventExplorer;
  readonly names: KernelNames;
  /** In words, or empty. */
  readonly foundInSetUp: string;
  private readonly looked: ((cpu: ResidueCpu) => void) | undefined;
  private happenings: Happening[] = [];
  private step = 0;
  private place: readonly string[] = [];
  private injections: readonly { readonly at: number; readonly kind: number }[] = [];
  private isResumed = false;
  private counts = new PlaceCounts();
  /** Where the finding was noticed first. */
  private noticed: { readonly step: number; readonly functions: readonly string[] } | undefined;
  /** Of each CPU: tables and what the structures hold, as last told. */
  private readonly tables: string[] = [];
  private readonly held: Map<string, readonly string[]>[] = [];

  constructor(configuration: Configuration) {
    this.system = new System(configuration);
    this.explorer = new EventExplorer(this.system, configuration);
    const { check } = this.system;
    this.foundInSetUp = this.explorer.foundBefore[0] ?? "";
    // What was found while the processes set up what they need is judged anew by the first event.
    this.explorer.rewind(this.explorer.mark());
    this.names = new KernelNames(check.checker.view, check.truth.cpus);
    this.looked = check.onStep;
    check.onStep = (cpu) => this.beforeStep(cpu);
    check.onEntry = (cpu, kind) => this.beforeEntry(cpu, kind);
    this.system.onTrace = (event, a, b, c) => this.tell("trace", traceWords(this.names, event, a, b, c), kernelCallers(FUNCTIONS));
  }

  /** Every CPU now. */
  state(): readonly CpuWords[] {
    const { check, machine } = this.system;
    return machine.cpus.map((cpu) => cpuWords(check.checker.view, this.names, check.truthOf(cpu.id), activityOf(cpu)));
  }

  run(code: EventCode, number: number): { readonly event: StoryEvent; readonly finding: Finding | undefined } {
    const { system } = this;
    const { cpu: index, operation } = decodeStart(code[0] ?? fail("an event without a start"));
    const name = system.names[operation] ?? fail(`no operation ${operation}`);
    const cpu = this.state()[index] ?? fail(`no cpu ${index}`);
    this.happenings = [];
    this.step = 0;
    this.place = [];
    this.counts = new PlaceCounts();
    this.injections = code.slice(1).map(decodeInjection);
    this.isResumed = name === CONTINUE;
    for (const truth of system.check.truth.cpus) this.look(truth, true);
    for (const { at, kind } of this.injections)
      if (INJECTION_KINDS[kind] === "failure") this.tell("injection", `the ${nth(at)} attempt to allocate memory will fail`, []);
    const finding = this.explorer.run(code);
    this.look(system.check.truthOf(index), false);
    const event = {
      number,
      cpu: index,
      context: `${cpu.task}, ${cpu.activity}`,
      operation: name,
      happenings: this.happenings,
      steps: this.step,
      after: this.state(),
    };
    return { event, finding };
  }

  /** How it ended. `cpu`: of the last event. */
  end(finding: Finding, cpu: number, violation: Violation | undefined): StoryEnd {
    const label = violation?.label ?? OWNER_NONE;
    const owner = label === OWNER_NONE ? (violation?.owner ?? "") : this.names.owner(label);
    const { step, functions } = this.noticed ?? { step: this.step, functions: this.place };
    return {
      signature: finding.signature,
      message: finding.message,
      property: violation?.property ?? "",
      meaning: violation === undefined ? "" : PROPERTIES[violation.property],
      cpu: violation?.cpu ?? cpu,
      step,
      functions,
      structure: violation?.structure ?? "",
      owner,
      detail: violation?.detail ?? finding.message,
    };
  }

  private tell(kind: Happening["kind"], what: string, functions: readonly string[]): void {
    this.happenings.push({ step: this.step, functions, kind, what });
  }

  private beforeStep(cpu: ResidueCpu): void {
    this.look(this.system.check.truthOf(cpu.id), false);
    this.place = running(cpu);
    if (this.isResumed) this.tell("resumed", "goes on", this.place);
    this.isResumed = false;
    this.notice();
    if (this.injections.length > 0) this.tellInjections();
    // Its own hook counts the step and may stop the event by an exception.
    this.looked?.(cpu);
    this.step++;
  }

  private tellInjections(): void {
    const place = stepPlace();
    const occurrence = place.isInStub ? 0 : this.counts.next(placeKey(place));
    for (const { at, kind } of this.injections) {
      const name = INJECTION_KINDS[kind] ?? fail(`no injection ${kind}`);
      if (at !== this.step || name === "failure") continue;
      this.happenings.push({
        step: this.step,
        functions: this.place,
        kind: "injection",
        what: INJECTED[name],
        place: { ...place, occurrence },
      });
    }
  }

  private beforeEntry(cpu: ResidueCpu, kind: "user" | "guest"): void {
    this.look(this.system.check.truthOf(cpu.id), false);
    this.place = kind === "user" ? USER_CODE : GUEST_CODE;
    this.notice();
  }

  private notice(): void {
    if (this.noticed !== undefined || this.system.check.checker.violations.length === 0) return;
    this.noticed = { step: this.step, functions: this.place };
  }

  /** Tells what the last step changed of tables and structures. `isSilent`: only remembers it. */
  private look(cpu: CpuTruth, isSilent: boolean): void {
    const tables = this.names.tables(cpu);
    const before = this.tables[cpu.id];
    if (before !== tables && !isSilent) this.tell("tables", `CR3: ${before ?? "?"} -> ${tables}`, this.place);
    this.tables[cpu.id] = tables;
    let held = this.held[cpu.id];
    if (held === undefined) {
      held = new Map();
      this.held[cpu.id] = held;
    }
    for (const structure of STRUCTURES) {
      const now = heldWords(this.names, cpu, structure);
      const old = held.get(structure) ?? [];
      held.set(structure, now);
      if (isSilent) continue;
      const gained = now.filter((whose) => !old.includes(whose));
      const lost = old.filter((whose) => !now.includes(whose));
      if (gained.length > 0) this.tell("structure", `${structure}: now also ${gained.join(", ")}`, this.place);
      if (lost.length > 0) this.tell("structure", `${structure}: rid of ${lost.join(", ")}`, this.place);
    }
  }
}

/** At the first steps of an event only its entry stub runs. */
function running(cpu: ResidueCpu): readonly string[] {
  const functions = kernelCallers(FUNCTIONS);
  return functions.length > 0 ? functions : [cpu.path.stub?.symbol ?? "entry code"];
}

function activityOf(cpu: ResidueCpu): string {
  const { state } = cpu;
  if (state.activity === "parked") return "off";
  if (state.activity === "user") return "user mode";
  if (state.isInGuest) return "guest";
  return state.isHalted ? "halted" : "kernel, suspended";
}

/** Executes `found` on a fresh system of `configuration`. What it finds is told, be it another finding than expected, or none. */
export function tellStory(configuration: Configuration, found: Found): Story {
  const teller = new StoryTeller(configuration);
  const before = teller.state();
  const events: StoryEvent[] = [];
  let finding: Finding | undefined;
  let cpu = 0;
  for (const [i, code] of found.path.entries()) {
    const told = teller.run(code, i + 1);
    events.push(told.event);
    cpu = told.event.cpu;
    finding = told.finding;
    if (finding !== undefined) break;
  }
  const setUp = teller.foundInSetUp === "" ? "" : `, but while the processes set up what they need: ${teller.foundInSetUp}`;
  const nothing: Finding = { signature: "", message: `nothing was found${setUp}` };
  const violation = teller.system.check.checker.violations[0];
  return {
    format: "cordon-story-1",
    configuration: configuration.name,
    preset: configuration.preset,
    cpuModel: configuration.model.name,
    commandLine: kernelCommandLine(configuration),
    cpus: configuration.cpus,
    processes: configuration.processes,
    before,
    events,
    end: teller.end(finding ?? nothing, cpu, violation),
  };
}
