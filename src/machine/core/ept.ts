// Extended page tables (SDM vol. 3, chapter 29 "VMX support for address translation"): guest-physical to physical. A walk that does
// not allow the access leaves as an EPT violation with its qualification; an entry that cannot be as an EPT misconfiguration.

import {
  ACCESS_EXECUTE,
  ACCESS_READ,
  ACCESS_WRITE,
  CPU_EPTP,
  CPU_EXIT_PHYSICAL,
  CPU_EXIT_QUALIFICATION,
  CPU_FAULT_ENTRY,
  CPU_FAULT_LEVEL,
  CPU_FAULT_TERMINAL,
  CPU_FAULT_VECTOR,
  DETAILED_TRANSIENT,
  FAULT_EPT_MISCONFIG,
  FAULT_EPT_VIOLATION,
  SHARED_EPT_FLAGS,
  SHARED_EPT_SHIFT,
  SHARED_PHYSICAL_MASK_BITS,
  TLB_FLAG_EPT_EXECUTE,
  TLB_FLAG_EPT_READ,
  TLB_FLAG_EPT_WRITE,
} from "./layout.gen.ts";
import { orPhysical64, readPhysical64 } from "./physical.ts";
import { portTableRead } from "./port.gen.ts";

const FRAME_MASK: u64 = 0x000ffffffffff000;
const EPTP_ACCESSED_DIRTY: u64 = 0x40;
const EPT_LEAF: u64 = 0x80;
const EPT_ACCESSED: u64 = 0x100;
const EPT_DIRTY: u64 = 0x200;
/** Exit qualification: the linear address is valid; and the access was to its translation, not to a paging structure. */
const QUALIFICATION_LINEAR: u64 = 0x80;
const QUALIFICATION_TRANSLATED: u64 = 0x100;

/** `-1`: FAULT_VECTOR, EXIT_PHYSICAL and EXIT_QUALIFICATION are set. Else the physical address, SHARED_EPT_FLAGS and SHARED_EPT_SHIFT. */
export function translateGuestPhysical(gpa: u64, access: i32, isTable: bool): i64 {
  const eptp = load<u64>(CPU_EPTP);
  const tracks = (eptp & EPTP_ACCESSED_DIRTY) !== 0;
  let table = eptp & FRAME_MASK;
  let allowed: u64 = 7;
  let shift: u32 = 39;
  while (true) {
    const at = table + (((gpa >> shift) & 511) << 3);
    portTableRead(at);
    const entry = readPhysical64(at);
    if ((entry & 7) === 0) {
      const result = violation(gpa, access, 0, isTable);
      // Kept for what a processor with the L1TF bug does with it.
      store<u32>(CPU_FAULT_TERMINAL, isTable ? 0 : 2);
      store<u64>(CPU_FAULT_ENTRY, entry);
      store<u32>(CPU_FAULT_LEVEL, shift);
      return result;
    }
    if (isMisconfigured(entry, shift)) return misconfiguration(gpa);
    allowed &= entry;
    if (shift === 12 || (entry & EPT_LEAF && shift < 39)) return finish(gpa, access, isTable, entry, at, shift, allowed, tracks);
    if (tracks && !(entry & EPT_ACCESSED) && load<u32>(DETAILED_TRANSIENT) === 0) orPhysical64(at, EPT_ACCESSED);
    table = entry & FRAME_MASK;
    shift -= 9;
  }
}

function finish(gpa: u64, access: i32, isTable: bool, entry: u64, at: u64, shift: u32, allowed: u64, tracks: bool): i64 {
  const needed: u64 = access === ACCESS_WRITE ? 2 : access === ACCESS_EXECUTE ? 4 : 1;
  // With accessed and dirty flags, walks of guest paging structures count as writes (SDM vol. 3, 29.3.5).
  const wanted: u64 = isTable && tracks ? needed | 2 : needed;
  if ((allowed & wanted) !== wanted) return violation(gpa, access, allowed & 7, isTable);
  if (tracks) {
    const bits = access === ACCESS_WRITE || isTable ? EPT_ACCESSED | EPT_DIRTY : EPT_ACCESSED;
    if ((entry & bits) !== bits) {
      // A wrong path sets no accessed or dirty flag; such an access is not performed there.
      if (load<u32>(DETAILED_TRANSIENT) !== 0) return misconfiguration(gpa);
      orPhysical64(at, bits);
    }
  }
  let flags: u32 = 0;
  if (allowed & 1) flags |= TLB_FLAG_EPT_READ;
  if (allowed & 2 && (!tracks || entry & EPT_DIRTY || access === ACCESS_WRITE)) flags |= TLB_FLAG_EPT_WRITE;
  if (allowed & 4) flags |= TLB_FLAG_EPT_EXECUTE;
  store<u32>(SHARED_EPT_FLAGS, flags);
  store<u32>(SHARED_EPT_SHIFT, shift);
  const inside = ((1 as u64) << shift) - 1;
  return ((entry & FRAME_MASK & ~inside) | (gpa & inside)) as i64;
}

/** SDM vol. 3, 29.3.3.1: write without read, reserved bits, reserved memory types. Execute-only is supported. */
function isMisconfigured(entry: u64, shift: u32): bool {
  const permissions = entry & 7;
  if (permissions === 2 || permissions === 6) return true;
  const tooHigh = (entry & FRAME_MASK) >> (load<u32>(SHARED_PHYSICAL_MASK_BITS) as u64);
  if (tooHigh !== 0) return true;
  const isLeaf = shift === 12 || (entry & EPT_LEAF) !== 0;
  if (shift === 39) return (entry & 0xf8) !== 0;
  if (!isLeaf) return (entry & 0x78) !== 0;
  if (shift > 12 && (entry & (((1 as u64) << shift) - 1) & FRAME_MASK) !== 0) return true;
  const memoryType = (entry >> 3) & 7;
  return memoryType === 2 || memoryType === 3 || memoryType === 7;
}

function violation(gpa: u64, access: i32, allowed: u64, isTable: bool): i64 {
  let qualification: u64 = access === ACCESS_READ ? 1 : access === ACCESS_WRITE ? 2 : 4;
  qualification |= allowed << 3;
  qualification |= QUALIFICATION_LINEAR;
  if (!isTable) qualification |= QUALIFICATION_TRANSLATED;
  store<u64>(CPU_EXIT_QUALIFICATION, qualification);
  store<u64>(CPU_EXIT_PHYSICAL, gpa);
  store<u32>(CPU_FAULT_VECTOR, FAULT_EPT_VIOLATION);
  store<u32>(CPU_FAULT_TERMINAL, 0);
  return -1;
}

function misconfiguration(gpa: u64): i64 {
  store<u64>(CPU_EXIT_PHYSICAL, gpa);
  store<u64>(CPU_EXIT_QUALIFICATION, 0);
  store<u32>(CPU_FAULT_VECTOR, FAULT_EPT_MISCONFIG);
  store<u32>(CPU_FAULT_TERMINAL, 0);
  return -1;
}

/** True when the active CPU has an EPT pointer loaded (it matters in guest mode only). */
export function usesEpt(): bool {
  return load<u64>(CPU_EPTP) !== 0;
}
