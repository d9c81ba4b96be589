// A counterexample of the abstract machine on the simulated multiprocessor: the same events with real code, each injection at the place with the
// same running functions, judged on that machine's truth. It says whether the finding is real there, and if not, why.
import { InvariantError, OWNER_NONE } from "../../hardware/index.ts";
import type { SimulatedCpu } from "../../machine/index.ts";
import { describeViolation, type Violation } from "../properties/index.ts";
import { signatureOf } from "../signature.ts";
import { heldWords, STRUCTURES } from "./cpu-words.ts";
import { leaked } from "./leaked.ts";
import { RealSystem } from "./real-system.ts";
import type { Replay, ReplayInjection } from "./replay-file.ts";
import { PlaceCounts, placeKey, stepPlace } from "./step-place.ts";
import { type InjectedPlace, type Story, tellStory } from "./story.ts";

export interface RealReplay {
  readonly isReproduced: boolean;
  /** The finding as it is there; or why there is none. */
  readonly why: string;
  /** Injections that were made, each at its place. */
  readonly injected: number;
  /** For what S1, S2 and S10 are about: the bytes and entries that are really there. */
  readonly leaked: readonly string[];
  /** Violations of other properties that came up on the way. */
  readonly others: readonly string[];
}

interface Planned {
  readonly kind: string;
  readonly place: InjectedPlace;
}

/** Properties that the simulated machine cannot judge, and why. */
const UNJUDGED: ReadonlyMap<string, string> = new Map([
  ["S6", "the simulated machine has no bound on how often an access faults"],
  ["S8", "the simulated machine does not tell which cached translation an access used"],
]);

function plannedOf(story: Story, event: number, injections: readonly ReplayInjection[]): readonly Planned[] {
  const places = (story.events[event]?.happenings ?? []).flatMap(({ place }) => (place === undefined ? [] : [place]));
  return injections
    .filter(({ kind }) => kind !== "failure")
    .flatMap(({ kind }, i) => {
      const place = places[i];
      return place === undefined ? [] : [{ kind, place }];
    });
}

class RealRun {
  readonly system: RealSystem;
  /** The finding, as it is here. */
  match: Violation | undefined;
  leaked: readonly string[] = [];
  private readonly expected: Story["end"];
  private planned: Planned[] = [];
  private counts = new PlaceCounts();
  private judged = 0;
  injected = 0;

  constructor(system: RealSystem, expected: Story["end"]) {
    this.system = system;
    this.expected = expected;
    system.onStep = (cpu) => this.beforeStep(cpu);
    system.onEntry = () => this.look();
  }

  /** @returns injections that were not made */
  run(index: number, planned: readonly Planned[]): readonly Planned[] {
    this.planned = [...planned];
    this.counts = new PlaceCounts();
    this.system.runEvent(index);
    this.look();
    return this.planned;
  }

  private beforeStep(cpu: SimulatedCpu): void {
    this.look();
    if (this.planned.length === 0) return;
    const place = stepPlace();
    if (place.isInStub) return;
    const key = placeKey(place);
    const occurrence = this.counts.next(key);
    const [next] = this.planned;
    if (next === undefined || next.place.isInStub || next.place.occurrence !== occurrence || placeKey(next.place) !== key) return;
    this.planned.shift();
    this.injected++;
    if (next.kind === "switch") this.system.stop();
    else this.system.deliver(cpu, next.kind);
  }

  /** Looks for the expected finding among those that are new: of the same property, in the same structure. */
  private look(): void {
    const { violations } = this.system.check.checker;
    for (; this.judged < violations.length && this.match === undefined; this.judged++) {
      const found = violations[this.judged];
      if (found?.property !== this.expected.property || found.structure !== this.expected.structure) continue;
      this.match = found;
      const label = found.label ?? OWNER_NONE;
      if (label !== OWNER_NONE) this.leaked = leaked(this.system.machine, this.system.names, found.cpu, found.structure, label);
      this.system.stop();
    }
  }
}

