// The core with nothing around it but page tables that map memory to itself: code at CPL 0, registers in and out, a trap at which a call
// ends. Benchmarks call functions of a guest through it, and tests of the core build their own tables on top.
import { assert } from "../hardware/index.ts";
import {
  CPU_CPL,
  CPU_CR0,
  CPU_CR3,
  CPU_CR4,
  CPU_EFER,
  CPU_EXIT_PHYSICAL,
  CPU_FLAG_A,
  CPU_FLAG_KIND,
  CPU_GDTR_BASE,
  CPU_GDTR_LIMIT,
  CPU_REGS,
  CPU_RFLAGS,
  CPU_RIP,
  CPU_SEG_ACCESS,
  CPU_SEG_LIMIT,
  CPU_SEG_SELECTOR,
  EXIT_BUDGET,
  EXIT_TRAP,
  FLAGS_RAW,
  SEG_CS,
  SEG_SS,
} from "./core/layout.gen.ts";
import type { Core } from "./core.ts";

const PML4 = 0x1000;
const PDPT = 0x2000;
const DIRECTORY = 0x3000;
const GDT = 0x4000;
/** The trap to which calls return. */
const RETURN_TRAP = 0x5000;
const TRAP_OPCODE = [0x0f, 0xff, 0xc0];

const PRESENT_WRITABLE = 3;
const LARGE = 0x80;
const LARGE_PAGE = 0x200000;

export const KERNEL_CS = 0x08;
export const KERNEL_SS = 0x10;
export const USER_SS = 0x1b;
export const USER_CS = 0x23;
const GDT_ENTRIES = [0n, 0x00af9b000000ffffn, 0x00cf93000000ffffn, 0x00cff3000000ffffn, 0x00affb000000ffffn];
const ACCESS_KERNEL_CODE = 0xa09b;
const ACCESS_KERNEL_DATA = 0xc093;
const CR0_PG_WP_NE_ET_PE = 0x80010031;
/** PAE, PGE, OSFXSR. */
const CR4_VALUE = 0x2a0;
/** SCE, LME, LMA, NXE. */
const EFER_VALUE = 0xd01;
const RFLAGS_RESERVED = 2;
/** A run without limit, in portions of this many instructions. */
const PORTION = 0x7fffffff;

export class BareMachine {
  readonly core: Core;

  /** `core`: at reset. */
  constructor(core: Core) {
    this.core = core;
    this.writeTables(core.physical.byteLength);
    const { fields, functions } = this.core;
    fields.set(CPU_CR0, CR0_PG_WP_NE_ET_PE, 0);
    fields.setWord(CPU_CR3, PML4);
    fields.setWord(CPU_CR4, CR4_VALUE);
    fields.setWord(CPU_EFER, EFER_VALUE);
    fields.setWord(CPU_GDTR_BASE, GDT);
    fields.setLow(CPU_GDTR_LIMIT, GDT_ENTRIES.length * 8 - 1);
    this.enterKernel();
    this.core.physical.set(TRAP_OPCODE, RETURN_TRAP);
    functions.registerTrap(RETURN_TRAP);
    functions.contextChanged();
  }

  /** CPL 0 with flat segments. */
  enterKernel(): void {
    const { fields } = this.core;
    for (const [segment, selector, access] of [
      [SEG_CS, KERNEL_CS, ACCESS_KERNEL_CODE],
      [SEG_SS, KERNEL_SS, ACCESS_KERNEL_DATA],
    ] as const) {
      fields.setLow(CPU_SEG_SELECTOR + segment * 4, selector);
      fields.setLow(CPU_SEG_ACCESS + segment * 4, access);
      fields.setLow(CPU_SEG_LIMIT + segment * 4, 0xffffffff);
    }
    fields.setLow(CPU_CPL, 0);
    fields.set(CPU_RFLAGS, RFLAGS_RESERVED, 0);
    fields.set(CPU_FLAG_A, 0, 0);
    fields.setLow(CPU_FLAG_KIND, FLAGS_RAW);
    this.core.functions.modeChanged();
  }

  /** Places bytes in physical memory, which is also their virtual address. */
  load(address: number, bytes: Uint8Array): void {
    this.core.physical.set(bytes, address);
    this.core.functions.physicalWritten(address, bytes.length);
  }

  /** General register `n` as a signed number. */
  register(n: number): number {
    return this.core.fields.word(CPU_REGS + 8 * n);
  }

  setRegister(n: number, value: number): void {
    this.core.fields.setWord(CPU_REGS + 8 * n, value);
  }

  /** Calls the function at `rip` with the stack at `stackTop` and runs until it returns. Throws if anything else ends the run. */
  call(rip: number, stackTop: number): void {
    const { core } = this;
    const rsp = stackTop - 8;
    core.functions.storeNumber(rsp, RETURN_TRAP);
    this.setRegister(4, rsp);
    core.fields.setWord(CPU_RIP, rip);
    let exit = EXIT_BUDGET;
    while (exit === EXIT_BUDGET) exit = core.functions.run(PORTION);
    const trap = core.fields.word(CPU_EXIT_PHYSICAL);
    assert(exit === EXIT_TRAP && trap === RETURN_TRAP, () => `call of ${rip.toString(16)} ended by exit ${exit}`);
  }

  private writeTables(physicalBytes: number): void {
    const view = new DataView(this.core.physical.buffer, this.core.physical.byteOffset);
    view.setBigUint64(PML4, BigInt(PDPT | PRESENT_WRITABLE), true);
    view.setBigUint64(PDPT, BigInt(DIRECTORY | PRESENT_WRITABLE), true);
    for (let n = 0; n * LARGE_PAGE < physicalBytes && n < 512; n++) {
      view.setBigUint64(DIRECTORY + n * 8, BigInt(n * LARGE_PAGE) | BigInt(LARGE | PRESENT_WRITABLE), true);
    }
    for (const [n, entry] of GDT_ENTRIES.entries()) view.setBigUint64(GDT + n * 8, entry, true);
  }
}
