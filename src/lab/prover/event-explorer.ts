// One state's events in every way that the bounds allow: an event runs once undisturbed, then with an injection before each step where one could
// make a difference, then with a second one behind it, and so on.
import { fail, InvariantError, RFLAGS_IF } from "../../hardware/index.ts";
import type { Mark, ResidueCpu } from "../../residue/index.ts";
import { describeViolation, type Violation } from "../properties/index.ts";
import { signatureOf } from "../signature.ts";
import { raiseInterrupt, raiseMachineCheck } from "./deliveries.ts";
import { decodeInjection, decodeStart, type EventCode, encodeInjection, encodeStart } from "./event-code.ts";
import type { Explorable, Finding, Visitor } from "./explorable.ts";
import { Footprint, type Learnt } from "./footprint.ts";
import { INJECTION_KINDS, type InjectionKind } from "./injection.ts";
import type { EventChoice, System } from "./system.ts";
import { Visited } from "./visited.ts";

export interface Bounds {
  readonly injections: readonly InjectionKind[];
  /** Injections into one event. */
  readonly injectionsPerEvent: number;
  /** Suspensions of a path for another CPU's turn, in a whole run. */
  readonly switches: number;
  /** Allocations that fail, in a whole run. */
  readonly failures: number;
}

/** Everything beside the machine that goes back with it. */
interface Place {
  readonly machine: Mark;
  readonly checker: number;
  readonly switches: number;
  readonly failures: number;
}

/** Spreads small numbers over 32 bits. */
const SPREAD = 0x9e3779b1;
const FAILURES_SHIFT = 8;
const SWITCH = INJECTION_KINDS.indexOf("switch");
const FAILURE = INJECTION_KINDS.indexOf("failure");

/** A step before which something could be injected. */
interface Position {
  readonly place: number;
  readonly step: number;
  kinds: readonly number[];
}

function findingOf(violation: Violation): Finding {
  const { property, structure, owner, detail } = violation;
  return { signature: `${property} ${signatureOf(`${structure} ${owner} ${detail}`)}`, message: describeViolation(violation) };
}

export class EventExplorer implements Explorable {
  readonly system: System;
  private readonly bounds: Bounds;
  private readonly kinds: readonly number[];
  private readonly places: Place[] = [];
  private switches = 0;
  private failures = 0;
  // What came of the execution; and whether one since the last choice of an allocation made it fail.
  private isKnown = false;
  private hasFailed = false;
  // The execution under way: injections that are still to come, the present step of its CPU, and where more could be injected.
  private injections: readonly number[] = [];
  private next = 0;
  private step = 0;
  private positions: Position[] | undefined;
  /** States in the middle of the present event, by how many injections led to them. */
  private readonly seen: readonly Visited[];
  private used = 0;
  /** False while an event is only executed again. */
  private isExploring = false;
  /** Of the handler that was injected last: how deep the path was before it. */
  private handlerDepth = Number.POSITIVE_INFINITY;
  private readonly footprint: Footprint;
  /** What was violated while the processes set up, before anything is explored: the first of each signature. */
  readonly foundBefore: readonly string[];
  private readonly isReduced: boolean;
  private readonly root: number;

  /** `learnt`: what earlier searches learnt of footprints; undefined: nothing is left out. */
  constructor(system: System, bounds: Bounds, learnt?: Learnt) {
    this.footprint = new Footprint(system.machine);
    this.footprint.give(learnt ?? []);
    this.isReduced = learnt !== undefined;
    this.system = system;
    this.bounds = bounds;
    // Which allocations fail is chosen at the beginning of an event; suspensions have a bound of their own.
    const delivered = bounds.injections.filter((kind) => kind !== "failure" && kind !== "switch");
    this.kinds = [...delivered, ...(bounds.switches > 0 ? (["switch"] as const) : [])].map((kind) => INJECTION_KINDS.indexOf(kind));
    this.seen = Array.from({ length: bounds.injectionsPerEvent + 1 }, () => new Visited());
    const { violations } = system.check.checker;
    const before = violations.toReversed().map(findingOf);
    this.foundBefore = [...new Map(before.map(({ signature, message }) => [signature, message])).values()].reverse();
    violations.length = 0;
    system.check.onStep = (cpu) => this.beforeStep(cpu);
    this.root = this.mark();
  }

  /** Another search from the root, which leaves out by what is known now. */
  beginAgain(learnt: Learnt): void {
    this.rewind(this.root);
    this.footprint.give(learnt);
  }

