// The registers of an interrupted context as the entry stubs save them, on the kernel stack.
import { addVirt, type Ptr, ptr, struct, type View, word } from "../../hardware/index.ts";
import { fredFeature } from "../mitigations/feature-keys.ts";
import { TaskStruct, THREAD_SIZE } from "../sched/task-struct.ts";

/** Kernel: struct pt_regs. The entry stubs push from the end to the beginning. */
export const PtRegs = struct("pt_regs", {
  r15: word,
  r14: word,
  r13: word,
  r12: word,
  rbp: word,
  rbx: word,
  r11: word,
  r10: word,
  r9: word,
  r8: word,
  rax: word,
  rcx: word,
  rdx: word,
  rsi: word,
  rdi: word,
  /** System call number; error code of an exception; -1 for an interrupt. */
  origRax: word,
  rip: word,
  cs: word,
  rflags: word,
  rsp: word,
  ss: word,
});
export type PtRegs = View<typeof PtRegs>;

/** What the frame of an event has above pt_regs: with FRED two words (kernel: TOP_OF_KERNEL_STACK_PADDING). */
function topOfKernelStackPadding(): number {
  return fredFeature.isEnabled() ? 16 : 0;
}

/** Registers of the user context of a task: at the top of its stack (kernel: `task_pt_regs()`). */
export function taskPtRegs(task: Ptr<"task_struct">): Ptr<"pt_regs"> {
  return ptr<"pt_regs">(addVirt(TaskStruct.at(task).stack, THREAD_SIZE - PtRegs.bytes - topOfKernelStackPadding()));
}

/** Kernel: `user_mode()`. */
export function userMode(regs: PtRegs): boolean {
  return (regs.cs & 3) !== 0;
}
