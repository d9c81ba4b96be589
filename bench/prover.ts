// How fast the abstract machine executes kernel events under the properties: executions of one event from a state to the next edge and
// back, a second of CPU time, for each operation, undisturbed and with an injection before each step. `node dist/bench/prover.js [operation...]`
import { DEFAULT_CPU_MODEL } from "../src/hardware/index.ts";
import { PROPERTY_NAMES } from "../src/lab/properties/index.ts";
import { encodeStart } from "../src/lab/prover/event-code.ts";
import { EventExplorer } from "../src/lab/prover/event-explorer.ts";
import { type Configuration, System } from "../src/lab/prover/index.ts";

/** CPU time that each line measures, in microseconds. */
const MEASURED = 1_500_000;
/** Before that: until everything is compiled, which counts as CPU time too. */
const WARM_UP = 2_500_000;
const MICROSECONDS = 1e6;
const OPERATIONS = ["getppid", "sched_yield", "KVM_RUN HLT", "interrupt", "nmi"];

const CONFIGURATION: Configuration = {
  name: "bench",
  model: DEFAULT_CPU_MODEL,
  preset: "cordon",
  commandLine: "asi=on",
  options: {},
  cpus: 1,
  processes: 2,
  vms: 1,
  vcpus: 1,
  operations: OPERATIONS,
  injections: [],
  injectionsPerEvent: 0,
  switches: 0,
  failures: 0,
  depth: 0,
  searchMegabytes: 64,
  workers: 1,
  memoryMegabytes: 48,
  properties: PROPERTY_NAMES,
};

/** User and system time of this process. */
function cpuTime(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

function stepsOf({ machine }: System): number {
  let steps = 0;
  for (const cpu of machine.cpus) steps += cpu.steps;
  return steps;
}

/** Calls `execute`, which returns executions and steps, for `time`. @returns their sums and the time that it took */
function repeat(time: number, execute: () => readonly [executions: number, steps: number]): readonly [number, number, number] {
  const start = cpuTime();
  let executions = 0;
  let steps = 0;
  for (;;) {
    for (let i = 0; i < 10; i++) {
      const [more, passed] = execute();
      executions += more;
      steps += passed;
    }
    const passed = cpuTime() - start;
    if (passed >= time) return [executions, steps, passed];
  }
}

function print(what: string, execute: () => readonly [number, number]): void {
  repeat(WARM_UP, execute);
  const [executions, steps, time] = repeat(MEASURED, execute);
  const perSecond = (count: number): string =>
    Math.round((count * MICROSECONDS) / time)
      .toLocaleString("en")
      .padStart(10);
  const each = steps === 0 ? "" : `${perSecond(steps)} steps/s ${(steps / executions).toFixed(0).padStart(6)} steps each`;
  console.log(`${what.padEnd(28)} ${perSecond(executions)} executions/s ${each}`);
}

const chosen = process.argv.slice(2);
const operations = chosen.length === 0 ? OPERATIONS : chosen;

const system = new System(CONFIGURATION);
const { machine, check } = system;
for (const operation of operations) {
  const choice = { cpu: 0, operation };
  print(operation, () => {
    const mark = machine.mark();
    const checker = check.checker.mark();
    const before = stepsOf(system);
    system.begin(choice);
    system.runEvent(choice);
    const steps = stepsOf(system) - before;
    machine.rewind(mark);
    check.checker.rewind(checker);
    return [1, steps];
  });
}

for (const injections of [["nmi"], ["irq"]] as const) {
  const explored = new System({ ...CONFIGURATION, injections, injectionsPerEvent: 1 });
  const explorer = new EventExplorer(explored, { injections, injectionsPerEvent: 1, switches: 0, failures: 0 });
  for (const operation of operations) {
    const start = encodeStart(0, explored.names.indexOf(operation));
    print(`${operation}, ${injections[0]} injected`, () => [explorer.explore(start, () => undefined), 0]);
  }
}
