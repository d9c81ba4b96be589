// struct page: one record of 64 bytes per frame, in the vmemmap array. A zeroed one is a reserved frame, so that booting touches only
// the records of the blocks it frees.
import {
  i32,
  PAGE_SIZE,
  type Pfn,
  type PhysAddr,
  type Ptr,
  pfnOf,
  pfnToPhys,
  pointer,
  struct,
  u32,
  type View,
  type VirtAddr,
} from "../../hardware/index.ts";
import { pa, VMEMMAP_START, va } from "./layout.ts";

export const PG_SLAB = 1 << 1;
/** Head of a compound page: its tails point to it. */
export const PG_HEAD = 1 << 2;
/** Allocated with __GFP_SENSITIVE. */
export const PG_SENSITIVE = 1 << 3;
/** Its direct-map alias is in the global nonsensitive tables (kernel: PG_global_nonsensitive). */
export const PG_GLOBAL_NONSENSITIVE = 1 << 4;
/** Free, and may hold what a sensitive owner left: cleared before a restricted address space reaches it (S5). */
export const PG_UNCLEARED = 1 << 5;
/** Free, and holds what a nonsensitive owner left. With neither of the two a free frame is zero. */
export const PG_JUNK = 1 << 6;

/** Kernel: struct page. */
export const Page = struct("page", {
  flags: u32,
  /** References; 0 while free. Kernel: _refcount. */
  refcount: i32,
  /** Of the head of an allocated or free block, log2 of its frames. */
  order: u32,
  /** Slab: objects in use. */
  inuse: u32,
  /** Slab: one bit per object, set = free. */
  freeLow: u32,
  freeHigh: u32,
  /** Tail of a compound page: its head. */
  compoundHead: pointer("page"),
  /** Slab: its cache. */
  slabCache: pointer("kmem_cache"),
  /** Links of the list that the page is on: a cache's partial slabs, or a CPU's queue of frees. */
  next: pointer("page"),
  prev: pointer("page"),
  /** Label of whose data it holds (an Owner): told to the machine's ground truth. */
  owner: u32,
  reserved: u32,
});
export type Page = View<typeof Page>;

/** Kernel: sizeof(struct page). */
export const PAGE_STRUCT_BYTES = 64;
export type PagePtr = Ptr<"page">;

export function pfnToPage(pfn: Pfn): PagePtr {
  return (VMEMMAP_START + pfn * PAGE_STRUCT_BYTES) as PagePtr;
}

export function pageToPfn(page: PagePtr): Pfn {
  return ((page - VMEMMAP_START) / PAGE_STRUCT_BYTES) as Pfn;
}

export function pageToPhys(page: PagePtr): PhysAddr {
  return pfnToPhys(pageToPfn(page));
}

export function physToPage(address: PhysAddr): PagePtr {
  return pfnToPage(pfnOf(address));
}

/** Direct-map address of a page (kernel: `page_address()`). */
export function pageAddress(page: PagePtr): VirtAddr {
  return va(pageToPhys(page));
}

/** Page of a direct-map address (kernel: `virt_to_page()`). */
export function virtToPage(address: VirtAddr): PagePtr {
  return physToPage(pa(address));
}

/** Head of the compound page that holds `address` (kernel: `virt_to_head_page()`). */
export function virtToHeadPage(address: VirtAddr): PagePtr {
  const page = virtToPage(address);
  const head = Page.at(page).compoundHead;
  return head === 0 ? page : head;
}

/** Frames of a block. */
export function orderPages(order: number): number {
  return 2 ** order;
}

/** Smallest order whose block holds `bytes` (kernel: `get_order()`). */
export function getOrder(bytes: number): number {
  let order = 0;
  while (PAGE_SIZE * 2 ** order < bytes) order++;
  return order;
}
