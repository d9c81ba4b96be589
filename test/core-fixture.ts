// A fixture for tests of the core alone: code at CPL 0 or 3 over a BareMachine, an IDT whose every vector ends the run by a trap, and a
// window of 4 KiB pages that a test maps as it likes.
import { type Assembler, assemble, assembler } from "../src/assembler/index.ts";
import { BareMachine, KERNEL_CS, USER_CS, USER_SS } from "../src/machine/bare.ts";
import {
  CPU_CPL,
  CPU_EXIT_PHYSICAL,
  CPU_GDTR_LIMIT,
  CPU_IDTR_BASE,
  CPU_IDTR_LIMIT,
  CPU_REGS,
  CPU_RIP,
  CPU_SEG_ACCESS,
  CPU_SEG_BASE,
  CPU_SEG_LIMIT,
  CPU_SEG_SELECTOR,
  EXIT_TRAP,
  SEG_CS,
  SEG_SS,
  SEG_TR,
} from "../src/machine/core/layout.gen.ts";
import { Core, type CoreGear } from "../src/machine/core.ts";

export const PHYSICAL_BYTES = 0x1000000;
const GDT = 0x4000;
const IDT = 0x6000;
const TSS = 0x7000;
const HANDLERS = 0x8000;
export const CODE = 0x100000;
export const STACK_TOP = 0x180000;
/** Stack of privilege level 0 in the TSS, and of IST 1. */
export const RSP0 = 0x190000;
export const IST1 = 0x198000;
/** The window: virtual addresses, its page table, the frames behind it. */
export const WINDOW = 0x40000000;
const PDPT = 0x2000;
const WINDOW_DIRECTORY = 0xa000;
const WINDOW_TABLE = 0xb000;
export const WINDOW_FRAMES = 0x400000;
const PAGE = 4096;
const LARGE = 0x80;
const FRAME_MASK = 0xfffffffff000n;

export const P = 1n;
export const W = 2n;
export const U = 4n;
export const A = 0x20n;
export const D = 0x40n;
export const G = 0x100n;
export const NX = 1n << 63n;

const VECTORS = 32;
const TSS_SELECTOR = 0x28;
const INTERRUPT_GATE = 0x8e00;
const USER_INTERRUPT_GATE = 0xee00;
const TRAP_OPCODE = [0x0f, 0xff, 0xc0];
const RSP = CPU_REGS + 32;

export interface End {
  readonly exit: number;
  /** Name of the trap that ended the run; "#n" for the handler of vector n. */
  readonly trap: string;
}

/** What the delivery of an event pushed. */
export interface Frame {
  readonly error: number;
  readonly rip: number;
  readonly cs: number;
  readonly flags: number;
  readonly rsp: number;
  readonly ss: number;
}

export class CoreFixture {
  readonly bare: BareMachine;
  readonly core: Core;
  readonly view: DataView;
  private readonly traps = new Map<number, string>();
  symbols: ReadonlyMap<string, number> = new Map();

  constructor(gear: CoreGear = "architectural", cpus = 1) {
    this.core = new Core({ physicalBytes: PHYSICAL_BYTES, cpus, gear });
    this.bare = new BareMachine(this.core);
    this.view = new DataView(this.core.physical.buffer, this.core.physical.byteOffset, this.core.physical.byteLength);
    this.writeIdt();
    this.writeTss();
    // The identity map may be used from CPL 3 too: what a test restricts, it restricts in the window.
    for (let n = 0; n < PHYSICAL_BYTES / 0x200000; n++) this.setEntry(0x3000 + n * 8, BigInt(n * 0x200000 + LARGE) | P | W | U);
    this.setEntry(0x1000, BigInt(PDPT) | P | W | U);
    this.setEntry(PDPT, 0x3000n | P | W | U);
    this.setEntry(PDPT + 8, BigInt(WINDOW_DIRECTORY) | P | W | U);
    this.setEntry(WINDOW_DIRECTORY, BigInt(WINDOW_TABLE) | P | W | U);
  }

  setEntry(at: number, value: bigint): void {
    this.view.setBigUint64(at, BigInt.asUintN(64, value), true);
  }

  entry(at: number): bigint {
    return this.view.getBigUint64(at, true);
  }

  /** Maps page `n` of the window to frame `frame` (its own unless given). No TLB is flushed. */
  map(n: number, bits: bigint, frame = WINDOW_FRAMES + n * PAGE): void {
    this.setEntry(WINDOW_TABLE + n * 8, BigInt(frame) | bits);
  }

  /** Flag bits of the entry of page `n`. */
  bits(n: number): bigint {
    return this.entry(WINDOW_TABLE + n * 8) & ~FRAME_MASK;
  }

