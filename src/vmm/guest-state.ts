// How a guest starts: flat 64-bit mode, described in guests/README.md. Page tables, GDT, TSS and the command line stand in the lowest
// MiB of its memory; registers are set by KVM_SET_SREGS and KVM_SET_REGS.
//
//   0x500 GDT | 0x600 TSS | 0x800 command line | 0x1000 PML4 | 0x2000 PDPT | 0x3000.. page directories
import { DTABLE, KVM_REGS_BYTES, KVM_REGS_ORDER, KVM_SREGS_BYTES, type KvmRegisterName, SEGMENT, SREGS } from "../abi/index.ts";
import {
  CR0_ET,
  CR0_MP,
  CR0_NE,
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_OSFXSR,
  CR4_OSXMMEXCPT,
  CR4_PAE,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  HUGE_PAGE_SIZE,
  LARGE_PAGE_SIZE,
  PAGE_SIZE,
  PTE_LARGE,
  PTE_PRESENT,
  PTE_USER,
  PTE_WRITE,
  RFLAGS_FIXED,
} from "../hardware/index.ts";

const GDT_ADDRESS = 0x500;
const TSS_ADDRESS = 0x600;
const COMMAND_LINE_ADDRESS = 0x800;
const PML4_ADDRESS = 0x1000;
const PDPT_ADDRESS = 0x2000;
const FIRST_DIRECTORY_ADDRESS = 0x3000;
/** Directories up to 0x7fff: 5 GiB. */
const MAX_DIRECTORIES = 5;
export const GUEST_MEMORY_MAX = MAX_DIRECTORIES * HUGE_PAGE_SIZE;
export const GUEST_MEMORY_MIN = LARGE_PAGE_SIZE;

const CODE_SELECTOR = 0x08;
const DATA_SELECTOR = 0x10;
const TSS_SELECTOR = 0x18;
const TSS_BYTES = 104;
const GDT_BYTES = 0x28;
// Descriptors: 64-bit code, data, and the TSS (16 bytes, base TSS_ADDRESS). SDM vol. 3, 3.4.5, 8.2.3.
const GDT_CODE = 0x00af9b000000ffffn;
const GDT_DATA = 0x00cf93000000ffffn;
const GDT_TSS = 0x00008b0000000000n | (BigInt(TSS_ADDRESS) << 16n) | BigInt(TSS_BYTES - 1);

const TYPE_CODE = 11;
const TYPE_DATA = 3;
const TYPE_BUSY_TSS = 11;
const MAX_LIMIT = 0xffffffff;

/** A piece of guest memory to write before the start. */
export interface Piece {
  readonly address: number;
  readonly bytes: Uint8Array;
}

function directories(memoryBytes: number): number {
  return Math.ceil(memoryBytes / HUGE_PAGE_SIZE);
}

function page(fill: (put: (index: number, entry: number) => void) => void): Uint8Array {
  const bytes = new Uint8Array(PAGE_SIZE);
  const view = new DataView(bytes.buffer);
  fill((index, entry) => {
    view.setUint32(8 * index, entry >>> 0, true);
    view.setUint32(8 * index + 4, Math.floor(entry / 2 ** 32), true);
  });
  return bytes;
}

const TABLE_FLAGS = PTE_PRESENT | PTE_WRITE | PTE_USER;
const LEAF_FLAGS = PTE_PRESENT | PTE_WRITE | PTE_LARGE;

