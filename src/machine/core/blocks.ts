// Translated code: finding a block by address, asking the host for a translation, filling links, and forgetting blocks whose bytes
// were written. A frame with blocks never gets a soft write tag, so every write to it comes through codeWritten().

import {
  ACCESS_EXECUTE,
  BLOCK_ALIAS,
  BLOCK_BYTES,
  BLOCK_FRAME,
  BLOCK_LIMIT,
  BLOCK_MODE,
  BLOCK_NEXT,
  BLOCK_OFFSET,
  CODE_BYTES,
  CODE_REGION,
  CODE_STEP,
  CPU_CODE_MODE,
  CPU_CODE_TAG,
  CPU_CPL,
  CPU_FAULT_ERROR,
  CPU_FAULT_VECTOR,
  CPU_GENERATION,
  CPU_LINK_PC,
  CPU_LINK_SLOT,
  CPU_PAGE_BASE,
  CPU_RIP,
  FRAME_BLOCKS_REGION,
  FRAME_LINES_REGION,
  JUMP_ADDEND,
  JUMP_BYTES,
  JUMP_CACHE_ENTRIES,
  JUMP_CACHE_REGION,
  JUMP_PC,
  JUMP_TAG,
  LEAVE_FAULT,
  LEAVE_LINK,
  LEAVE_STALE,
  SHARED_CODE_EPOCH,
  SHARED_CODE_TOP,
  SHARED_PHYSICAL_BYTES,
  SHARED_PINNED,
  SHARED_TRANSLATE_PAGE,
  SHARED_TRANSLATED_NEXT,
  SITE_FIRST,
  SITE_OFFSET,
  SITES_REGION,
  SOFT_ADDEND,
  SOFT_BYTES,
  SOFT_EXECUTE,
  SOFT_KEPT_REGION,
  SOFT_KEPT_WAYS,
  SOFT_TLB_ENTRIES,
  SOFT_TLB_REGION,
  SOFT_WRITE,
  UOP_DISP,
  UOP_LINK,
  UOP_OP,
} from "./layout.gen.ts";
import { hostAddress, softEntry } from "./memory.ts";
import { isCanonical, translate, VECTOR_GP } from "./mmu.ts";
import { OP_STALE } from "./ops.gen.ts";
import { isBounce, physicalOf } from "./physical.ts";

/** The host translates the block at byte `offset` of physical page `page` as code of `mode` (CODE_*) and returns its first micro-op. */
declare function translateBlock(page: f64, offset: i32, mode: i32): u32;

/** Translation of one block never needs more than this (64 times ENTER with 31 levels are 66 KiB). */
const LARGEST_BLOCK_BYTES: u32 = 128 * 1024;

function jumpEntry(va: i64): u32 {
  return JUMP_CACHE_REGION + (((va as u32) ^ ((va >> 10) as u32)) & (JUMP_CACHE_ENTRIES - 1)) * JUMP_BYTES;
}

/** The block at `va` if the jump cache and the soft TLB both still know it in this context, else 0. */
export function lookUpJump(va: i64): u32 {
  const jump = jumpEntry(va);
  if (load<u64>(jump, JUMP_TAG) !== ((va as u64) | load<u64>(CPU_CODE_TAG))) return 0;
  const entry = softEntry(va);
  if (load<u64>(entry, SOFT_EXECUTE) !== (((va & ~0xfff) as u64) | load<u64>(CPU_GENERATION))) return 0;
  return load<u32>(jump, JUMP_ADDEND) === load<u32>(entry, SOFT_ADDEND) ? load<u32>(jump, JUMP_PC) : 0;
}

/** The block at `va`, translated if need be; 0 with a fault recorded. Sets nothing but caches. */
export function findBlock(va: i64, step: bool): u32 {
  if (!step) {
    const known = lookUpJump(va);
    if (known !== 0 && load<u16>(known, UOP_OP) !== OP_STALE) return known;
  }
  if (!isCanonical(va)) {
    store<u32>(CPU_FAULT_VECTOR, VECTOR_GP);
    store<u32>(CPU_FAULT_ERROR, 0);
    return 0;
  }
  const host = hostAddress(va, ACCESS_EXECUTE, load<u64>(CPU_GENERATION));
  if (host === 0) return 0;
  if (!step) {
    // Now that the soft TLB knows the page again, perhaps.
    const known = lookUpJump(va);
    if (known !== 0 && load<u16>(known, UOP_OP) !== OP_STALE) return known;
  }
  const pc = blockAt(va, host, step);
  if (pc !== 0 && !step) remember(va, pc);
  return pc;
}

