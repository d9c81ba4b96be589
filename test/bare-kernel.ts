// A kernel image for tests of the machine alone: a few stubs, page tables as firmware expects them, and tables (GDT, IDT, TSS) that
// its first function writes with steps of the seam. Not a kernel: handlers are given by the test.
import {
  type Assembler,
  assemble,
  assembler,
  mem,
  r8,
  r9,
  r10,
  r11,
  r12,
  r13,
  r14,
  r15,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from "../src/assembler/index.ts";
import {
  addVirt,
  cpu,
  EARLY_PAGE_TABLE_SYMBOL,
  entryHigh,
  entryLow,
  type KernelImage,
  LARGE_PAGE_SIZE,
  PTE_LARGE,
  PTE_PRESENT,
  PTE_WRITE,
  type Puppet,
  physAddr,
  STUB_RETURN,
  tableIndex,
  type VirtAddr,
  virtAddr,
} from "../src/hardware/index.ts";

/** 0xffffffff81000000, loaded at 16 MiB. */
export const TEXT_BASE = virtAddr(-0x7f000000);
const TEXT_PHYSICAL = 0x1000000;
/** 0xffff888000000000. */
export const DIRECT_MAP = virtAddr(-0x778000000000);
const PAGE = 4096;
const ENTRIES = 512;
/** 2 MiB pages of text and what follows it. */
const TEXT_LARGE_PAGES = 8;
/** Free memory for tests begins here; tables below it, from 32 MiB on. */
export const FREE_PHYSICAL = 0x2100000;
const GDT_PHYSICAL = 0x2000000;
const IDT_PHYSICAL = 0x2001000;
const TSS_PHYSICAL = 0x2002000;
const TSS_BYTES = 0x68;
/** Stacks of CPU n end at 0x2080000 + (n + 1) * 0x4000; IST stacks in the same distance from 0x20c0000. */
const STACKS_PHYSICAL = 0x2080000;
const IST_PHYSICAL = 0x20c0000;
const STACK_BYTES = 0x4000;

// Selectors as Linux has them: CS and SS are those that firmware leaves loaded.
export const KERNEL_CS = 0x10;
export const KERNEL_SS = 0x18;
export const USER_SS = 0x2b;
export const USER_CS = 0x33;
export const TSS_SELECTOR = 0x40;
const GDT = [0n, 0n, 0x00af9b000000ffffn, 0x00cf93000000ffffn, 0n, 0x00cff3000000ffffn, 0x00affb000000ffffn] as const;
const GATE_INTERRUPT = 0x8e00;
const NMI_IST = 1;
const NMI_VECTOR = 2;
/** Vectors whose delivery pushes an error code. */
const WITH_ERROR: ReadonlySet<number> = new Set([8, 10, 11, 12, 13, 14, 17, 21]);
const SAVED = [rdi, rsi, rdx, rcx, rax, r8, r9, r10, r11, rbx, rbp, r12, r13, r14, r15] as const;
/** Offsets of the interrupt frame above the saved registers (pt_regs: orig_ax is the error code). */
export const FRAME_ERROR = SAVED.length * 8;
export const FRAME_RIP = FRAME_ERROR + 8;

export function direct(pa: number): VirtAddr {
  return addVirt(DIRECT_MAP, pa);
}

export interface TestKernel {
  /** First function of the boot CPU, after tables are loaded. */
  readonly start: () => void;
  /** First function of other CPUs. */
  readonly startOther?: () => void;
  /** Handlers of vectors. */
  readonly vectors?: ReadonlyMap<number, () => void>;
  /** More code: labels become symbols, traps need handlers. */
  readonly code?: (a: Assembler) => void;
  readonly handlers?: ReadonlyMap<string, () => void>;
  readonly puppets?: ReadonlyMap<string, Puppet>;
}

/** Builds the image; `start` runs with GDT, IDT, TSS loaded, interrupts off, on the CPU's stack. */
export function testImage(kernel: TestKernel): KernelImage {
  const vectors = kernel.vectors ?? new Map<number, () => void>();
  const a = assembler();
  a.label("start")
    .mov(rsp, BigInt(DIRECT_MAP + STACKS_PHYSICAL))
    .mov(rax, rdi)
    .inc(rax)
    .shl(rax, 14)
    .add(rsp, rax);
  a.trap("test_start").label("idle").hlt().jmp("idle");
  a.label(STUB_RETURN).trap(STUB_RETURN);
  for (const vector of vectors.keys()) entryStub(a, vector);
  a.label("switch_stub");
  switchStub(a);
  kernel.code?.(a);
  const { bytes, symbols, traps } = assemble(a.program(), { origin: TEXT_BASE });
  const image = new Uint8Array(Math.ceil(bytes.length / PAGE) * PAGE + 4 * PAGE);
  image.set(bytes);
  const tables = image.length - 4 * PAGE;
  writePageTables(image, tables);
  const handlers = new Map<string, () => void>([["test_start", () => begin(kernel, vectors)]]);
  for (const [vector, handler] of vectors) handlers.set(`vector_${vector}`, handler);
  for (const [name, handler] of kernel.handlers ?? []) handlers.set(name, handler);
  const named = new Map<string, VirtAddr>([...symbols].map(([name, address]) => [name, virtAddr(address)]));
  named.set(EARLY_PAGE_TABLE_SYMBOL, addVirt(TEXT_BASE, tables));
  symbolTable = named;
  return {
    base: TEXT_BASE,
    physicalBase: physAddr(TEXT_PHYSICAL),
    bytes: image,
    symbols: named,
    traps: new Map([...traps].map(([address, name]) => [virtAddr(address), name])),
    handlers,
    stubs: new Map(),
    puppets: kernel.puppets ?? new Map(),
    entrySymbol: "start",
  };
}

/** Symbols of the image built last: what `begin` puts in the IDT. */
let symbolTable: ReadonlyMap<string, VirtAddr> = new Map();

export function testSymbol(name: string): VirtAddr {
  const address = symbolTable.get(name);
  if (address === undefined) throw new Error(`no symbol ${name}`);
  return address;
}

function entryStub(a: Assembler, vector: number): void {
  a.label(`entry_${vector}`);
  if (!WITH_ERROR.has(vector)) a.push(0);
  for (const register of SAVED) a.push(register);
  a.trap(`vector_${vector}`);
  for (const register of [...SAVED].reverse()) a.pop(register);
  a.add(rsp, 8).iretq();
}

/** RDI: prev, RSI: next; the first word of a task is its stack pointer. */
function switchStub(a: Assembler): void {
  for (const register of [rbp, rbx, r12, r13, r14, r15]) a.push(register);
  a.mov(mem(rdi), rsp).mov(rsp, mem(rsi));
  for (const register of [r15, r14, r13, r12, rbx, rbp]) a.pop(register);
  a.ret();
}

function begin(kernel: TestKernel, vectors: ReadonlyMap<number, () => void>): void {
  const id = cpu.id;
  loadTables(id, [...vectors.keys()]);
  if (id === 0) kernel.start();
  else kernel.startOther?.();
}

/** Writes GDT, TSS and IDT (once, by CPU 0) and loads them. */
function loadTables(id: number, vectors: readonly number[]): void {
  const gdt = GDT_PHYSICAL + id * 0x100;
  const tss = TSS_PHYSICAL + id * 0x100;
  for (const [i, descriptor] of GDT.entries()) {
    cpu.store64(direct(gdt + 8 * i), Number(descriptor & 0xffffffffn), Number(descriptor >> 32n));
  }
  const base = direct(tss);
  cpu.store64(
    direct(gdt + TSS_SELECTOR),
    ((TSS_BYTES - 1) | ((base & 0xffff) << 16)) >>> 0,
    (((base >>> 16) & 0xff) | 0x8900 | (base & 0xff000000)) >>> 0,
  );
  cpu.store64(direct(gdt + TSS_SELECTOR + 8), Math.floor(base / 2 ** 32) >>> 0, 0);
  cpu.storeWord(direct(tss + 4), direct(STACKS_PHYSICAL + (id + 1) * STACK_BYTES));
  cpu.storeWord(direct(tss + 0x24), direct(IST_PHYSICAL + (id + 1) * STACK_BYTES));
  if (id === 0) for (const vector of vectors) writeGate(vector);
  cpu.loadTable("gdt", direct(gdt), TSS_SELECTOR + 15);
  cpu.loadTable("tr", TSS_SELECTOR, 0);
  cpu.loadTable("idt", direct(IDT_PHYSICAL), 16 * 256 - 1);
}

function writeGate(vector: number): void {
  const handler = testSymbol(`entry_${vector}`);
  const at = IDT_PHYSICAL + 16 * vector;
  const ist = vector === NMI_VECTOR ? NMI_IST : 0;
  cpu.store64(direct(at), ((handler & 0xffff) | (KERNEL_CS << 16)) >>> 0, ((handler & 0xffff0000) | GATE_INTERRUPT | ist) >>> 0);
  cpu.store64(direct(at + 8), Math.floor(handler / 2 ** 32) >>> 0, 0);
}

/** PGD, PUD of the direct map (1 GiB pages), PUD and PMD of text (2 MiB pages), at offset `tables` of the image. */
function writePageTables(image: Uint8Array, tables: number): void {
  const view = new DataView(image.buffer, image.byteOffset);
  const physical = TEXT_PHYSICAL + tables;
  const write = (table: number, index: number, frame: number, flags: number): void => {
    const at = tables + table * PAGE + index * 8;
    view.setUint32(at, entryLow(physAddr(frame), flags), true);
    view.setUint32(at + 4, entryHigh(physAddr(frame), 0), true);
  };
  const present = PTE_PRESENT | PTE_WRITE;
  write(0, tableIndex(DIRECT_MAP, 4), physical + PAGE, present);
  write(0, tableIndex(TEXT_BASE, 4), physical + 2 * PAGE, present);
  for (let i = 0; i < 4; i++) write(1, (tableIndex(DIRECT_MAP, 3) + i) % ENTRIES, i * 2 ** 30, present | PTE_LARGE);
  write(2, tableIndex(TEXT_BASE, 3), physical + 3 * PAGE, present);
  for (let i = 0; i < TEXT_LARGE_PAGES; i++)
    write(3, tableIndex(TEXT_BASE, 2) + i, TEXT_PHYSICAL + i * LARGE_PAGE_SIZE, present | PTE_LARGE);
}