/** Everything that the monitor itself puts into guest memory, in pieces of at most a page. */
export function guestTables(memoryBytes: number, commandLine: Uint8Array): readonly Piece[] {
  const low = new Uint8Array(PAGE_SIZE - GDT_ADDRESS);
  const view = new DataView(low.buffer);
  view.setBigUint64(CODE_SELECTOR, GDT_CODE, true);
  view.setBigUint64(DATA_SELECTOR, GDT_DATA, true);
  view.setBigUint64(TSS_SELECTOR, GDT_TSS, true);
  low.set(commandLine, COMMAND_LINE_ADDRESS - GDT_ADDRESS);
  const count = directories(memoryBytes);
  const pieces: Piece[] = [
    { address: GDT_ADDRESS, bytes: low },
    { address: PML4_ADDRESS, bytes: page((put) => put(0, PDPT_ADDRESS + TABLE_FLAGS)) },
    {
      address: PDPT_ADDRESS,
      bytes: page((put) => {
        for (let i = 0; i < count; i++) put(i, FIRST_DIRECTORY_ADDRESS + i * PAGE_SIZE + TABLE_FLAGS);
      }),
    },
  ];
  for (let i = 0; i < count; i++) {
    const first = i * HUGE_PAGE_SIZE;
    const pages = Math.min(512, Math.ceil((memoryBytes - first) / LARGE_PAGE_SIZE));
    const bytes = page((put) => {
      for (let n = 0; n < pages; n++) put(n, first + n * LARGE_PAGE_SIZE + LEAF_FLAGS);
    });
    pieces.push({ address: FIRST_DIRECTORY_ADDRESS + i * PAGE_SIZE, bytes });
  }
  return pieces;
}

interface FlatSegment {
  readonly selector: number;
  readonly type: number;
  readonly base?: number;
  readonly limit?: number;
  readonly isSystem?: boolean;
  readonly isLong?: boolean;
}

function putSegment(view: DataView, at: number, segment: FlatSegment): void {
  const isSystem = segment.isSystem ?? false;
  const isLong = segment.isLong ?? false;
  view.setUint32(at + SEGMENT.base, segment.base ?? 0, true);
  view.setUint32(at + SEGMENT.limit, segment.limit ?? MAX_LIMIT, true);
  view.setUint16(at + SEGMENT.selector, segment.selector, true);
  view.setUint8(at + SEGMENT.type, segment.type);
  view.setUint8(at + SEGMENT.present, 1);
  view.setUint8(at + SEGMENT.s, isSystem ? 0 : 1);
  view.setUint8(at + SEGMENT.l, isLong ? 1 : 0);
  view.setUint8(at + SEGMENT.db, isSystem || isLong ? 0 : 1);
  view.setUint8(at + SEGMENT.g, isSystem ? 0 : 1);
}

/** Writes struct kvm_sregs of the start at `at`. */
export function putStartSregs(view: DataView, at: number): void {
  for (let i = 0; i < KVM_SREGS_BYTES; i++) view.setUint8(at + i, 0);
  putSegment(view, at + SREGS.cs, { selector: CODE_SELECTOR, type: TYPE_CODE, isLong: true });
  for (const name of ["ds", "es", "fs", "gs", "ss"] as const)
    putSegment(view, at + SREGS[name], { selector: DATA_SELECTOR, type: TYPE_DATA });
  putSegment(view, at + SREGS.tr, {
    selector: TSS_SELECTOR,
    type: TYPE_BUSY_TSS,
    base: TSS_ADDRESS,
    limit: TSS_BYTES - 1,
    isSystem: true,
  });
  view.setUint8(at + SREGS.ldt + SEGMENT.unusable, 1);
  view.setUint32(at + SREGS.gdt + DTABLE.base, GDT_ADDRESS, true);
  view.setUint16(at + SREGS.gdt + DTABLE.limit, GDT_BYTES - 1, true);
  view.setUint32(at + SREGS.cr0, (CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_MP | CR0_PE) >>> 0, true);
  view.setUint32(at + SREGS.cr3, PML4_ADDRESS, true);
  view.setUint32(at + SREGS.cr4, CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT, true);
  view.setUint32(at + SREGS.efer, EFER_LME | EFER_LMA | EFER_NXE, true);
}

/** Writes struct kvm_regs of the start at `at`. */
export function putStartRegs(view: DataView, at: number, entry: number, memoryBytes: number): void {
  for (let i = 0; i < KVM_REGS_BYTES; i++) view.setUint8(at + i, 0);
  const put = (name: KvmRegisterName, value: number): void => {
    const offset = at + 8 * KVM_REGS_ORDER.indexOf(name);
    view.setUint32(offset, value >>> 0, true);
    view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
  };
  put("rip", entry);
  // As behind a call: 16-byte aligned minus 8.
  put("rsp", memoryBytes - 16 - 8);
  put("rdi", memoryBytes);
  put("rsi", COMMAND_LINE_ADDRESS);
  put("rflags", RFLAGS_FIXED);
}
