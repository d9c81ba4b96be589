// The kernel's text: all stubs, assembled at their address, and behind them the page tables with which every CPU starts. It depends on
// nothing but the program, so it is made once; every machine gets its own copy of the bytes.
import { assemble, assembler } from "../../assembler/index.ts";
import {
  EARLY_PAGE_TABLE_SYMBOL,
  fail,
  HUGE_PAGE_SIZE,
  LARGE_PAGE_SIZE,
  PAGE_SIZE,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_LARGE,
  PTE_NX_HIGH,
  PTE_PRESENT,
  PTE_WRITE,
  type Stub,
  tableIndex,
  type VirtAddr,
} from "../../hardware/index.ts";
import { type AlternativeSite, takeOutAlternatives } from "../entry/alternatives.ts";
import { PAGE_OFFSET } from "../mm/layout.ts";
import { KERNEL_TEXT_BASE, KERNEL_TEXT_PHYSICAL } from "../static-data.ts";
import type { StubProgram } from "../stub-program.ts";
import { kernelStubs } from "./kernel-stubs.ts";

export interface KernelText {
  readonly bytes: Uint8Array;
  readonly symbols: ReadonlyMap<string, VirtAddr>;
  readonly traps: ReadonlyMap<VirtAddr, string>;
  readonly stubs: ReadonlyMap<string, Stub>;
  /** Code that is not in `bytes`: written there at boot where a configuration wants it. */
  readonly alternatives: readonly AlternativeSite[];
}

/** Memory that the early direct map reaches, in 1 GiB pages. */
const EARLY_DIRECT_MAP_PAGES = 64;
const KERNEL_PAGE = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY;
/** Kernel: __START_KERNEL_map: here physical 0 appears for the image. */
const START_KERNEL_MAP = (KERNEL_TEXT_BASE - KERNEL_TEXT_PHYSICAL) as VirtAddr; // 0xffffffff80000000

/** The early tables: PGD, PUD of the image, PMD of the image, PUD of the direct map. Kernel: early_top_pgt and its kin. */
function earlyPageTables(physical: number): Uint8Array {
  const tables = new Uint8Array(4 * PAGE_SIZE);
  const view = new DataView(tables.buffer);
  const put = (table: number, index: number, target: number, flags: number, high: number): void => {
    view.setUint32(table * PAGE_SIZE + 8 * index, (target % 2 ** 32) + flags, true);
    view.setUint32(table * PAGE_SIZE + 8 * index + 4, Math.floor(target / 2 ** 32) | high, true);
  };
  put(0, tableIndex(START_KERNEL_MAP, 4), physical + PAGE_SIZE, KERNEL_PAGE, 0);
  put(0, tableIndex(PAGE_OFFSET, 4), physical + 3 * PAGE_SIZE, KERNEL_PAGE, 0);
  put(1, tableIndex(START_KERNEL_MAP, 3), physical + 2 * PAGE_SIZE, KERNEL_PAGE, 0);
  for (let i = 0; i < 512; i++) put(2, i, i * LARGE_PAGE_SIZE, KERNEL_PAGE | PTE_LARGE, 0);
  for (let i = 0; i < EARLY_DIRECT_MAP_PAGES; i++) put(3, i, i * HUGE_PAGE_SIZE, KERNEL_PAGE | PTE_LARGE, PTE_NX_HIGH);
  return tables;
}

/** Stubs begin on a cache line of their own. */
const STUB_ALIGNMENT = 64;

function build(stubs: readonly StubProgram[]): KernelText {
  const a = assembler();
  for (const stub of stubs) {
    a.align(STUB_ALIGNMENT, 0xcc).label(stub.symbol);
    stub.program(a);
  }
  const code = assemble(a.program(), { origin: KERNEL_TEXT_BASE });
  const tablesAt = Math.ceil(code.bytes.length / PAGE_SIZE) * PAGE_SIZE;
  const tables = earlyPageTables(KERNEL_TEXT_PHYSICAL + tablesAt);
  const bytes = new Uint8Array(tablesAt + tables.length);
  const alternatives = takeOutAlternatives(code.bytes, KERNEL_TEXT_BASE, code.symbols);
  bytes.set(code.bytes);
  bytes.set(tables, tablesAt);
  const symbols = new Map(code.symbols as ReadonlyMap<string, VirtAddr>); // labels of a program at a kernel address
  symbols.set(EARLY_PAGE_TABLE_SYMBOL, (KERNEL_TEXT_BASE + tablesAt) as VirtAddr);
  return {
    bytes,
    symbols,
    traps: code.traps as ReadonlyMap<VirtAddr, string>, // as above
    stubs: new Map(stubs.map((stub) => [stub.symbol, stub])),
    alternatives,
  };
}

/** A constant that is computed when it is first asked for: no state, the same program gives the same text. */
function computedOnce<T>(compute: () => T): () => T {
  let value: T | undefined;
  return () => {
    value ??= compute();
    return value;
  };
}

export const kernelText: () => KernelText = computedOnce(() => build(kernelStubs()));

/** Address of a symbol of kernel text. */
export function symbolAddress(symbol: string): VirtAddr {
  return kernelText().symbols.get(symbol) ?? fail(`no such symbol in kernel text: ${symbol}`);
}

/** Symbol whose code holds `address`, or undefined: for reports. */
export function symbolOf(address: number): string | undefined {
  let found: string | undefined;
  for (const stub of kernelText().stubs.keys()) {
    const at = kernelText().symbols.get(stub);
    if (at !== undefined && at <= address) found = stub;
  }
  return address < KERNEL_TEXT_BASE || address >= KERNEL_TEXT_BASE + kernelText().bytes.length ? undefined : found;
}
