// The registers of an interrupted context between CPU and kernel stack, in machine code and in steps: saved and cleared when the kernel
// is entered, restored when it is left (kernel: arch/x86/entry/calling.h).
import {
  type Assembler,
  assemble,
  assembler,
  eax,
  ebp,
  ebx,
  ecx,
  edi,
  edx,
  esi,
  type Reg,
  r8,
  r8d,
  r9,
  r9d,
  r10,
  r10d,
  r11,
  r11d,
  r12,
  r12d,
  r13,
  r13d,
  r14,
  r14d,
  r15,
  r15d,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
} from "../../assembler/index.ts";
import { addVirt, cpu, high32, low32, type VirtAddr } from "../../hardware/index.ts";

/** The general registers in the order in which they are restored; the reverse is pushed. RDI is last: the exits use it until the end. */
const RESTORE_ORDER: readonly Reg[] = [r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi];
const CLEARED = [eax, ecx, edx, ebx, ebp, esi, edi, r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d];

/** Code that is the same wherever it lies, encoded when it is first wanted: every entry begins with the same thirty instructions. */
function encodedOnce(emit: (a: Assembler) => void): (a: Assembler) => void {
  let bytes: Uint8Array | undefined;
  return (a) => {
    if (bytes === undefined) {
      const alone = assembler();
      emit(alone);
      bytes = assemble(alone.program(), { origin: 0 }).bytes;
    }
    a.bytes(bytes);
  };
}

/** Saves and clears the general registers: values of the interrupted context must not steer speculation (PUSH_AND_CLEAR_REGS). */
export const pushAndClearRegisters = encodedOnce((a) => {
  for (const register of [...RESTORE_ORDER].reverse()) a.push(register);
  for (const register of CLEARED) a.xor(register, register);
});

/** Restores all of them (POP_REGS). */
export const popRegisters = encodedOnce((a) => {
  for (const register of RESTORE_ORDER) a.pop(register);
});

/** All but RDI, to which RSP points then (POP_REGS pop_rdi=0). */
export const popAllButRdi = encodedOnce((a) => {
  for (const register of RESTORE_ORDER.slice(0, -1)) a.pop(register);
});

// The same in steps. General registers by their encoding, in RESTORE_ORDER.
const RESTORE_CODES = [15, 14, 13, 12, 5, 3, 11, 10, 9, 8, 0, 1, 2, 6, 7];
const RSP_CODE = 4;

export function setStackPointer(value: number): void {
  cpu.writeRegister(RSP_CODE, low32(value), high32(value));
}

/** What an entry without an error code pushes in its place. RSP first, as a push does: an NMI uses what is below it. */
export function pushNoError(): VirtAddr {
  const frame = addVirt(cpu.stackPointer(), -8);
  setStackPointer(frame);
  cpu.storeWord(frame, -1);
  return frame;
}

/** Stores the general registers below `frame`, where the error code is. RSP first, as above. */
export function saveRegisters(frame: VirtAddr): void {
  const regs = addVirt(frame, -8 * RESTORE_CODES.length);
  setStackPointer(regs);
  for (let i = 0; i < RESTORE_CODES.length; i++) {
    const low = cpu.readRegister(RESTORE_CODES[i] ?? 0);
    cpu.store64(addVirt(regs, 8 * i), low, cpu.high);
  }
}

/** Loads the general registers from the pt_regs at `regs`; RSP stays. */
export function restoreRegisters(regs: VirtAddr): void {
  for (let i = 0; i < RESTORE_CODES.length; i++) {
    const low = cpu.load64(addVirt(regs, 8 * i));
    cpu.writeRegister(RESTORE_CODES[i] ?? 0, low, cpu.high);
  }
}
