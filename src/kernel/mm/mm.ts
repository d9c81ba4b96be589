// The life of a user address space. Its kernel half is a copy of the kernel's own root entries, which never change after boot.
import { addVirt, assert, cpu, NULL } from "../../hardware/index.ts";
import { ASI_MAX_NUM_CLASSES } from "../asi/asi-struct.ts";
import { asiDestroyUserspace, asiInitMm } from "../asi/asi-user.ts";
import { staticBytes } from "../static-data.ts";
import { ephmapDestroy } from "./ephmap.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { MMAP_BASE } from "./layout.ts";
import { destroyContextLdt } from "./ldt.ts";
import { INIT_MM_CTX_ID, Mm, type MmPtr } from "./mm-struct.ts";
import { exitMmap } from "./mmap.ts";
import { pgdAlloc, pgdFree } from "./pti.ts";
import { kfree, kmalloc } from "./slab.ts";

/** Kernel: last_mm_ctx_id. Counts from INIT_MM_CTX_ID. */
const lastMmCtxId = staticBytes("last_mm_ctx_id", 4, 4);
/** Numbers of mm's in labels of owners. */
const lastMmNumber = staticBytes("last_mm_number", 4, 4);

/** Labels have 13 bits for it. */
const MAX_MM_NUMBER = 0x1fff;

/** A new, empty address space with one user (kernel: `mm_alloc()`). @returns NULL when there is no memory. May block. */
export function mmAlloc(): MmPtr {
  const mm = kmalloc(Mm.bytes, GFP_KERNEL) as MmPtr;
  if (mm === NULL) return NULL;
  const pgd = pgdAlloc();
  if (pgd === 0) {
    kfree(mm);
    return NULL;
  }
  const view = Mm.at(mm);
  view.pgd = pgd;
  view.users = 1;
  view.mmapBase = MMAP_BASE;
  view.count = 1;
  view.context.ctxId = cpu.rmw("add", lastMmCtxId, 4, 1) + INIT_MM_CTX_ID + 1;
  // 1 to the largest that a label holds, and again: 0 means several.
  view.number = (cpu.rmw("add", lastMmNumber, 4, 1) % MAX_MM_NUMBER) + 1;
  if (asiInitMm(mm) !== 0) {
    pgdFree(pgd);
    kfree(mm);
    return NULL;
  }
  return mm;
}

function adjust(mm: MmPtr, offset: number, by: number): number {
  return (cpu.rmw("add", addVirt(mm, offset), 4, by >>> 0) + by) | 0;
}

/** Another user of the user half (kernel: `mmget()`). */
export function mmget(mm: MmPtr): void {
  adjust(mm, Mm.offset.users, 1);
}

/** One user less; with the last go all areas and their memory (kernel: `mmput()`). Interrupts on, may block. */
export function mmput(mm: MmPtr): void {
  const users = adjust(mm, Mm.offset.users, -1);
  assert(users >= 0, () => `mmput() of an mm without users: ${Mm.at(mm).number}`);
  if (users > 0) return;
  exitMmap(mm);
  mmdrop(mm);
}

/** Keeps the structure and its root table (kernel: `mmgrab()`). */
export function mmgrab(mm: MmPtr): void {
  adjust(mm, Mm.offset.count, 1);
}

/** Lets go what `mmgrab` kept; the last frees it (kernel: `mmdrop()`). Interrupts may be off. No CPU has it loaded when the last goes. */
export function mmdrop(mm: MmPtr): void {
  const count = adjust(mm, Mm.offset.count, -1);
  assert(count >= 0, () => `mmdrop() of a freed mm: ${Mm.at(mm).number}`);
  if (count > 0) return;
  asiDestroyUserspace(mm);
  const view = Mm.at(mm);
  for (let id = 0; id < ASI_MAX_NUM_CLASSES; id++) {
    assert(view.asi.get(id).refCount === 0, () => `mm ${view.number} is freed with a domain of class ${id} in use`);
  }
  destroyContextLdt(mm);
  ephmapDestroy(mm);
  pgdFree(view.pgd);
  kfree(mm);
}
