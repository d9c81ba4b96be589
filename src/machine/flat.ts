// The core without a machine around it: a few pages of code and data in user mode, registers in, registers out. It is what the
// differential tests compare with a real processor, so it looks at the core alone, and sees faults as software does: through an IDT
// whose entries are traps.

import {
  CPU_CPL,
  CPU_CR0,
  CPU_CR2,
  CPU_CR3,
  CPU_CR4,
  CPU_EFER,
  CPU_EXIT_PHYSICAL,
  CPU_FLAG_A,
  CPU_FLAG_KIND,
  CPU_GDTR_BASE,
  CPU_GDTR_LIMIT,
  CPU_GS_BASE,
  CPU_IDTR_BASE,
  CPU_IDTR_LIMIT,
  CPU_REGS,
  CPU_RFLAGS,
  CPU_RIP,
  CPU_SEG_ACCESS,
  CPU_SEG_BASE,
  CPU_SEG_LIMIT,
  CPU_SEG_SELECTOR,
  EXIT_TRAP,
  FLAGS_RAW,
  SEG_CS,
  SEG_ES,
  SEG_FS,
  SEG_GS,
  SEG_TR,
} from "./core/layout.gen.ts";
import type { CoreFields } from "./core-fields.ts";
import type { CoreFunctions } from "./core-functions.ts";

/** What a flat machine needs of a core with at least FLAT_PHYSICAL_BYTES of memory. */
export interface FlatCore {
  readonly functions: CoreFunctions;
  readonly fields: CoreFields;
  /** Simulated physical memory. */
  readonly physical: Uint8Array;
}

export const FLAT_PHYSICAL_BYTES = 0x400000;

/** A stretch of user memory, mapped one to one. */
export interface FlatRange {
  readonly base: number;
  readonly bytes: number;
  readonly isWritable: boolean;
}

/** The outcome of a run. The object is reused. */
export interface FlatResult {
  /** Vector, or -1. */
  vector: number;
  errorCode: number;
  /** Of the fault; otherwise 0. */
  rip: number;
  cr2: number;
  flags: number;
}

// Physical memory below the user ranges, mapped for the supervisor alone, in the kernel half: the low half holds nothing but user ranges.
const KERNEL_BASE = -(2 ** 47);
const KERNEL_PML4_INDEX = 256;
const KERNEL_PDPT = 0x6000;
const KERNEL_DIRECTORY = 0x7000;
const KERNEL_TABLE = 0xd000;
const PML4 = 0x1000;
const PDPT = 0x2000;
const DIRECTORY = 0x3000;
const TABLES = 0x4000; // one for each 2 MiB of FLAT_PHYSICAL_BYTES
const GDT = 0x8000;
const IDT = 0x9000;
const TSS = 0xa000;
const HANDLERS = 0xb000;
const STACK_TOP = 0xd000;
/** A user page that holds the trap at which a run ends; code jumps there. */
const FINISH_PAGE = 0x3ff000;
const KERNEL_BYTES = 0xd000;

const VECTORS = 32;
const HANDLER_BYTES = 16;
const JMP_NEAR = 0xe9;
const PAGE = 4096;
const TRAP_OPCODE = [0x0f, 0xff, 0xc0];

// Page-table entry bits (SDM volume 3, 4.5).
const PRESENT = 1;
const WRITABLE = 2;
const USER = 4;

const KERNEL_CS = 0x08;
const USER_SS = 0x23;
const USER_CS = 0x2b;
const USER32_CS = 0x1b;
const TSS_SELECTOR = 0x30;
const DESCRIPTORS: readonly (readonly [number, bigint])[] = [
  [KERNEL_CS, 0x00af9b000000ffffn],
  [0x10, 0x00cf93000000ffffn],
  [USER32_CS & ~7, 0x00cffb000000ffffn],
  [USER_SS & ~7, 0x00cff3000000ffffn],
  [USER_CS & ~7, 0x00affb000000ffffn],
];
// Access rights as in the VMCS (SDM volume 3, 25.4.1).
const ACCESS_USER_CODE = 0xa0fb;
const ACCESS_USER32_CODE = 0xc0fb;
const ACCESS_USER_DATA = 0xc0f3;
const ACCESS_TSS = 0x8b;
const TSS_LIMIT = 0x67;

const CR0_PG_WP_NE_ET_PE = 0x80010031;
/** PAE, OSFXSR, FSGSBASE. */
const CR4_VALUE = 0x10220;
/** SCE, LME, LMA, NXE. */
const EFER_VALUE = 0xd01;

const BREAKPOINT_VECTOR = 3;
/** Vectors that push an error code (SDM volume 3, table 6-1). */
const HAS_ERROR_CODE: ReadonlySet<number> = new Set([8, 10, 11, 12, 13, 14, 17, 21]);
const PAGE_FAULT_VECTOR = 14;

