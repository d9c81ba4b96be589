// Objects smaller than a page: caches of equal slots in slabs, the lowest free slot of the lowest slab first. Slabs are never sensitive
// (kernel: new_slab() masks the flag away, spec 2.14), and a freed object is cleared, so an allocated one is zero.
import {
  addVirt,
  assert,
  cpu,
  hex,
  NULL,
  PAGE_SIZE,
  type Ptr,
  pointer,
  struct,
  u32,
  type View,
  type VirtAddr,
} from "../../hardware/index.ts";
import { spinLockIrqsave, spinlock, spinUnlockIrqrestore } from "../spinlock.ts";
import { staticBytes } from "../static-data.ts";
import { shouldFailAlloc } from "./fail-alloc.ts";
import { __GFP_COMP, __GFP_SENSITIVE, __GFP_ZERO, GFP_KERNEL, type Gfp } from "./gfp.ts";
import { allocPages, freePages } from "./page-alloc.ts";
import { getOrder, Page, type PagePtr, PG_SLAB, pageAddress, virtToHeadPage } from "./page-struct.ts";

/** Kernel: struct kmem_cache. */
export const KmemCache = struct("kmem_cache", {
  lock: spinlock,
  objectBytes: u32,
  order: u32,
  objectsPerSlab: u32,
  /** Slabs with a free slot, in order of address; full ones are on no list. */
  partial: pointer("page"),
  /** Slabs on that list of which no slot is used: kept for the next allocation, up to MIN_PARTIAL. */
  empty: u32,
});
export type KmemCache = View<typeof KmemCache>;
export type KmemCachePtr = Ptr<"kmem_cache">;

/** Kernel: MIN_PARTIAL. */
const MIN_PARTIAL = 5;
/** A slab's free slots are two words of bits. */
const MAX_OBJECTS_PER_SLAB = 64;
const MIN_OBJECTS_PER_SLAB = 8;
/** Smallest slot: a cache line, so that no two objects share one. */
const MIN_OBJECT_BYTES = 64;
/** Larger ones come from the page allocator. */
const KMALLOC_MAX_CACHE_BYTES = 4096;
const KMALLOC_CACHES = 7;

/** kmalloc-64, -128, ... -4096 (kernel: kmalloc_caches). */
const kmallocCaches = staticBytes("kmalloc_caches", KMALLOC_CACHES * KmemCache.bytes, 64);

function kmallocCache(index: number): KmemCachePtr {
  return addVirt(kmallocCaches, index * KmemCache.bytes) as KmemCachePtr;
}

/** Index of the smallest cache whose slots hold `bytes`. */
function kmallocIndex(bytes: number): number {
  return Math.max(0, Math.ceil(Math.log2(bytes)) - 6);
}

/** Makes the caches of kmalloc() (kernel: `kmem_cache_init()`). */
export function kmemCacheInit(): void {
  for (let index = 0; index < KMALLOC_CACHES; index++) initCache(kmallocCache(index), MIN_OBJECT_BYTES * 2 ** index);
}

function initCache(cache: KmemCachePtr, objectBytes: number): void {
  const view = KmemCache.at(cache);
  let order = 0;
  while ((PAGE_SIZE * 2 ** order) / objectBytes < MIN_OBJECTS_PER_SLAB) order++;
  view.objectBytes = objectBytes;
  view.order = order;
  view.objectsPerSlab = Math.min(MAX_OBJECTS_PER_SLAB, Math.floor((PAGE_SIZE * 2 ** order) / objectBytes));
}

/** A cache of objects of `bytes` bytes, at most 4096 (kernel: `kmem_cache_create()`). @returns NULL when there is no memory. */
export function kmemCacheCreate(bytes: number): KmemCachePtr {
  assert(bytes > 0 && bytes <= KMALLOC_MAX_CACHE_BYTES, () => `kmem_cache_create() of ${bytes} bytes`);
  const cache = kmalloc(KmemCache.bytes, GFP_KERNEL) as KmemCachePtr;
  if (cache !== 0) initCache(cache, Math.ceil(bytes / MIN_OBJECT_BYTES) * MIN_OBJECT_BYTES);
  return cache;
}

/** Gives the cache back; all its objects were freed (kernel: `kmem_cache_destroy()`). */
export function kmemCacheDestroy(cache: KmemCachePtr): void {
  const view = KmemCache.at(cache);
  for (let slab = view.partial; slab !== 0; slab = view.partial) {
    assert(Page.at(slab).inuse === 0, () => `kmem_cache_destroy(): an object in ${hex(pageAddress(slab))} is in use`);
    unlinkSlab(view, slab);
    discardSlab(slab, view.order);
  }
  kfree(cache);
}

/** `bytes` bytes, aligned to a cache line, or 0 (kernel: `kmalloc()`). Zero up to 4096 bytes; more are whole pages, as they come. */
export function kmalloc(bytes: number, gfp: Gfp): VirtAddr {
  if (bytes <= KMALLOC_MAX_CACHE_BYTES) return kmemCacheAlloc(kmallocCache(kmallocIndex(bytes)), gfp);
  const page = allocPages(gfp | __GFP_COMP, getOrder(bytes));
  return page === 0 ? NULL : pageAddress(page);
}

/** Kernel: `kzalloc()`. */
export function kzalloc(bytes: number, gfp: Gfp): VirtAddr {
  return kmalloc(bytes, gfp | __GFP_ZERO);
}

