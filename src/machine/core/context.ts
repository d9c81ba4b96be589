// Context generations: a small number that stands for everything on which a cached translation depends (CPU, CR3, EPT pointer, VPID,
// paging-control bits, privilege). Soft-TLB and jump-cache tags carry it, so that a switch of address space or privilege costs one
// store and no flush. A generation is never used again for something else until all soft translations are discarded.
import { AC } from "./flags.ts";
import { discardKept, dropKeptPage, forgetInside } from "./kept.ts";
import {
  CODE_16,
  CODE_32,
  CODE_SEGMENTED,
  CONTEXT_BASE,
  CONTEXT_BYTES,
  CONTEXT_KEY_CR3,
  CONTEXT_KEY_EPTP,
  CONTEXT_KEY_MODE,
  CONTEXTS_REGION,
  CPU_CODE_MODE,
  CPU_CODE_TAG,
  CPU_CONTEXT_BASE,
  CPU_CPL,
  CPU_CPU_ID,
  CPU_CR0,
  CPU_CR3,
  CPU_CR4,
  CPU_EFER,
  CPU_EPTP,
  CPU_GENERATION,
  CPU_GUEST_MODE,
  CPU_RFLAGS,
  CPU_RIP_ABSENT,
  CPU_SEG_ACCESS,
  CPU_SEG_BASE,
  CPU_SEG_LIMIT,
  CPU_VPID,
  GENERATION_STEP,
  LIVE_GENERATIONS_REGION,
  LIVE_GENERATIONS_REGION_BYTES,
  MAX_CONTEXTS,
  MODE_SUPERVISOR,
  MODE_SUPERVISOR_AC,
  MODE_USER,
  SEG_CS,
  SEG_DS,
  SEG_ES,
  SEG_SS,
  SHARED_NEXT_GENERATION,
  SOFT_BYTES,
  SOFT_TLB_ENTRIES,
  SOFT_TLB_REGION,
} from "./layout.gen.ts";

export const CR0_PE: u64 = 1;
export const CR0_TS: u64 = 8;
export const CR0_WP: u64 = 0x10000;
export const CR0_PG: u64 = 0x80000000;
export const CR4_TSD: u64 = 0x4;
export const CR4_PGE: u64 = 0x80;
export const CR4_UMIP: u64 = 0x800;
export const CR4_FSGSBASE: u64 = 0x10000;
export const CR4_PCIDE: u64 = 0x20000;
export const CR4_FRED: u64 = 0x100000000;
export const CR4_SMEP: u64 = 0x100000;
export const CR4_SMAP: u64 = 0x200000;
export const EFER_SCE: u64 = 1;
export const EFER_LMA: u64 = 0x400;
export const EFER_NXE: u64 = 0x800;

const LAST_GENERATION: u32 = 4096 - GENERATION_STEP;
const PROBES: u32 = 8;

function mode(): u32 {
  const cr0 = load<u64>(CPU_CR0);
  const cr4 = load<u64>(CPU_CR4);
  let word: u32 = load<u32>(CPU_CPU_ID) | (load<u32>(CPU_VPID) << 8);
  if (cr0 & CR0_PG) word |= 0x1000000;
  if (cr0 & CR0_WP) word |= 0x2000000;
  if (cr4 & CR4_PGE) word |= 0x4000000;
  if (cr4 & CR4_PCIDE) word |= 0x8000000;
  if (cr4 & CR4_SMEP) word |= 0x10000000;
  if (cr4 & CR4_SMAP) word |= 0x20000000;
  if (load<u64>(CPU_EFER) & EFER_NXE) word |= 0x40000000;
  return word;
}

function eptKey(): u64 {
  return load<u32>(CPU_GUEST_MODE) !== 0 ? load<u64>(CPU_EPTP) : 0;
}