export class FlatMachine {
  readonly registers: Uint32Array;
  readonly result: FlatResult = { vector: -1, errorCode: 0, rip: 0, cr2: 0, flags: 0 };
  private readonly core: FlatCore;
  private readonly view: DataView;
  private readonly bits: 32 | 64;

  /** `bits`: 64-bit mode, or compatibility mode with 32-bit code and flat segments. */
  constructor(core: FlatCore, ranges: readonly FlatRange[], gsBase: number, bits: 32 | 64 = 64) {
    this.core = core;
    this.bits = bits;
    this.view = new DataView(core.physical.buffer, core.physical.byteOffset, core.physical.byteLength);
    this.registers = new Uint32Array(32);
    this.writePageTables(ranges);
    this.writeDescriptors();
    this.writeHandlers();
    const { fields } = core;
    fields.set(CPU_CR0, CR0_PG_WP_NE_ET_PE, 0);
    fields.setWord(CPU_CR3, PML4);
    fields.setWord(CPU_CR4, CR4_VALUE);
    fields.setWord(CPU_EFER, EFER_VALUE);
    fields.setWord(CPU_GDTR_BASE, KERNEL_BASE + GDT);
    fields.setLow(CPU_GDTR_LIMIT, TSS_SELECTOR + 15);
    fields.setWord(CPU_IDTR_BASE, KERNEL_BASE + IDT);
    fields.setLow(CPU_IDTR_LIMIT, VECTORS * 16 - 1);
    fields.setWord(CPU_SEG_BASE + SEG_TR * 8, KERNEL_BASE + TSS);
    fields.setLow(CPU_SEG_LIMIT + SEG_TR * 4, TSS_LIMIT);
    fields.setLow(CPU_SEG_ACCESS + SEG_TR * 4, ACCESS_TSS);
    fields.setLow(CPU_SEG_SELECTOR + SEG_TR * 4, TSS_SELECTOR);
    fields.setWord(CPU_GS_BASE, gsBase);
    core.functions.contextChanged();
    core.functions.flushAllTlb();
  }

  /** Physical memory at a user address, which is the same number. */
  memory(base: number, bytes: number): Uint8Array {
    return this.core.physical.subarray(base, base + bytes);
  }

  /** Writes `code` and, behind it, the jump that ends a run. */
  writeCode(base: number, code: Uint8Array): void {
    const { view, core } = this;
    const end = base + code.length;
    core.physical.set(code, base);
    if (this.bits === 32) {
      view.setUint8(end, JMP_NEAR);
      view.setInt32(end + 1, FINISH_PAGE - (end + 5), true);
      core.functions.physicalWritten(base, code.length + 5);
      return;
    }
    // JMP [RIP+0] and its target: ends a run without touching a register or a flag.
    view.setUint16(end, 0x25ff, true);
    view.setUint32(end + 2, 0, true);
    view.setBigUint64(end + 6, BigInt(FINISH_PAGE), true);
    core.functions.physicalWritten(base, code.length + 14);
  }

  /**
   * Runs user code at `rip` with the contents of `registers` (low and high halves, by register number) until the jump behind it or a
   * fault; at most `budget` instructions. Leaves registers, flags and what happened in `registers` and `result`.
   * @throws if it does not end.
   */
  run(rip: number, flags: number, budget: number): FlatResult {
    const { fields, functions } = this.core;
    this.enterUserMode(rip, flags);
    const exit = functions.run(budget);
    if (exit !== EXIT_TRAP) throw new Error(`flat run ended by exit ${exit} at 0x${fields.word(CPU_RIP).toString(16)}`);
    this.readResult(fields.word(CPU_EXIT_PHYSICAL));
    return this.result;
  }

  private enterUserMode(rip: number, flags: number): void {
    const { fields, functions } = this.core;
    for (let n = 0; n < 16; n++) fields.set(CPU_REGS + 8 * n, this.registers[2 * n] ?? 0, this.registers[2 * n + 1] ?? 0);
    fields.setWord(CPU_RIP, rip);
    fields.set(CPU_RFLAGS, flags, 0);
    fields.set(CPU_FLAG_A, flags, 0);
    fields.setLow(CPU_FLAG_KIND, FLAGS_RAW);
    fields.setLow(CPU_CPL, 3);
    this.setSegment(SEG_CS, this.bits === 64 ? USER_CS : USER32_CS, this.bits === 64 ? ACCESS_USER_CODE : ACCESS_USER32_CODE);
    for (let segment = SEG_ES; segment <= SEG_GS; segment++) if (segment !== SEG_CS) this.setSegment(segment, USER_SS, ACCESS_USER_DATA);
    fields.setWord(CPU_CR2, 0);
    functions.modeChanged();
  }

