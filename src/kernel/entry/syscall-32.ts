// System calls of 32-bit code: SYSENTER, SYSCALL (AMD), INT 0x80. Kernel: arch/x86/entry/common.c.
import { EFAULT, ENOSYS } from "../../abi/index.ts";
import { cpu, PAGE_SIZE, ptr, RFLAGS_IF, RFLAGS_TF, virtAddr } from "../../hardware/index.ts";
import { asiRelax } from "../asi/asi-transition.ts";
import { kernelBuffer } from "../linux/kernel-buffer.ts";
import { finishSyscall } from "../linux/syscall-sleep.ts";
import { copyFromUser } from "../mm/uaccess.ts";
import { sysret32Allowed, writeEntryWord } from "./entry-area.ts";
import { PtRegs } from "./pt-regs.ts";
import { COMPAT_SYSCALL, dispatchSyscall, syscallEnterFromUserMode, syscallExit } from "./syscall.ts";
import { vdso32LandingPad } from "./vdso-32.ts";
import { __USER_DS, __USER32_CS } from "./vectors.ts";

const RFLAGS_RF = 0x10000;
const RFLAGS_VM = 0x20000;
const FOUR_GIB = 2 ** 32;

/** The number, of 32 bits, and from which table it is; interrupts are on afterwards. */
function enter(regs: PtRegs): number {
  const number = regs.origRax >>> 0;
  regs.origRax = COMPAT_SYSCALL + number;
  regs.rax = ENOSYS;
  syscallEnterFromUserMode(number, true);
  return COMPAT_SYSCALL + number;
}

/** Kernel: `do_int80_emulation()`. Interrupts are off: an interrupt gate. */
export function doInt80Emulation(): void {
  asiRelax();
  const regs = PtRegs.at(ptr<"pt_regs">(cpu.stackPointer()));
  const number = enter(regs);
  syscallExit(finishSyscall(dispatchSyscall(regs, number)));
}

/** Kernel: `do_SYSENTER_32()`. */
export function doSysenter32(): void {
  asiRelax();
  const regs = PtRegs.at(ptr<"pt_regs">(cpu.stackPointer()));
  // The caller's stack pointer is in EBP; SYSENTER cleared IF.
  regs.rsp = regs.rbp >>> 0;
  regs.rflags |= RFLAGS_IF;
  fastSyscall32(regs);
}

/** Kernel: `do_fast_syscall_32()` as SYSCALL's handler. */
export function doFastSyscall32(): void {
  asiRelax();
  fastSyscall32(PtRegs.at(ptr<"pt_regs">(cpu.stackPointer())));
}

/** Both fast calls return to one place of the vDSO; EBP, the sixth argument, is on the user's stack. */
function fastSyscall32(regs: PtRegs): void {
  const landing = vdso32LandingPad();
  regs.rip = landing;
  const number = enter(regs);
  const sixth = loadUser32(regs.rsp >>> 0);
  const leave = (): void => allowSysret32(regs, landing);
  if (sixth < 0) {
    syscallExit(EFAULT, leave);
    return;
  }
  regs.rbp = sixth;
  syscallExit(finishSyscall(dispatchSyscall(regs, number)), leave);
}

/** Kernel: `get_user()` of 4 bytes below 4 GiB. @returns -1: not readable. */
function loadUser32(address: number): number {
  if (address > FOUR_GIB - PAGE_SIZE) return -1;
  return kernelBuffer(4, (buffer) => (copyFromUser(buffer, virtAddr(address), 4) !== 0 ? -1 : cpu.load(buffer, 4)));
}

/** SYSRETL restores EIP and EFLAGS from ECX and R11, which both calls give up: possible unless something changed the way back. */
function allowSysret32(regs: PtRegs, landing: number): void {
  const isAllowed =
    landing !== 0 &&
    regs.rip === landing &&
    regs.cs === __USER32_CS &&
    regs.ss === __USER_DS &&
    (regs.rflags & (RFLAGS_RF | RFLAGS_TF | RFLAGS_VM)) === 0;
  if (isAllowed) writeEntryWord(sysret32Allowed, 1);
}