function remember(va: i64, pc: u32): void {
  const jump = jumpEntry(va);
  store<u64>(jump, (va as u64) | load<u64>(CPU_CODE_TAG), JUMP_TAG);
  store<u32>(jump, pc, JUMP_PC);
  store<u32>(jump, load<u32>(softEntry(va), SOFT_ADDEND), JUMP_ADDEND);
}

function blockAt(va: i64, host: u32, step: bool): u32 {
  const offset = (va as u32) & 0xfff;
  const mode: u32 = load<u32>(CPU_CODE_MODE) | (step ? CODE_STEP : 0);
  // Uninstalled memory reads as ones; it is translated from the bounce page, whose frame number lies beyond all tables, each time anew.
  if (isBounce(host)) return translateAt(va, u64.MAX_VALUE, offset, mode);
  const frame = (physicalOf(host) >> 12) as u32;
  for (let block = load<u32>(FRAME_BLOCKS_REGION + frame * 4); block !== 0; block = load<u32>(block, BLOCK_NEXT)) {
    if (load<u16>(block, BLOCK_OFFSET) === offset && load<u8>(block, BLOCK_MODE) === (mode as u8)) return block + BLOCK_BYTES;
  }
  const hadCode = frameHasCode(physicalOf(host));
  const pc = translateAt(va, physicalOf(host) & ~(0xfff as u64), offset, mode);
  if (!hadCode) dropWriteTags(frame);
  const next = load<u32>(SHARED_TRANSLATED_NEXT);
  if (next !== 0) dropWriteTags(next - 1);
  return pc;
}

function translateAt(va: i64, page: u64, offset: u32, mode: u32): u32 {
  if (load<u32>(SHARED_CODE_TOP) + LARGEST_BLOCK_BYTES > ((CODE_REGION + CODE_BYTES) as u32)) {
    // Full. An executor that still holds blocks (a wrong path above us) must give up first.
    if (load<u32>(SHARED_PINNED) !== 0) return 0;
    discardCode();
  }
  store<u64>(SHARED_TRANSLATE_PAGE, (va & ~0xfff) as u64);
  store<u32>(SHARED_TRANSLATED_NEXT, 0);
  return translateBlock(page === u64.MAX_VALUE ? -1 : (page as f64), offset as i32, mode as i32);
}

/** For the translator: physical address of the page after the one that is being translated, as a fetch; -1: it would fault. */
export function nextPagePhysical(): f64 {
  const host = hostAddress((load<u64>(SHARED_TRANSLATE_PAGE) as i64) + 4096, ACCESS_EXECUTE, load<u64>(CPU_GENERATION));
  return host === 0 || isBounce(host) ? -1 : (physicalOf(host) as f64);
}

// @inline
export function frameHasCode(pa: u64): bool {
  return load<u64>(FRAME_LINES_REGION + ((pa >> 12) as u32) * 8) !== 0;
}

/** A frame got its first block: writes to it must take the slow path from now on, under whatever address. */
function dropWriteTags(frame: u32): void {
  dropWriteTagsIn(SOFT_TLB_REGION, SOFT_TLB_ENTRIES, frame);
  dropWriteTagsIn(SOFT_KEPT_REGION, SOFT_TLB_ENTRIES * SOFT_KEPT_WAYS, frame);
}

function dropWriteTagsIn(region: u32, entries: u32, frame: u32): void {
  for (let n: u32 = 0; n < entries; n++) {
    const entry = region + n * SOFT_BYTES;
    const tag = load<u64>(entry, SOFT_WRITE);
    if (tag === u64.MAX_VALUE) continue;
    const host = ((tag as u32) & 0xfffff000) + load<u32>(entry, SOFT_ADDEND);
    if (((physicalOf(host) >> 12) as u32) === frame) store<i64>(entry, -1, SOFT_WRITE);
  }
}

