// One state's events in every way that the bounds allow: an event runs once undisturbed, then with an injection before each step where one could
// make a difference, then with a second one behind it, and so on.
import { fail, InvariantError } from "../../hardware/index.ts";
import type { Mark, ResidueCpu, ResidueMachine } from "../../residue/index.ts";
import type { ResidueCheck } from "../check/index.ts";
import { PropertyViolation } from "../properties/index.ts";
import { decodeInjection, decodeStart, type EventCode, encodeInjection, encodeStart } from "./event-code.ts";
import type { Explorable, Finding, Visitor } from "./explorable.ts";
import { INJECTION_KINDS, type InjectionKind } from "./injection.ts";
import { Visited } from "./visited.ts";

/** What begins: an operation on a CPU. */
export interface EventChoice {
  readonly cpu: number;
  readonly operation: string;
}

/** A booted kernel whose next event somebody chooses. */
export interface ExploredSystem {
  readonly machine: ResidueMachine;
  readonly check: ResidueCheck;
  /** All operations; an event's code holds an index of this list. */
  readonly operations: readonly string[];
  /** What can begin now, in a fixed order. */
  choices(into: EventChoice[]): void;
  /** Runs the chosen CPU until it is at an edge again; a broken invariant is thrown. */
  runEvent(choice: EventChoice): void;
  /** Goes on with an event in whose middle the machine was taken back to. */
  resumeEvent(choice: EventChoice): void;
  /** After an event, however it ended: nothing of it stays but what the machine holds. */
  settle(): void;
  /** An injection of that kind would be delivered, or noticed, before the next step. */
  canInject(cpu: ResidueCpu, kind: InjectionKind): boolean;
  inject(cpu: ResidueCpu, kind: InjectionKind): void;
  /** Another CPU could have its turn now. */
  canSwitch(cpu: ResidueCpu): boolean;
}

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

/** A message without what differs from run to run: addresses and numbers. */
export function signatureOf(message: string): string {
  return message.replace(/-?0x[0-9a-f]+/g, "#").replace(/\d+/g, "#");
}

/** A step before which something could be injected. */
interface Position {
  readonly place: number;
  readonly step: number;
  readonly kinds: readonly number[];
}

/** Thrown by the hook when the state was seen at this place of this event before: what follows is known. */
const KNOWN = new Error("an execution reached a state that it had reached before (seen outside the explorer: it must be caught there)");

export class EventExplorer implements Explorable {
  readonly system: ExploredSystem;
  private readonly bounds: Bounds;
  private readonly kinds: readonly number[];
  private readonly places: Place[] = [];
  private switches = 0;
  private failures = 0;
  private readonly found: EventChoice[] = [];
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

  constructor(system: ExploredSystem, bounds: Bounds) {
    this.system = system;
    this.bounds = bounds;
    this.kinds = bounds.injections.map((kind) => INJECTION_KINDS.indexOf(kind));
    this.seen = Array.from({ length: bounds.injectionsPerEvent + 1 }, () => new Visited());
    system.check.onStep = (cpu) => this.beforeStep(cpu);
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
    this.found.length = 0;
    this.system.choices(this.found);
    return this.found.map(({ cpu, operation }) => encodeStart(cpu, this.system.operations.indexOf(operation)));
  }

  explore(start: number, visit: Visitor): number {
    for (const seen of this.seen) seen.clear();
    this.isExploring = true;
    const here = this.mark();
    const executions = this.branch([start], undefined, visit);
    this.rewind(here);
    return executions;
  }

  run(code: EventCode): Finding | undefined {
    this.isExploring = false;
    this.begin(code.slice(1), 0, undefined);
    return this.toEdge(() => this.system.runEvent(this.choiceOf(code)));
  }

  occurred(): Iterable<string> {
    return this.system.check.checker.occurred.keys();
  }

  /** Executes `code`, from its beginning or from the place before its last injection, and then everything that has more injections. */
  private branch(code: EventCode, from: Position | undefined, visit: Visitor): number {
    const positions: Position[] = [];
    this.used = code.length - 1;
    this.begin(
      code.slice(-1).slice(from === undefined ? 1 : 0),
      from?.step ?? 0,
      this.used < this.bounds.injectionsPerEvent ? positions : undefined,
    );
    const choice = this.choiceOf(code);
    let isKnown = false;
    const finding = this.toEdge(() => {
      try {
        if (from === undefined) this.system.runEvent(choice);
        else this.system.resumeEvent(choice);
      } catch (error) {
        if (error !== KNOWN) throw error;
        isKnown = true;
      }
    });
    if (!isKnown) visit(code, finding);
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

  private choiceOf(code: EventCode): EventChoice {
    const { cpu, operation } = decodeStart(code[0] ?? fail("an event without a start"));
    return { cpu, operation: this.system.operations[operation] ?? fail(`no operation ${operation}`) };
  }

  private begin(injections: readonly number[], step: number, positions: Position[] | undefined): void {
    this.injections = injections;
    this.next = 0;
    this.step = step;
    this.positions = positions;
  }

  private toEdge(act: () => void): Finding | undefined {
    let finding: Finding | undefined;
    try {
      act();
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      finding = findingOf(error);
    }
    this.system.settle();
    return finding;
  }

  /** Before each live step of the CPU whose event it is. */
  private beforeStep(cpu: ResidueCpu): void {
    const at = this.step++;
    const { injections, positions } = this;
    if (this.next < injections.length) {
      for (let code = injections[this.next]; code !== undefined; code = injections[++this.next]) {
        const { at: wanted, kind } = decodeInjection(code);
        if (wanted !== at) return;
        this.inject(cpu, kind);
      }
      return;
    }
    if (!this.isExploring) return;
    if (this.isKnown()) throw KNOWN;
    if (positions === undefined) return;
    const kinds = this.kinds.filter((kind) => this.canInject(cpu, kind));
    if (kinds.length > 0) positions.push({ place: this.mark(), step: at, kinds });
  }

  /** With as few injections, or fewer, this state was reached in the present event before. */
  private isKnown(): boolean {
    const { stateLow, stateHigh, seen, used } = this;
    for (let fewer = 0; fewer < used; fewer++) if (seen[fewer]?.has(stateLow, stateHigh) === true) return true;
    return seen[used]?.add(stateLow, stateHigh) === false;
  }

  private canInject(cpu: ResidueCpu, kind: number): boolean {
    if (kind === SWITCH) return this.switches < this.bounds.switches && this.system.canSwitch(cpu);
    return this.system.canInject(cpu, INJECTION_KINDS[kind] ?? fail(`no injection ${kind}`));
  }

  private inject(cpu: ResidueCpu, kind: number): void {
    if (kind === SWITCH) {
      this.switches++;
      cpu.suspendAtNextStep();
    } else this.system.inject(cpu, INJECTION_KINDS[kind] ?? fail(`no injection ${kind}`));
  }
}

function findingOf(error: Error): Finding {
  if (error instanceof PropertyViolation) {
    const { property, structure, owner, detail } = error.violation;
    return { signature: signatureOf(`${property} ${structure} ${owner} ${detail}`), message: error.message };
  }
  // A kernel that stops (an oops, a triple fault, an access that faults for ever) has not made progress.
  if (error instanceof InvariantError) return { signature: signatureOf(`S6 ${error.message}`), message: `S6: ${error.message}` };
  throw error;
}
