// Spinlocks and interrupt masking. A lock is a 4-byte word in kernel memory: 0 is free, else the holder's CPU number plus one. Kernel
// code is not preempted, so a lock taken with interrupts on is held until its holder lets go, interrupt handlers aside.
import { bytes, cpu, type Field, fail, hex, RFLAGS_IF, type VirtAddr } from "../hardware/index.ts";

/** A lock inside a structure; the property is its address (kernel: spinlock_t). Zero bytes are an unlocked lock. */
export const spinlock: Field<VirtAddr> = bytes(4, 4);

/** Kernel: `spin_lock()`. Not for locks that interrupt handlers take. */
export function spinLock(lock: VirtAddr): void {
  while (!cpu.compareExchange(lock, 4, 0, cpu.id + 1)) cpu.pause();
}

/** Kernel: `spin_unlock()`, as CONFIG_DEBUG_SPINLOCK has it: who lets go of a lock must hold it. */
export function spinUnlock(lock: VirtAddr): void {
  if (!cpu.compareExchange(lock, 4, cpu.id + 1, 0)) failNotHeld(lock);
}

function failNotHeld(lock: VirtAddr): never {
  const holder = cpu.load(lock, 4);
  return fail(`spin_unlock() of ${hex(lock)} on cpu ${cpu.id}: ${holder === 0 ? "it is free" : `cpu ${holder - 1} holds it`}`);
}

/** Masks interrupts and returns what `localIrqRestore` needs (kernel: `local_irq_save()`). */
export function localIrqSave(): number {
  const flags = cpu.readFlags() & RFLAGS_IF;
  if (flags !== 0) cpu.disableInterrupts();
  return flags;
}

/** Kernel: `local_irq_restore()`. */
export function localIrqRestore(flags: number): void {
  if (flags !== 0) cpu.enableInterrupts();
}

/** Kernel: `irqs_disabled()`. */
export function irqsDisabled(): boolean {
  return (cpu.readFlags() & RFLAGS_IF) === 0;
}

/** Kernel: `spin_lock_irqsave()`; the result goes to `spinUnlockIrqrestore`. */
export function spinLockIrqsave(lock: VirtAddr): number {
  const flags = localIrqSave();
  spinLock(lock);
  return flags;
}

/** Kernel: `spin_unlock_irqrestore()`. */
export function spinUnlockIrqrestore(lock: VirtAddr, flags: number): void {
  spinUnlock(lock);
  localIrqRestore(flags);
}