/** Bytes of a frame with code were written: if any of their lines holds translated bytes, all blocks of the frame go. */
export function codeWritten(pa: u64, bytes: u32): void {
  const frame = (pa >> 12) as u32;
  const first = ((pa >> 6) & 63) as u64;
  const last = (((pa & 0xfff) + (bytes as u64) - 1) >> 6) & 63;
  const lines = load<u64>(FRAME_LINES_REGION + frame * 8);
  const below = last === 63 ? u64.MAX_VALUE : ((1 as u64) << (last + 1)) - 1;
  if (lines & below & ~(((1 as u64) << first) - 1)) discardFrame(frame);
}

/** Forgets the blocks of a frame. Their instructions become `stale`, so that links, caches and a running executor notice by themselves. */
export function discardFrame(frame: u32): void {
  let block = load<u32>(FRAME_BLOCKS_REGION + frame * 4);
  // Emptied first: two frames may lead to each other.
  store<u32>(FRAME_BLOCKS_REGION + frame * 4, 0);
  store<u64>(FRAME_LINES_REGION + frame * 8, 0);
  for (; block !== 0; block = load<u32>(block, BLOCK_NEXT)) {
    if (load<u16>(block, BLOCK_OFFSET) === BLOCK_ALIAS) discardFrame(load<u32>(block, BLOCK_FRAME));
    else makeStale(block);
  }
}

function makeStale(block: u32): void {
  const limit = load<u32>(block, BLOCK_LIMIT);
  for (let pc = block + BLOCK_BYTES; pc < limit; pc += 16) {
    if (load<u16>(siteOf(pc), SITE_OFFSET) & SITE_FIRST) store<u16>(pc, OP_STALE, UOP_OP);
  }
}

/** The SITE record of a micro-op. */
export function siteOf(pc: u32): u32 {
  return SITES_REGION + ((pc - CODE_REGION) >> 2);
}

/** Forgets all translations. */
export function discardCode(): void {
  const frames = ((load<u64>(SHARED_PHYSICAL_BYTES) + 4095) >> 12) as u32;
  memory.fill(FRAME_BLOCKS_REGION, 0, frames * 4);
  memory.fill(FRAME_LINES_REGION, 0, frames * 8);
  memory.fill(JUMP_CACHE_REGION, 0xff, JUMP_CACHE_ENTRIES * JUMP_BYTES);
  memory.fill(SITES_REGION, 0, (load<u32>(SHARED_CODE_TOP) - CODE_REGION) >> 2);
  store<u32>(SHARED_CODE_TOP, CODE_REGION);
  store<u32>(SHARED_CODE_EPOCH, load<u32>(SHARED_CODE_EPOCH) + 1);
}

// What the translator's own micro-ops do ---------------------------------------------------------------------------------------

/** link_stub: a branch inside the page whose target is not linked yet. */
export function leaveToLink(pc: usize): i32 {
  store<u64>(CPU_RIP, load<u64>(CPU_PAGE_BASE) + (load<i32>(pc, UOP_DISP) as i64 as u64));
  store<u32>(CPU_LINK_PC, load<u32>(pc, UOP_LINK));
  store<u32>(CPU_LINK_SLOT, load<u32>(pc, UOP_LINK + 4));
  return LEAVE_LINK;
}

export function leaveStale(_pc: usize): i32 {
  return LEAVE_STALE;
}

/** check_next_page: the rest of the instruction must still come from the frame it was translated from. */
export function checkNextPage(_pc: usize, frame: i64): i32 {
  const pa = translate((load<u64>(CPU_PAGE_BASE) as i64) + 4096, ACCESS_EXECUTE, load<u32>(CPU_CPL) === 3 ? 3 : 0);
  if (pa < 0) return LEAVE_FAULT;
  if (pa >> 12 === frame) return 0;
  discardFrame(frameOfPage());
  return LEAVE_STALE;
}

/** fetch_fault: at translation the following page could not be fetched. If it can now, translate again. */
export function fetchFault(_pc: usize): i32 {
  if (translate((load<u64>(CPU_PAGE_BASE) as i64) + 4096, ACCESS_EXECUTE, load<u32>(CPU_CPL) === 3 ? 3 : 0) < 0) return LEAVE_FAULT;
  discardFrame(frameOfPage());
  return LEAVE_STALE;
}

function frameOfPage(): u32 {
  const pa = translate(load<u64>(CPU_PAGE_BASE) as i64, ACCESS_EXECUTE, load<u32>(CPU_CPL) === 3 ? 3 : 0);
  return pa < 0 ? 0 : (((pa as u64) >> 12) as u32);
}