/** Finds or makes the generations of the current context. Call after any change of what the key holds. */
export function refreshContext(): void {
  const cr3 = load<u64>(CPU_CR3);
  const eptp = eptKey();
  const word = mode();
  const start = (((cr3 >> 12) as u32) ^ ((cr3 as u32) & 0xfff) ^ ((eptp >> 12) as u32) ^ word) & (MAX_CONTEXTS - 1);
  let free: u32 = 0;
  for (let n: u32 = 0; n < PROBES; n++) {
    const entry = CONTEXTS_REGION + ((start + n) & (MAX_CONTEXTS - 1)) * CONTEXT_BYTES;
    if (load<u32>(entry, CONTEXT_BASE) === 0) {
      if (free === 0) free = entry;
    } else if (
      load<u64>(entry, CONTEXT_KEY_CR3) === cr3 &&
      load<u64>(entry, CONTEXT_KEY_EPTP) === eptp &&
      load<u32>(entry, CONTEXT_KEY_MODE) === word
    ) {
      store<u32>(CPU_CONTEXT_BASE, load<u32>(entry, CONTEXT_BASE));
      refreshMode();
      return;
    }
  }
  // All probes taken: the one whose turn it is gives way. Its generations are not used again, so nothing stale can match.
  if (free === 0)
    free = CONTEXTS_REGION + ((start + (load<u32>(SHARED_NEXT_GENERATION) & (PROBES - 1))) & (MAX_CONTEXTS - 1)) * CONTEXT_BYTES;
  // A free one has base 0, which no context ever has.
  setLive(load<u32>(free, CONTEXT_BASE), false);
  let base = load<u32>(SHARED_NEXT_GENERATION);
  if (base >= LAST_GENERATION) {
    discardSoftTranslations();
    base = GENERATION_STEP;
  }
  store<u32>(SHARED_NEXT_GENERATION, base + GENERATION_STEP);
  store<u64>(free, cr3, CONTEXT_KEY_CR3);
  store<u64>(free, eptp, CONTEXT_KEY_EPTP);
  store<u32>(free, word, CONTEXT_KEY_MODE);
  store<u32>(free, base, CONTEXT_BASE);
  setLive(base, true);
  store<u32>(CPU_CONTEXT_BASE, base);
  refreshMode();
}

function setLive(base: u32, isLive: bool): void {
  store<u8>(LIVE_GENERATIONS_REGION + base / GENERATION_STEP, isLive ? 1 : 0);
}

/** Access rights as in the VMCS: type in bits 3:0, unusable in bit 16. */
export const ACCESS_UNUSABLE: u32 = 0x10000;
export const ACCESS_LONG: u32 = 0x2000;
export const ACCESS_BIG: u32 = 0x4000;
const ACCESS_TYPE: u32 = 0xe;
const TYPE_WRITABLE_DATA: u32 = 2;
const TYPE_CODE_READABLE: u32 = 0xa;

function isFlat(segment: u32): bool {
  const access = load<u32>(CPU_SEG_ACCESS + segment * 4);
  if (access & ACCESS_UNUSABLE) return false;
  if (load<u64>(CPU_SEG_BASE + segment * 8) !== 0 || load<u32>(CPU_SEG_LIMIT + segment * 4) !== u32.MAX_VALUE) return false;
  if (segment === SEG_CS) return (access & TYPE_CODE_READABLE) === TYPE_CODE_READABLE;
  return (access & ACCESS_TYPE) === TYPE_WRITABLE_DATA;
}

