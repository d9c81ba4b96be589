// A lock whose waiters give up the CPU: a u32 in simulated memory, 0 free, 1 held (kernel: struct mutex, without its wait list).
import { cpu, type VirtAddr } from "../../hardware/index.ts";
import { schedule } from "./schedule.ts";

/** Kernel: `mutex_lock()`. Process context, interrupts on. */
export function mutexLock(lock: VirtAddr): void {
  while (!cpu.compareExchange(lock, 4, 0, 1)) {
    cpu.pause();
    schedule();
  }
}

/** Kernel: `mutex_unlock()`. */
export function mutexUnlock(lock: VirtAddr): void {
  cpu.store(lock, 4, 0);
}