/** Runs a counterexample with real code. */
export function replayReal({ configuration, events, found }: Replay): RealReplay {
  const story = tellStory(configuration, found);
  const not = (why: string, run?: RealRun): RealReplay => {
    const others = run?.system.check.checker.violations.map(describeViolation) ?? [];
    return { isReproduced: false, why, injected: run?.injected ?? 0, leaked: [], others: [...new Set(others)] };
  };
  const { end } = story;
  if (end.signature !== found.finding.signature) return not(`it does not come again on the abstract machine either: ${end.message}`);
  const unjudged = UNJUDGED.get(end.property);
  if (unjudged !== undefined) return not(`${end.property} is not judged there: ${unjudged}`);
  const system = new RealSystem(configuration);
  if (!system.settle(story.before.map(({ task }) => task))) return not("the CPUs do not come to where the story begins");
  system.startJudging();
  const run = new RealRun(system, end);
  try {
    return execute(run, story, events, not);
  } catch (error) {
    if (!(error instanceof InvariantError)) throw error;
    const isSame = `S6 ${signatureOf(error.message)}` === found.finding.signature;
    return isSame
      ? { isReproduced: true, why: error.message, injected: run.injected, leaked: [], others: [] }
      : not(`the kernel stops there: ${error.message}`, run);
  }
}

function execute(run: RealRun, story: Story, events: Replay["events"], not: (why: string, run: RealRun) => RealReplay): RealReplay {
  const { system } = run;
  const { end } = story;
  for (const [i, { cpu, operation, injections }] of events.entries()) {
    const before = i === 0 ? story.before : (story.events[i - 1]?.after ?? []);
    const [here, there] = [system.task(cpu), before[cpu]?.task ?? ""];
    if (here !== there) return not(`event ${i + 1}: ${here} runs on cpu ${cpu} here, ${there} on the abstract machine`, run);
    const failure = injections.find(({ kind }) => kind === "failure")?.at ?? 0;
    const cannot = system.begin(cpu, operation, failure);
    if (cannot !== undefined) return not(`event ${i + 1}, cpu ${cpu}, ${operation}: ${cannot}`, run);
    const [missed] = run.run(cpu, plannedOf(story, i, injections));
    const place = missed === undefined ? "" : placeWords(missed);
    if (run.match !== undefined) {
      const without = missed === undefined ? "" : `, before ${place}`;
      const where = `event ${i + 1}${without}: ${describeViolation(run.match)}`;
      return { isReproduced: true, why: where, injected: run.injected, leaked: run.leaked, others: [] };
    }
    if (end.property === "" && system.warning !== undefined && end.message.includes(system.warning))
      return {
        isReproduced: true,
        why: `event ${i + 1}: the kernel warns: ${system.warning}`,
        injected: run.injected,
        leaked: [],
        others: [],
      };
    if (missed !== undefined) return not(`event ${i + 1} goes by without ${place}`, run);
  }
  return not(nothingReal(run, story), run);
}

/** An injection that was not made. */
function placeWords({ kind, place: { functions, occurrence, isInStub } }: Planned): string {
  const step = isInStub
    ? "a place inside machine code, which is an instruction there and no step"
    : `step ${occurrence + 1} of ${functions.join(" < ")}`;
  return `the injection "${kind}" at ${step}`;
}

/** All events ran as they should, and nothing was found: then it is the abstract machine's worst case. */
function nothingReal({ system }: RealRun, { end }: Story): string {
  const of = end.structure === "" ? "" : ` in ${end.structure}`;
  const whose = end.owner === "" ? "what the abstract machine supposes" : `anything of ${end.owner}`;
  const structure = STRUCTURES.find((name) => name === end.structure);
  const holds = structure === undefined ? [] : heldWords(system.names, system.truthOf(end.cpu), structure);
  const now = structure === undefined ? "" : `; at the end it holds ${holds.join(", ") || "nothing"}`;
  return `every event ran as it should, but there never was ${whose}${of} where that matters: a worst case of the abstract machine alone${now}`;
}