  get stateLow(): number {
    return this.system.machine.hashLow ^ Math.imul(this.switches + (this.failures << FAILURES_SHIFT) + 1, SPREAD);
  }

  get stateHigh(): number {
    return this.system.machine.hashHigh;
  }

  mark(): number {
    const { machine, check } = this.system;
    const { switches, failures } = this;
    return this.places.push({ machine: machine.mark(), checker: check.checker.mark(), switches, failures }) - 1;
  }

  rewind(mark: number): void {
    const place = this.places[mark] ?? fail(`no place ${mark} to go back to`);
    this.places.length = mark + 1;
    this.system.machine.rewind(place.machine);
    this.system.check.checker.rewind(place.checker);
    this.switches = place.switches;
    this.failures = place.failures;
  }

  starts(): readonly number[] {
    return this.system.choices().map(({ cpu, operation }) => encodeStart(cpu, this.system.names.indexOf(operation)));
  }

  explore(start: number, visit: Visitor): number {
    for (const seen of this.seen) seen.clear();
    this.isExploring = true;
    const here = this.mark();
    let executions = this.branch([start], undefined, visit);
    this.rewind(here);
    // As long as there is such an attempt to allocate memory.
    for (let nth = 1; this.failures < this.bounds.failures; nth++) {
      this.hasFailed = false;
      executions += this.branch([start, encodeInjection(nth, FAILURE)], undefined, visit);
      this.rewind(here);
      if (!this.hasFailed) break;
    }
    this.isExploring = false;
    return executions;
  }

  run(code: EventCode): Finding | undefined {
    this.isExploring = false;
    this.prepare(code.slice(1), 0, undefined);
    return this.toEdge(code, true);
  }

  get isInexact(): boolean {
    return this.system.machine.memory.hasChangedCached && this.system.ignoresTranslations;
  }

  takeLearnt(): Learnt {
    return this.isReduced ? this.footprint.takeLearnt() : [];
  }

  occurred(): Iterable<string> {
    return this.system.check.checker.occurred.keys();
  }

  /** Executes `code`, from its beginning or from the place before its last injection, and then everything that has more injections. */
  private branch(code: EventCode, from: Position | undefined, visit: Visitor): number {
    const positions: Position[] = [];
    const delivered = code.filter((word, i) => i > 0 && decodeInjection(word).kind !== FAILURE).length;
    this.used = delivered;
    const mayHaveMore = delivered < this.bounds.injectionsPerEvent;
    this.prepare(from === undefined ? code.slice(1) : code.slice(-1), from?.step ?? 0, mayHaveMore ? positions : undefined);
    const finding = this.toEdge(code, from === undefined);
    if (!this.isKnown) visit(code, finding);
    let executions = 1;
    for (let at = positions.length - 1; at >= 0; at--) {
      const position = positions[at] ?? fail("no such position");
      for (const kind of position.kinds) {
        this.rewind(position.place);
        executions += this.branch([...code, encodeInjection(position.step, kind)], position, visit);
      }
    }
    return executions;
  }

  private prepare(injections: readonly number[], step: number, positions: Position[] | undefined): void {
    this.injections = injections;
    this.next = 0;
    this.step = step;
    this.positions = positions;
    this.isKnown = false;
    this.footprint.isHandler = false;
    this.handlerDepth = Number.POSITIVE_INFINITY;
    this.footprint.nextStep();
  }

  /** Executes the event to its end, from its beginning or from where the machine was taken back to. */
  private toEdge(code: EventCode, isBeginning: boolean): Finding | undefined {
    const { system } = this;
    const { cpu, operation } = decodeStart(code[0] ?? fail("an event without a start"));
    const choice = { cpu, operation: system.names[operation] ?? fail(`no operation ${operation}`) };
    try {
      if (isBeginning) this.begin(choice);
      const end = system.runEvent(choice);
      if (end === "stuck") return { signature: `S6 stuck ${choice.operation}`, message: `S6: ${choice.operation} never ends` };
    } catch (error) {
      // A kernel that stops (an oops, a triple fault, an access that faults for ever) has not made progress.
      if (!(error instanceof InvariantError)) throw error;
      return { signature: `S6 ${signatureOf(error.message)}`, message: `S6: ${error.message}` };
    }
    return this.isKnown ? undefined : this.violation();
  }