  /** Address of a paging structure of the window: 4 its PDPT entry, 3 its directory entry, 2 that of page 0. */
  static readonly entries = { pdpt: PDPT + 8, directory: WINDOW_DIRECTORY, page: WINDOW_TABLE } as const;

  /** Assembles and places a program; its traps become valid. */
  place(write: (a: Assembler) => unknown, address = CODE): void {
    const a = assembler();
    write(a);
    const placed = assemble(a.program(), { origin: address });
    this.bare.load(address, placed.bytes);
    for (const [at, name] of placed.traps) this.addTrap(at, name);
    this.symbols = placed.symbols;
  }

  addTrap(physical: number, name: string): void {
    this.traps.set(physical, name);
    this.core.functions.registerTrap(physical);
  }

  symbol(name: string): number {
    const at = this.symbols.get(name);
    if (at === undefined) throw new Error(`no label ${name}`);
    return at;
  }

  /** Starts at `rip` in the kernel (or in user mode) with a fresh stack. */
  start(rip = CODE, user = false): void {
    const { fields } = this.core;
    this.bare.enterKernel();
    if (user) {
      fields.setLow(CPU_SEG_SELECTOR + SEG_CS * 4, USER_CS);
      fields.setLow(CPU_SEG_ACCESS + SEG_CS * 4, 0xa0fb);
      fields.setLow(CPU_SEG_SELECTOR + SEG_SS * 4, USER_SS);
      fields.setLow(CPU_SEG_ACCESS + SEG_SS * 4, 0xc0f3);
      fields.setLow(CPU_CPL, 3);
      this.core.functions.modeChanged();
    }
    fields.setWord(CPU_RIP, rip);
    fields.setWord(RSP, STACK_TOP);
  }

  /** Goes on from where the CPU is. */
  go(budget = 100000): End {
    const exit = this.core.functions.run(budget);
    const at = this.core.fields.word(CPU_EXIT_PHYSICAL);
    return { exit, trap: exit === EXIT_TRAP ? (this.traps.get(at) ?? `unknown trap at ${at}`) : "" };
  }

  /** Places, starts and runs a program. */
  run(write: (a: Assembler) => unknown, user = false): End {
    this.place(write);
    this.start(CODE, user);
    return this.go();
  }

  /** The frame on the current stack; `withError`: below it lies an error code. */
  frame(withError: boolean): Frame {
    let at = this.core.fields.word(RSP);
    const next = (): number => {
      const value = Number(this.view.getBigInt64(at, true));
      at += 8;
      return value;
    };
    const error = withError ? next() : 0;
    return { error, rip: next(), cs: next(), flags: next(), rsp: next(), ss: next() };
  }

  /** Replaces the handler of a vector; `ist`: interrupt stack table entry. */
  setGate(vector: number, handler: number, ist = 0, isUser = false): void {
    const at = IDT + vector * 16;
    this.view.setUint16(at, handler & 0xffff, true);
    this.view.setUint16(at + 2, KERNEL_CS, true);
    this.view.setUint16(at + 4, (isUser ? USER_INTERRUPT_GATE : INTERRUPT_GATE) | ist, true);
    this.view.setUint16(at + 6, handler >>> 16, true);
    this.view.setUint32(at + 8, 0, true);
  }

  private writeIdt(): void {
    for (let vector = 0; vector < VECTORS; vector++) {
      const handler = HANDLERS + vector * 16;
      this.core.physical.set(TRAP_OPCODE, handler);
      this.addTrap(handler, `#${vector}`);
      this.setGate(vector, handler);
    }
    this.core.fields.setWord(CPU_IDTR_BASE, IDT);
    this.core.fields.setLow(CPU_IDTR_LIMIT, VECTORS * 16 - 1);
  }

  private writeTss(): void {
    const { fields } = this.core;
    this.view.setBigUint64(TSS + 4, BigInt(RSP0), true);
    this.view.setBigUint64(TSS + 36, BigInt(IST1), true);
    this.setEntry(GDT + TSS_SELECTOR, 0x0000890000000067n | (BigInt(TSS) << 16n));
    this.setEntry(GDT + TSS_SELECTOR + 8, 0n);
    fields.setLow(CPU_GDTR_LIMIT, TSS_SELECTOR + 15);
    fields.setWord(CPU_SEG_BASE + SEG_TR * 8, TSS);
    fields.setLow(CPU_SEG_LIMIT + SEG_TR * 4, 0x67);
    fields.setLow(CPU_SEG_ACCESS + SEG_TR * 4, 0x8b);
    fields.setLow(CPU_SEG_SELECTOR + SEG_TR * 4, TSS_SELECTOR);
  }
}
