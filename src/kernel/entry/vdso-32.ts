// The page of code that 32-bit programs make their fast system calls from (kernel: the vDSO's __kernel_vsyscall). SYSENTER saves no return
// address, so the kernel returns to one place of this page.
import { type Errno, isErr, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_EXEC, PROT_READ } from "../../abi/index.ts";
import { addVirt, cpu, NULL, PAGE_SIZE, virtAddr } from "../../hardware/index.ts";
import { withRemotePage } from "../linux/program-image.ts";
import { Mm, type MmPtr } from "../mm/mm-struct.ts";
import { doMmap } from "../mm/mmap.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";

/** 32-bit code: push ecx, edx, ebp; mov ebp, esp; sysenter; int 0x80; landing pad: pop ebp, edx, ecx; ret. */
export const VDSO32_SYSENTER = Uint8Array.of(0x51, 0x52, 0x55, 0x89, 0xe5, 0x0f, 0x34, 0xcd, 0x80, 0x5d, 0x5a, 0x59, 0xc3);
/** The same for SYSCALL (AMD): ECX goes to EBP, because the instruction takes ECX. */
export const VDSO32_SYSCALL = Uint8Array.of(0x51, 0x52, 0x55, 0x89, 0xcd, 0x0f, 0x05, 0xcd, 0x80, 0x5d, 0x5a, 0x59, 0xc3);
/** Behind INT 0x80 (kernel: int80_landing_pad). */
const LANDING_PAD = 9;

/** Behind the calls: what a handler returns to that names no restorer (kernel: __kernel_rt_sigreturn): mov eax, 173; int 0x80. */
export const VDSO32_RT_SIGRETURN = Uint8Array.of(0xb8, 0xad, 0x00, 0x00, 0x00, 0xcd, 0x80);
const RT_SIGRETURN_AT = 16;

/** The page for a CPU that has `instruction`. */
export function vdso32Page(instruction: "sysenter" | "syscall"): Uint8Array {
  const page = new Uint8Array(PAGE_SIZE).fill(INT3);
  page.set(instruction === "sysenter" ? VDSO32_SYSENTER : VDSO32_SYSCALL);
  page.set(VDSO32_RT_SIGRETURN, RT_SIGRETURN_AT);
  return page;
}

const INT3 = 0xcc;

/** Address of the code that ends a handler; 0 where the process has no such page. */
export function vdso32SigreturnAddress(): number {
  const vdso = Mm.at(TaskStruct.at(current()).mm).vdso32;
  return vdso === 0 ? 0 : vdso + RT_SIGRETURN_AT;
}

/** Where a fast 32-bit call of the running process returns to; 0 where it has no such page. */
export function vdso32LandingPad(): number {
  const { mm } = TaskStruct.at(current());
  const vdso = Mm.at(mm).vdso32;
  return vdso === 0 ? 0 : vdso + LANDING_PAD;
}

/** Where the page is mapped: below the top of the stack's area. */
const VDSO32_ADDRESS = virtAddr(0xf7ffc000);

/** Maps the page into the memory of a 32-bit program that is being made (kernel: `compat_arch_setup_additional_pages()`). @returns ENOMEM. */
export function mapVdso32(mm: MmPtr): 0 | Errno {
  const mapped = doMmap(mm, VDSO32_ADDRESS, PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0);
  if (isErr(mapped)) return mapped;
  // SYSENTER on Intel's CPUs, SYSCALL on AMD's.
  const page = vdso32Page(isIntel() ? "sysenter" : "syscall");
  const error = withRemotePage(mm, VDSO32_ADDRESS, (at) => {
    const view = new DataView(page.buffer);
    for (let i = 0; i < VDSO32_USED_BYTES; i += 4) cpu.store(addVirt(at, i), 4, view.getUint32(i, true));
  });
  if (error === 0) Mm.at(mm).vdso32 = VDSO32_ADDRESS;
  return error;
}

const VDSO32_USED_BYTES = 32;

/** CPUID 0, EBX: "Genu". */
export function isIntel(): boolean {
  return cpu.cpuid(0, 0, 1) === 0x756e6547;
}
