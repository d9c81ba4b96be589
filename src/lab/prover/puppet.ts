// The function that every process of the prover is: it sets up what its operations need, then does what was chosen for the CPU that it runs on.
import { SYS } from "../../abi/index.ts";
import { cpu as ambientCpu, fail, PAGE_SIZE, type PhysAddr, type Puppet, type PuppetAction } from "../../hardware/index.ts";
import type { GuestExit, ResidueCpu } from "../../residue/index.ts";
import { ARGUMENTS } from "./call-arguments.ts";
import { raiseInterrupt } from "./deliveries.ts";
import { call, type Part, type Place, type Turn } from "./operation.ts";
import type { NamedOperation } from "./operations.ts";
import { ProcessMemory, ZERO_ADDRESS } from "./process-memory.ts";
import { LAST_EXIT } from "./vm-operations.ts";

export interface Puppeteer {
  /** Processes that have set up what they need. */
  ready: number;
  /** All have: from now on they wait for what is chosen. */
  hasStarted: boolean;
  readonly setup: readonly Part[];
  readonly operations: readonly NamedOperation[];
  /** The operation that was chosen for a CPU, from 1, which is now taken; 0: none. */
  chosen(cpu: number): number;
  place(cpu: number): Place;
}

export function proverPuppet(puppeteer: Puppeteer): Puppet {
  return (view): PuppetAction => {
    const memory = new ProcessMemory(view.state);
    const turn: Turn = { memory, result: view.result, place: puppeteer.place(ambientCpu.id) };
    if (memory.role === "setting up") return setUp(puppeteer, turn);
    if (memory.operation === 0) {
      if (!puppeteer.hasStarted) return call(SYS.sched_yield);
      memory.operation = puppeteer.chosen(ambientCpu.id);
      if (memory.operation === 0) fail(`nothing was chosen for cpu ${ambientCpu.id}`);
    }
    return act(puppeteer, turn);
  };
}

function setUp(puppeteer: Puppeteer, turn: Turn): PuppetAction {
  const { memory } = turn;
  if (memory.setup === 0) for (const place of Object.values(ARGUMENTS)) memory.writeArgument(place);
  const part = puppeteer.setup[memory.setup];
  if (part !== undefined) {
    memory.setup++;
    return part(turn);
  }
  memory.role = "main";
  memory.exits = 0;
  memory.clearResults();
  puppeteer.ready++;
  return call(SYS.sched_yield);
}

function act(puppeteer: Puppeteer, turn: Turn): PuppetAction {
  const { memory } = turn;
  const { name, operation } = puppeteer.operations[memory.operation - 1] ?? fail(`no operation has number ${memory.operation}`);
  if (operation.kind === "delivery") fail(`${name} is nothing that a process does`);
  const part = operation.parts[memory.part];
  if (part !== undefined) {
    memory.part++;
    return part(turn);
  }
  operation.finish?.(turn);
  memory.operation = 0;
  memory.part = 0;
  memory.exits = 0;
  memory.clearResults();
  // No result stays in a register.
  return { kind: "load", address: ZERO_ADDRESS };
}

/** Memory that can be written behind the back of whoever runs. */
export interface StateMemory {
  readonly bytes: Uint8Array;
  external(pa: PhysAddr, bytes: number, change: () => void): void;
}

/** How the guest leaves whose monitor's state page is at `page`; undefined: it runs on until an interrupt, which may be there already. */
export function guestExit(
  memory: StateMemory,
  page: PhysAddr,
  cpu: ResidueCpu,
  operations: readonly NamedOperation[],
): GuestExit | undefined {
  const { bytes } = memory;
  const state = new ProcessMemory(new DataView(bytes.buffer, bytes.byteOffset + page, PAGE_SIZE));
  const operation = operations[state.operation - 1]?.operation;
  const next = operation?.kind === "process" ? operation.exits?.[state.exits] : undefined;
  if (next === undefined) return LAST_EXIT;
  memory.external(page, PAGE_SIZE, () => {
    state.exits++;
  });
  if (next === "interrupt") raiseInterrupt(cpu);
  if (next === "nmi") cpu.raiseNmi();
  return typeof next === "string" ? undefined : next;
}
