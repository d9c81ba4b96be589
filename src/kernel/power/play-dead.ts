// The last acts of a CPU that goes offline, in its idle task (kernel: cpu_die_early(), arch_cpu_idle_dead()).
import { addVirt, cpu, MSR_IA32_TSC_DEADLINE, NULL, type Ptr, pointer, u32 } from "../../hardware/index.ts";
import { asiSuspend } from "../asi/asi-suspend.ts";
import { siblingsEnterQuiet } from "../asi/sibling-wait.ts";
import { vmclearInterrupt, vmxDisableVirtualizationCpu } from "../kvm/vmx/hardware.ts";
import { initMm, Mm } from "../mm/mm-struct.ts";
import { setCpuOffline } from "../mm/percpu.ts";
import { flushTlbInterrupt } from "../mm/tlb.ts";
import { loadedMm } from "../mm/tlb-struct.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { staticBytes } from "../static-data.ts";

/** CPU that is to go offline, plus 1; or 0. */
const dyingCpu = staticBytes("cpuhp_dying", 4, 4);
/** The mm that its idle task had borrowed: whoever took it down gives it back. */
const borrowedMm = staticBytes("cpuhp_borrowed_mm", 8, 8);

/** This CPU is to go offline. Interrupts off, in the idle task. */
export function isCpuDying(): boolean {
  return u32.get(dyingCpu) === cpu.id + 1;
}

/** Names the CPU that is to go, or none. */
export function setDyingCpu(id: number | undefined): void {
  u32.set(dyingCpu, id === undefined ? 0 : id + 1);
}

/** Kernel: `finish_cpu()`. */
export function takeBorrowedMm(): Ptr<"mm_struct"> {
  const mm = pointer("mm_struct").get(borrowedMm);
  pointer("mm_struct").set(borrowedMm, NULL);
  return mm;
}

/** Does not return; the CPU starts anew when it is wanted again. Interrupts off, nothing left to run here. */
export function playDead(): void {
  asiSuspend();
  vmxDisableVirtualizationCpu();
  // Kernel: idle_task_exit(). The tables that are loaded are used up to the last step; the reference to them is dropped behind that.
  const mm = loadedMm.get();
  if (mm !== initMm) cpu.rmw("and", addVirt(mm, Mm.offset.cpumask), 4, ~(1 << cpu.id) >>> 0);
  const idle = TaskStruct.at(current());
  const borrowed = idle.activeMm;
  idle.activeMm = initMm;
  pointer("mm_struct").set(borrowedMm, borrowed);
  cpu.writeMsr(MSR_IA32_TSC_DEADLINE, 0, 0);
  setCpuOffline(cpu.id);
  // Who asked before still waits for an answer.
  flushTlbInterrupt();
  vmclearInterrupt();
  siblingsEnterQuiet();
  cpu.park();
}