/** What code means: CS decides, and outside 64-bit mode whether segments must be looked at. After any change of CS; there, of ES, SS, DS. */
function refreshCode(): void {
  const cs = load<u32>(CPU_SEG_ACCESS + SEG_CS * 4);
  if (cs & ACCESS_LONG || !(load<u64>(CPU_EFER) & EFER_LMA)) {
    if (load<u32>(CPU_CODE_MODE) === 0) return;
    store<u32>(CPU_CODE_MODE, 0);
    store<u64>(CPU_CODE_TAG, 0);
    store<u64>(CPU_RIP_ABSENT, 0);
    return;
  }
  const stackIsFlat = isFlat(SEG_SS) && (load<u32>(CPU_SEG_ACCESS + SEG_SS * 4) & ACCESS_BIG) !== 0;
  const flat = stackIsFlat && isFlat(SEG_CS) && isFlat(SEG_DS) && isFlat(SEG_ES);
  const mode: u32 = (cs & ACCESS_BIG ? CODE_32 : CODE_16) | (flat ? 0 : CODE_SEGMENTED);
  store<u32>(CPU_CODE_MODE, mode);
  store<u64>(CPU_CODE_TAG, (mode as u64) << 40);
  store<u64>(CPU_RIP_ABSENT, 0xffffffff00000000);
}

/** Recomputes the generation after a change of CPL or RFLAGS.AC, and what code means. */
export function refreshMode(): void {
  refreshCode();
  let bits: u32 = MODE_SUPERVISOR;
  if (load<u32>(CPU_CPL) === 3) bits = MODE_USER;
  else if (load<u64>(CPU_RFLAGS) & AC && load<u64>(CPU_CR4) & CR4_SMAP) bits = MODE_SUPERVISOR_AC;
  store<u64>(CPU_GENERATION, (load<u32>(CPU_CONTEXT_BASE) + bits) as u64);
}

/** The generation of a supervisor access made for the kernel by the host. With SMAP it acts as after STAC for user addresses. */
export function hostGeneration(va: i64): u64 {
  const lifts = va >= 0 && (load<u64>(CPU_CR4) & CR4_SMAP) !== 0;
  return (load<u32>(CPU_CONTEXT_BASE) + (lifts ? MODE_SUPERVISOR_AC : MODE_SUPERVISOR)) as u64;
}

/** Empties the soft TLB and forgets all generations. The caller refreshes the context of the active CPU. */
export function discardSoftTranslations(): void {
  memory.fill(CONTEXTS_REGION, 0, MAX_CONTEXTS * CONTEXT_BYTES);
  memory.fill(SOFT_TLB_REGION, 0xff, SOFT_TLB_ENTRIES * SOFT_BYTES);
  memory.fill(LIVE_GENERATIONS_REGION, 0, LIVE_GENERATIONS_REGION_BYTES);
  discardKept();
  store<u32>(SHARED_NEXT_GENERATION, GENERATION_STEP);
}

/** Retires the generations of contexts of this CPU whose CR3 carries `pcid` (all of them if negative). */
export function retireContexts(pcid: i32): void {
  for (let n: u32 = 0; n < (MAX_CONTEXTS as u32); n++) {
    const entry = CONTEXTS_REGION + n * CONTEXT_BYTES;
    if (load<u32>(entry, CONTEXT_BASE) === 0) continue;
    if ((load<u32>(entry, CONTEXT_KEY_MODE) & 0xff) !== load<u32>(CPU_CPU_ID)) continue;
    if (pcid >= 0 && ((load<u64>(entry, CONTEXT_KEY_CR3) as i32) & 0xfff) !== pcid) continue;
    setLive(load<u32>(entry, CONTEXT_BASE), false);
    store<u32>(entry, 0, CONTEXT_BASE);
  }
}

/** Drops what the soft TLB holds of one page of `shift` (12, 21, 30), whatever the context. */
export function dropSoftPage(page: u64, shift: u32): void {
  dropKeptPage(page, shift);
  if (shift === 12) {
    forgetInside(SOFT_TLB_REGION + (((page >> 12) as u32) & (SOFT_TLB_ENTRIES - 1)) * SOFT_BYTES, page, 12);
    return;
  }
  for (let n: u32 = 0; n < (SOFT_TLB_ENTRIES as u32); n++) forgetInside(SOFT_TLB_REGION + n * SOFT_BYTES, page, shift);
}