  private setSegment(segment: number, selector: number, access: number): void {
    const { fields } = this.core;
    fields.setLow(CPU_SEG_SELECTOR + segment * 4, selector);
    fields.setLow(CPU_SEG_ACCESS + segment * 4, access);
    fields.setLow(CPU_SEG_LIMIT + segment * 4, 0xffffffff);
    if (segment < SEG_FS) fields.set(CPU_SEG_BASE + segment * 8, 0, 0);
  }

  private readResult(trap: number): void {
    const { fields } = this.core;
    const { result, registers } = this;
    for (let n = 0; n < 16; n++) {
      registers[2 * n] = fields.low(CPU_REGS + 8 * n);
      registers[2 * n + 1] = fields.high(CPU_REGS + 8 * n);
    }
    if (trap === FINISH_PAGE) {
      result.vector = -1;
      result.errorCode = 0;
      result.rip = 0;
      result.cr2 = 0;
      result.flags = fields.low(CPU_RFLAGS);
      return;
    }
    this.readFrame((trap - HANDLERS) / HANDLER_BYTES);
  }

  /** What the delivery of `vector` pushed: error code, RIP, CS, RFLAGS, RSP, SS. */
  private readFrame(vector: number): void {
    const { result, registers, view } = this;
    let at = registers[8] ?? 0; // RSP, its low half: the stack's physical address
    result.vector = vector;
    result.errorCode = 0;
    if (HAS_ERROR_CODE.has(vector)) {
      result.errorCode = view.getUint32(at, true);
      at += 8;
    }
    result.rip = view.getInt32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
    result.flags = view.getUint32(at + 16, true);
    registers[8] = view.getUint32(at + 24, true);
    registers[9] = view.getUint32(at + 28, true);
    result.cr2 = vector === PAGE_FAULT_VECTOR ? this.core.fields.word(CPU_CR2) : 0;
  }

  private writePageTables(ranges: readonly FlatRange[]): void {
    const { view } = this;
    const entry = (at: number, value: number): void => view.setBigUint64(at, BigInt(value), true);
    entry(PML4, PDPT | PRESENT | WRITABLE | USER);
    entry(PDPT, DIRECTORY | PRESENT | WRITABLE | USER);
    for (let n = 0; n < FLAT_PHYSICAL_BYTES / 0x200000; n++) entry(DIRECTORY + 8 * n, (TABLES + PAGE * n) | PRESENT | WRITABLE | USER);
    const map = (pa: number, bits: number): void => entry(TABLES + 8 * (pa / PAGE), pa | bits | PRESENT);
    entry(PML4 + 8 * KERNEL_PML4_INDEX, KERNEL_PDPT | PRESENT | WRITABLE);
    entry(KERNEL_PDPT, KERNEL_DIRECTORY | PRESENT | WRITABLE);
    entry(KERNEL_DIRECTORY, KERNEL_TABLE | PRESENT | WRITABLE);
    for (let pa = 0; pa < KERNEL_BYTES; pa += PAGE) entry(KERNEL_TABLE + 8 * (pa / PAGE), pa | PRESENT | WRITABLE);
    map(FINISH_PAGE, USER);
    for (const range of ranges) {
      for (let pa = range.base; pa < range.base + range.bytes; pa += PAGE) map(pa, USER | (range.isWritable ? WRITABLE : 0));
    }
  }

  private writeDescriptors(): void {
    const { view } = this;
    for (const [selector, descriptor] of DESCRIPTORS) view.setBigUint64(GDT + selector, descriptor, true);
    view.setBigUint64(GDT + TSS_SELECTOR, 0x0000890000000000n | (BigInt(TSS) << 16n) | BigInt(TSS_LIMIT), true);
    view.setBigInt64(TSS + 4, BigInt(KERNEL_BASE + STACK_TOP), true); // RSP0
  }

  private writeHandlers(): void {
    const { view, core } = this;
    for (let vector = 0; vector < VECTORS; vector++) {
      const handler = HANDLERS + HANDLER_BYTES * vector;
      core.physical.set(TRAP_OPCODE, handler);
      core.functions.registerTrap(handler);
      const type = vector === BREAKPOINT_VECTOR ? 0xee : 0x8e; // interrupt gate; INT3 may be used by user code
      view.setUint16(IDT + 16 * vector, handler & 0xffff, true);
      view.setUint16(IDT + 16 * vector + 2, KERNEL_CS, true);
      view.setUint16(IDT + 16 * vector + 4, type << 8, true);
      view.setUint16(IDT + 16 * vector + 6, handler >> 16, true);
      view.setInt32(IDT + 16 * vector + 8, Math.floor(KERNEL_BASE / 2 ** 32), true);
    }
    core.physical.set(TRAP_OPCODE, FINISH_PAGE);
    core.functions.registerTrap(FINISH_PAGE);
  }
}
