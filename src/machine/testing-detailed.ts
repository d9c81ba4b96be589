// For tests of the detailed gear: user programs on a flat machine, and the receiver of a flush-and-reload channel in machine code,
// which knows nothing of the simulator: it measures each line with RDTSCP and reports cycles.
import { type Assembler, assemble, assembler, eax, mem, memIndexed, r8, r9d, r12, r12d, r13, r14, r15, rax } from "../assembler/index.ts";
import { Core } from "./core.ts";
import { type DetailedExports, DetailedStructures, detailedExports } from "./detailed.ts";
import type { DetailedModel } from "./detailed-model.ts";
import { FLAT_PHYSICAL_BYTES, FlatMachine, type FlatResult } from "./flat.ts";

// User memory of the flat machine, mapped one to one.
export const CODE = 0x100000;
export const RECEIVER = 0x110000;
export const DATA = 0x120000;
export const SECRET_PAGE = 0x130000;
/** A page of which tests change the page-table entry. */
export const WINDOW_PAGE = 0x140000;
export const STACK_TOP = 0x158000;
export const TIMES = 0x160000;
/** 256 pages, one for each value of a byte. */
export const PROBE = 0x200000;
export const PROBE_LINES = 256;
export const PROBE_SHIFT = 12;
const PAGE = 4096;

/** First page table of the flat machine: one entry of 8 bytes for each page from address 0 on. */
const PAGE_TABLES = 0x4000;
export const PAGE_DIRECTORY = 0x3000;
const RFLAGS = 0x202;
const BUDGET_CYCLES = 200_000_000;
const RSP = 4;
/** Between a hit in any cache and memory: L3 answers in 68 cycles, memory in 260, and the measuring itself takes some. */
const THRESHOLD = 160;

export class AttackBench {
  readonly core: Core;
  readonly structures: DetailedStructures;
  readonly exports: DetailedExports;
  readonly flat: FlatMachine;
  private readonly receiver: number;
  private readonly flusher: number;

  /** With two CPUs the programs run on CPU 0; CPU 1 has the same page tables. */
  constructor(model: DetailedModel, cpus: 1 | 2 = 1) {
    this.core = new Core({ physicalBytes: FLAT_PHYSICAL_BYTES, cpus, gear: "detailed" });
    const { view, functions } = this.core;
    this.exports = detailedExports(functions);
    this.structures = new DetailedStructures(view.buffer, this.exports, cpus, model, (cpu) => this.core.blockOf(cpu));
    this.exports.selectCore(0);
    const writable = (base: number, bytes: number) => ({ base, bytes, isWritable: true });
    const ranges = [writable(CODE, 0x80000), writable(PROBE, PROBE_LINES * PAGE)];
    if (cpus === 2) {
      functions.selectCpu(1);
      new FlatMachine(this.core, ranges, 0);
      functions.selectCpu(0);
    }
    this.flat = new FlatMachine(this.core, ranges, 0);
    // Loading wrote the tables without the processor; a page that no program has used yet has no accessed flag, and a wrong path sets none.
    this.touchAll();
    this.receiver = RECEIVER;
    this.flusher = RECEIVER + 0x800;
    this.flat.writeCode(this.receiver, receiverCode(this.receiver));
    this.flat.writeCode(this.flusher, flusherCode(this.flusher));
  }

  /** What CPU 1 does meanwhile, as its kernel. */
  meanwhile(act: (functions: Core["functions"]) => void): void {
    this.core.functions.selectCpu(1);
    act(this.core.functions);
    this.core.functions.selectCpu(0);
  }

  /** Assembles `write` at CODE and runs it in user mode. RSP is a fresh stack. */
  run(write: (a: Assembler) => Assembler): FlatResult {
    const program = assemble(write(assembler()).program(), { origin: CODE });
    this.flat.writeCode(CODE, program.bytes);
    return this.call(CODE);
  }

  private call(address: number): FlatResult {
    this.flat.registers.fill(0);
    this.flat.registers[2 * RSP] = STACK_TOP;
    return this.flat.run(address, RFLAGS, BUDGET_CYCLES);
  }

  /** Flushes every line of the probe array from all caches. */
  flushProbe(): void {
    this.call(this.flusher);
  }

  /** Cycles that a load of each probe line takes now. Reading fills the lines. */
  times(): Uint32Array {
    this.call(this.receiver);
    return new Uint32Array(this.flat.memory(TIMES, 4 * PROBE_LINES).slice().buffer);
  }

  /** The probe lines that are in a cache, by time alone. */
  hits(): number[] {
    const hits: number[] = [];
    for (const [line, cycles] of this.times().entries()) if (cycles < THRESHOLD) hits.push(line);
    return hits;
  }

  /** Writes an entry of the page table for `va`, and forgets old translations. */
  setPageEntry(va: number, entry: bigint): void {
    this.core.view.setBigUint64(this.core.physical.byteOffset + PAGE_TABLES + (va / PAGE) * 8, entry, true);
    this.core.functions.flushAllTlb();
  }

  pageEntry(va: number): bigint {
    return this.core.view.getBigUint64(this.core.physical.byteOffset + PAGE_TABLES + (va / PAGE) * 8, true);
  }

  private touchAll(): void {
    for (const base of [CODE, PROBE]) {
      for (let va = base; va < base + 0x80000; va += PAGE) this.core.functions.store8(va, 0);
    }
    for (let va = PROBE + 0x80000; va < PROBE + PROBE_LINES * PAGE; va += PAGE) this.core.functions.store8(va, 0);
  }
}

/** TIMES[i] = cycles of a load of probe line i, in an order that no prefetcher would follow. */
function receiverCode(origin: number): Uint8Array {
  const a = assembler();
  a.mov(r14, PROBE).mov(r15, TIMES).xor(r12d, r12d);
  a.label("next")
    .imul(r13, r12, 167)
    .and(r13, PROBE_LINES - 1)
    .mov(rax, r13)
    .shl(rax, PROBE_SHIFT)
    .add(rax, r14)
    .mov(r9d, 0);
  a.mov(r8, rax).mfence().lfence().rdtscp().mov(mem(r15, 0x800), eax).mov(r9d, mem(r8)).rdtscp().sub(eax, mem(r15, 0x800));
  a.mov(memIndexed(r15, r13, 4), eax)
    .inc(r12d)
    .cmp(r12d, PROBE_LINES)
    .jne("next");
  return assemble(a.program(), { origin }).bytes;
}

function flusherCode(origin: number): Uint8Array {
  const a = assembler();
  a.mov(r14, PROBE).mov(r12d, PROBE_LINES);
  a.label("next").clflush(mem(r14)).add(r14, PAGE).dec(r12d).jne("next").mfence();
  return assemble(a.program(), { origin }).bytes;
}
