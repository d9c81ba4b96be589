// A CPU for testing kernel code without a kernel: early page tables as the image builder makes them (direct map, kernel text and data
// at their addresses), a stack, a per-CPU area, and nothing else: no IDT (a fault is an error that names the address), no stubs but
// those given. The function runs as one kernel path, interrupts off.
import {
  addPhys,
  assert,
  type CpuModel,
  cr3,
  entryHigh,
  entryLow,
  fail,
  findCpuModel,
  HUGE_PAGE_SIZE,
  type KernelImage,
  LARGE_PAGE_SIZE,
  type Level,
  type Observer,
  type PhysAddr,
  PTE_LARGE,
  PTE_PRESENT,
  PTE_WRITE,
  pcid,
  physAddr,
  STUB_RETURN,
  type Stub,
  silentObserver,
  tableIndex,
  type VirtAddr,
  virtAddr,
} from "../hardware/index.ts";
import { ResidueMachine } from "./residue-machine.ts";
import type { TrackedMemory } from "./tracked-memory.ts";

/** Kernel virtual addresses that the fixture maps. */
const DIRECT_MAP = -0x778000000000;
/** Virtual address of physical 0 in the kernel's own mapping (kernel: __START_KERNEL_map). */
const KERNEL_MAP = -0x80000000;

// Low memory that firmware owns; the kernel allocates nothing below 1 MiB.
const PGD = 0x10000;
const DIRECT_PUD = 0x11000;
const KERNEL_PUD = 0x12000;
const KERNEL_PMD = 0x13000;
const PER_CPU_AREA = 0x20000;
const PER_CPU_BYTES = 0x8000;
const STACK_TOP = 0xa0000;
const STUB_TEXT = KERNEL_MAP + 0x1f00000;
const STUB_SPACING = 64;

export interface BareOptions {
  readonly memoryBytes?: number;
  readonly model?: CpuModel;
  readonly observer?: Observer;
  /** Stubs that callStub() and IDT gates find. */
  readonly stubs?: readonly Stub[];
  /** What the CPU's first turn runs on a bare machine that is run by turns. */
  readonly entry?: Stub;
}

const DEFAULT_MEMORY = 64 * 1024 * 1024;

function setEntry(memory: TrackedMemory, table: number, va: number, level: Level, frame: PhysAddr, flags: number): void {
  const at = addPhys(physAddr(table), tableIndex(va, level) * 8);
  memory.write32(at, entryLow(frame, flags));
  memory.write32(addPhys(at, 4), entryHigh(frame, 0));
}

/** Early page tables: 1 GiB pages of the direct map, 2 MiB pages of the first GiB at the kernel's addresses. */
function buildEarlyTables(memory: TrackedMemory): void {
  const table = PTE_PRESENT | PTE_WRITE;
  setEntry(memory, PGD, DIRECT_MAP, 4, physAddr(DIRECT_PUD), table);
  setEntry(memory, PGD, KERNEL_MAP, 4, physAddr(KERNEL_PUD), table);
  setEntry(memory, KERNEL_PUD, KERNEL_MAP, 3, physAddr(KERNEL_PMD), table);
  for (let at = 0; at < memory.size; at += HUGE_PAGE_SIZE)
    setEntry(memory, DIRECT_PUD, DIRECT_MAP + at, 3, physAddr(at), table | PTE_LARGE);
  for (let at = 0; at < HUGE_PAGE_SIZE && at < memory.size; at += LARGE_PAGE_SIZE) {
    setEntry(memory, KERNEL_PMD, KERNEL_MAP + at, 2, physAddr(at), table | PTE_LARGE);
  }
}

function stubImage(stubs: readonly Stub[], entry: Stub): KernelImage {
  const symbols = new Map<string, VirtAddr>([[STUB_RETURN, virtAddr(STUB_TEXT)]]);
  for (const [i, stub] of stubs.entries()) symbols.set(stub.symbol, virtAddr(STUB_TEXT + (i + 1) * STUB_SPACING));
  symbols.set("early_top_pgt", virtAddr(KERNEL_MAP + PGD));
  symbols.set(entry.symbol, virtAddr(STUB_TEXT + (stubs.length + 1) * STUB_SPACING));
  return {
    base: virtAddr(KERNEL_MAP),
    physicalBase: physAddr(0),
    bytes: new Uint8Array(0),
    symbols,
    traps: new Map(),
    handlers: new Map(),
    stubs: new Map([...stubs, entry].map((stub) => [stub.symbol, stub])),
    puppets: new Map(),
    entrySymbol: entry.symbol,
  };
}

/** Builds the bare machine and runs `body` as kernel code on its CPU, which is `cpu` meanwhile. */
export function withBareCpu<T>(memoryBytes: number, body: () => T): T {
  return onBareMachine({ memoryBytes }, body);
}

const NO_ENTRY: Stub = { symbol: "bare_entry", effect: () => fail("the bare machine has no entry to run") };

/** A bare machine whose CPU is about to run `entry`. */
export function bareMachine(options: BareOptions): ResidueMachine {
  const model = options.model ?? findCpuModel("skx") ?? fail("no CPU model skx");
  const machine = new ResidueMachine({
    model,
    memoryBytes: options.memoryBytes ?? DEFAULT_MEMORY,
    cpus: 1,
    image: stubImage(options.stubs ?? [], options.entry ?? NO_ENTRY),
    observer: options.observer ?? silentObserver,
  });
  buildEarlyTables(machine.memory);
  const bare = machine.cpu(0);
  bare.state.cr3 = cr3(physAddr(PGD), pcid(0));
  bare.state.rsp = virtAddr(DIRECT_MAP + STACK_TOP);
  bare.perCpuBase = virtAddr(DIRECT_MAP + PER_CPU_AREA);
  assert(PER_CPU_AREA + PER_CPU_BYTES < STACK_TOP, () => "the bare layout overlaps");
  return machine;
}

/** The same with options; `body` also gets the machine. */
export function onBareMachine<T>(options: BareOptions, body: (machine: ResidueMachine) => T): T {
  const machine = bareMachine(options);
  const bare = machine.cpu(0);
  let result: T | undefined;
  bare.runAside(() => {
    result = body(machine);
  });
  return result as T;
}