  private begin(choice: EventChoice): void {
    const { system, injections } = this;
    system.begin(choice);
    const first = injections[0] === undefined ? undefined : decodeInjection(injections[0]);
    if (first?.kind !== FAILURE) return;
    this.next = 1;
    this.failures++;
    system.failAllocation(first.at);
  }

  private violation(): Finding | undefined {
    const { checker } = this.system.check;
    const first = checker.violations[0];
    if (first !== undefined) return findingOf(first);
    const { warning } = this.system;
    if (warning === undefined) return undefined;
    this.system.warning = undefined;
    return { signature: `warning ${warning}`, message: `the kernel warned: ${warning}` };
  }

  /** Before each live step of the CPU whose event it is. */
  private beforeStep(cpu: ResidueCpu): void {
    if (this.system.check.checker.violations.length > 0) this.system.stop(cpu);
    this.leaveOut();
    this.footprint.isHandler = cpu.path.depth > this.handlerDepth;
    const at = this.step++;
    const { injections, positions } = this;
    if (this.failures > 0 && this.system.failedAllocations > 0) this.hasFailed = true;
    if (this.next < injections.length) {
      for (let code = injections[this.next]; code !== undefined; code = injections[++this.next]) {
        const { at: wanted, kind } = decodeInjection(code);
        if (wanted !== at) return;
        this.inject(cpu, kind);
      }
      return;
    }
    if (!this.isExploring) return;
    if (this.wasSeen()) {
      this.isKnown = true;
      this.system.stop(cpu);
    }
    if (positions === undefined) return;
    const kinds = this.kinds.filter((kind) => this.canInject(cpu, kind));
    if (kinds.length > 0) positions.push({ place: this.mark(), step: at, kinds });
  }

  /** The step before which the last position is has been made, and made no difference: behind it is as good as before it. */
  private leaveOut(): void {
    const { footprint, positions } = this;
    const last = positions?.at(-1);
    if (this.isReduced && last !== undefined && last.step === this.step - 1) {
      last.kinds = last.kinds.filter((kind) => (kind === SWITCH ? footprint.isShared : footprint.isVisible));
      if (last.kinds.length === 0) positions?.pop();
    }
    footprint.nextStep();
  }

  /** With as few injections, or fewer, this state was reached in the present event before: what follows is known. */
  private wasSeen(): boolean {
    const { stateLow, stateHigh, seen, used } = this;
    for (let fewer = 0; fewer < used; fewer++) if (seen[fewer]?.has(stateLow, stateHigh) === true) return true;
    return seen[used]?.add(stateLow, stateHigh) === false;
  }

  private canInject(cpu: ResidueCpu, kind: number): boolean {
    const { state } = cpu;
    switch (INJECTION_KINDS[kind] ?? fail(`no injection ${kind}`)) {
      case "nmi":
      case "nmi sensitive":
        // Until a waking CPU has its tables again, firmware keeps NMIs away.
        return !state.isNmiBlocked && !state.isNmiPending && state.idtLimit !== 0;
      case "irq":
      case "irq sensitive":
        return (state.rflags & RFLAGS_IF) !== 0 && !cpu.isDeliverable;
      case "timer":
        return (state.rflags & RFLAGS_IF) !== 0 && Number.isFinite(cpu.apic.deadline);
      case "machine check":
        return cpu.canTakeMachineCheck;
      case "switch":
        return this.switches < this.bounds.switches && this.system.canSwitch(cpu);
      case "failure":
        return false;
    }
  }

  private inject(cpu: ResidueCpu, kind: number): void {
    const { system } = this;
    const name = INJECTION_KINDS[kind] ?? fail(`no injection ${kind}`);
    if (kind !== SWITCH) this.handlerDepth = Math.min(this.handlerDepth, cpu.path.depth);
    switch (name) {
      case "nmi":
      case "nmi sensitive":
        system.setSensitive(name === "nmi sensitive");
        cpu.raiseNmi();
        break;
      case "irq":
      case "irq sensitive":
        system.setSensitive(name === "irq sensitive");
        raiseInterrupt(cpu);
        break;
      case "timer":
        cpu.fireTimer();
        break;
      case "machine check":
        raiseMachineCheck(cpu);
        break;
      case "switch":
        this.switches++;
        cpu.suspendAtNextStep();
        break;
      case "failure":
        fail("an allocation fails from the beginning of an event");
        break;
    }
  }
}
