// Observers see steps and never act: they are free of time, use physical memory, and are silent while a path is replayed. The kernel
// emits numbered trace events (their meaning is declared in src/kernel/trace.ts); and it tells the ground truth, which machines keep
// beside memory: whose data a frame holds and who is about to execute.
import type { Pfn, VirtAddr } from "./addresses.ts";

/**
 * Whose data or training something is. 16 bits: bit 15 sensitive, bits 14:13 kind, bits 12:0 number (of the mm, or of the VM).
 * A frame of a guest carries kind GUEST and its VM's number; a user page kind USER and its mm's number.
 */
export type Owner = number & { readonly __brand: "Owner" };

export const OWNER_NONE = 0 as Owner;
export const OWNER_KERNEL = 1;
export const OWNER_USER = 2;
export const OWNER_GUEST = 3;
export type OwnerKind = typeof OWNER_KERNEL | typeof OWNER_USER | typeof OWNER_GUEST;

export function owner(kind: OwnerKind, number: number, sensitive: boolean): Owner {
  return ((sensitive ? 0x8000 : 0) | (kind << 13) | (number & 0x1fff)) as Owner;
}

export function ownerKind(label: Owner): OwnerKind | 0 {
  return ((label >> 13) & 3) as OwnerKind | 0;
}

export function ownerNumber(label: Owner): number {
  return label & 0x1fff;
}

export function isSensitiveOwner(label: Owner): boolean {
  return (label & 0x8000) !== 0;
}

/** What was handed out: whole frames (a direct-map address), an object of a slab, a virtually contiguous area, per-CPU memory (an offset). */
export type MemoryKind = "pages" | "slab" | "vmalloc" | "percpu";

/**
 * Number, with kind USER, of what several processes map, or may: shared memory, pages of files, memory that a fork shares until one of
 * both writes. Each of them may read it, so it is nobody else's secret to them; no process has this number.
 */
export const SHARED_BY_PROCESSES = 0;

export interface Observer {
  /** A kernel trace event: number, then up to three values. Called only while the path is live. */
  trace(event: number, a: number, b: number, c: number): void;
  /** Frame `pfn` holds data of `label` from now on (OWNER_NONE: zero). A frame that is freed keeps its label until it is cleared. */
  frameOwner(pfn: Pfn, label: Owner): void;
  /** From now on user code on this CPU runs as `label` (at switch_mm), or guest code does (at vCPU load). */
  context(cpu: number, kind: OwnerKind, label: Owner): void;
  /**
   * The kernel handed out memory, or took it back. For ledgers ("where was this allocated": `allocationSite()` inside) and checks of use
   * after free. Absent: nobody wants to know, and nothing is computed.
   */
  allocated?(kind: MemoryKind, address: VirtAddr, bytes: number): void;
  freed?(kind: MemoryKind, address: VirtAddr, bytes: number): void;
  /** A line of the kernel log. */
  print(text: string): void;
}

/** Hears nothing. */
export const silentObserver: Observer = {
  trace: () => undefined,
  frameOwner: () => undefined,
  context: () => undefined,
  print: () => undefined,
};

/** What an observer in front of `next` passes on of memory that is handed out and taken back: nothing where `next` does not listen. */
export function memoryEvents(next: Observer): Pick<Observer, "allocated" | "freed"> {
  return {
    ...(next.allocated === undefined ? {} : { allocated: next.allocated.bind(next) }),
    ...(next.freed === undefined ? {} : { freed: next.freed.bind(next) }),
  };
}
