// Copies between kernel and user memory. The copy loop is machine code: an access that faults and cannot be served ends at the fixup,
// which the page-fault handler finds by the address of the loop.
import { type Assembler, rax, rcx } from "../../assembler/index.ts";
import { cpu, type VirtAddr } from "../../hardware/index.ts";
import { symbolAddress } from "../boot/kernel-text.ts";
import type { StubProgram } from "../stub-program.ts";
import { accessOk } from "./layout.ts";

const COPY_USER = "copy_user_generic";
const COPY_USER_FIXUP = "copy_user_generic.fixup";

/** RDI to, RSI from, RCX bytes; returns the bytes that were not copied (kernel: `rep_movs_alternative()`). */
const copyUserGeneric: StubProgram = {
  symbol: COPY_USER,
  program: (a: Assembler) => {
    // REP MOVSB counts down as it goes: after a fault RCX is what is left.
    a.rep().movsb();
    a.label(COPY_USER_FIXUP).mov(rax, rcx).ret();
  },
  effect: (to, from, _unused, bytes) => cpu.copyFixable(to as VirtAddr, from as VirtAddr, bytes),
};

export const uaccessStubs: readonly StubProgram[] = [copyUserGeneric];

/** Instructions that may fault on a user address, and where the kernel goes on then (kernel: __ex_table). */
const EXCEPTION_TABLE = [{ instruction: COPY_USER, fixup: COPY_USER_FIXUP }] as const;

/** Where to go on after a fault at `rip`, or 0 (kernel: `search_exception_tables()`). */
export function searchExceptionTables(rip: VirtAddr): VirtAddr | 0 {
  for (const { instruction, fixup } of EXCEPTION_TABLE) if (symbolAddress(instruction) === rip) return symbolAddress(fixup);
  return 0;
}

/** Copies to user memory; a page that is not there is made present. @returns bytes not copied, 0 if all were (kernel: `copy_to_user()`). */
export function copyToUser(to: VirtAddr, from: VirtAddr, bytes: number): number {
  if (!accessOk(to, bytes)) return bytes;
  return bytes === 0 ? 0 : cpu.callStub(COPY_USER, to, from, 0, bytes);
}

/** As `copyFromUser`, but what could not be read is left as it was (kernel: `raw_copy_from_user()`). @returns bytes not copied. */
export function rawCopyFromUser(to: VirtAddr, from: VirtAddr, bytes: number): number {
  if (!accessOk(from, bytes)) return bytes;
  return bytes === 0 ? 0 : cpu.callStub(COPY_USER, to, from, 0, bytes);
}

/** Copies from user memory. What could not be read is zeroed. @returns bytes not copied (kernel: `copy_from_user()`). */
export function copyFromUser(to: VirtAddr, from: VirtAddr, bytes: number): number {
  const left = !accessOk(from, bytes) ? bytes : bytes === 0 ? 0 : cpu.callStub(COPY_USER, to, from, 0, bytes);
  if (left > 0) cpu.fill((to + bytes - left) as VirtAddr, 0, left);
  return left;
}