/** Kernel: `kfree()`. NULL is fine. */
export function kfree(object: VirtAddr): void {
  if (object === NULL) return;
  const page = virtToHeadPage(object);
  const view = Page.at(page);
  if ((view.flags & PG_SLAB) === 0) {
    freePages(page, view.order);
    return;
  }
  freeObject(page, object);
}

/** Kernel: `kmem_cache_alloc()`. The object is zero; kfree() gives it back. */
export function kmemCacheAlloc(cache: KmemCachePtr, gfp: Gfp): VirtAddr {
  if (shouldFailAlloc()) return NULL;
  const view = KmemCache.at(cache);
  const { objectBytes } = view;
  const flags = spinLockIrqsave(view.lock);
  const found = takeObject(view);
  spinUnlockIrqrestore(view.lock, flags);
  const object = found === NULL ? allocFromNewSlab(cache, gfp) : found;
  if (object !== NULL && cpu.isLive) cpu.observer.allocated?.("slab", object, objectBytes);
  return object;
}

/** The lowest free slot of the cache, or NULL. Under its lock. */
function takeObject(cache: KmemCache): VirtAddr {
  const slab = cache.partial;
  return slab === 0 ? NULL : takeFrom(cache, slab);
}

function takeFrom(cache: KmemCache, slab: PagePtr): VirtAddr {
  const view = Page.at(slab);
  const low = view.freeLow;
  const bits = low !== 0 ? low : view.freeHigh;
  const bit = bits & -bits;
  const index = (low !== 0 ? 0 : 32) + 31 - Math.clz32(bit);
  if (low !== 0) view.freeLow = (low & ~bit) >>> 0;
  else view.freeHigh = (bits & ~bit) >>> 0;
  const inuse = view.inuse + 1;
  view.inuse = inuse;
  if (inuse === 1) cache.empty -= 1;
  if (inuse === cache.objectsPerSlab) unlinkSlab(cache, slab);
  return addVirt(pageAddress(slab), index * cache.objectBytes);
}

/** No slot is free: makes a slab. The lock is not held while the page allocator works, which may block. */
function allocFromNewSlab(cache: KmemCachePtr, gfp: Gfp): VirtAddr {
  const view = KmemCache.at(cache);
  const slab = allocPages((gfp & ~__GFP_SENSITIVE) | __GFP_COMP | __GFP_ZERO, view.order);
  if (slab === 0) return NULL;
  const page = Page.at(slab);
  const objects = view.objectsPerSlab;
  page.flags |= PG_SLAB;
  page.slabCache = cache;
  page.inuse = 0;
  page.freeLow = objects >= 32 ? 0xffffffff : 2 ** objects - 1;
  page.freeHigh = objects > 32 ? 2 ** (objects - 32) - 1 : 0;
  const flags = spinLockIrqsave(view.lock);
  linkSlab(view, slab);
  view.empty += 1;
  const object = takeFrom(view, slab);
  spinUnlockIrqrestore(view.lock, flags);
  return object;
}

function freeObject(slab: PagePtr, object: VirtAddr): void {
  const page = Page.at(slab);
  const view = KmemCache.at(page.slabCache);
  const objectBytes = view.objectBytes;
  const index = (object - pageAddress(slab)) / objectBytes;
  assert(Number.isInteger(index), () => `kfree() of ${hex(object)}, which is inside an object`);
  cpu.fill(object, 0, objectBytes);
  if (cpu.isLive) cpu.observer.freed?.("slab", object, objectBytes);
  const flags = spinLockIrqsave(view.lock);
  const bit = (1 << (index & 31)) >>> 0;
  const free = index < 32 ? page.freeLow : page.freeHigh;
  assert((free & bit) === 0, () => `object freed twice: ${hex(object)}`);
  if (index < 32) page.freeLow = (free | bit) >>> 0;
  else page.freeHigh = (free | bit) >>> 0;
  const inuse = page.inuse;
  page.inuse = inuse - 1;
  if (inuse === view.objectsPerSlab) linkSlab(view, slab);
  let discard = false;
  if (inuse === 1) {
    discard = view.empty >= MIN_PARTIAL;
    if (discard) unlinkSlab(view, slab);
    else view.empty += 1;
  }
  spinUnlockIrqrestore(view.lock, flags);
  if (discard) discardSlab(slab, view.order);
}

function discardSlab(slab: PagePtr, order: number): void {
  const page = Page.at(slab);
  page.flags &= ~PG_SLAB;
  page.slabCache = NULL;
  page.freeLow = 0;
  page.freeHigh = 0;
  freePages(slab, order);
}

/** Puts a slab on the list where its address belongs. Under the cache's lock. */
function linkSlab(cache: KmemCache, slab: PagePtr): void {
  let prev: PagePtr = NULL;
  let next = cache.partial;
  while (next !== 0 && next < slab) {
    prev = next;
    next = Page.at(next).next;
  }
  const page = Page.at(slab);
  page.prev = prev;
  page.next = next;
  if (next !== 0) Page.at(next).prev = slab;
  if (prev !== 0) Page.at(prev).next = slab;
  else cache.partial = slab;
}

function unlinkSlab(cache: KmemCache, slab: PagePtr): void {
  const page = Page.at(slab);
  const { prev, next } = page;
  if (next !== 0) Page.at(next).prev = prev;
  if (prev !== 0) Page.at(prev).next = next;
  else cache.partial = next;
  page.prev = NULL;
  page.next = NULL;
}
