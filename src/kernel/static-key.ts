// Values that the kernel patches into its text at boot (kernel: static keys, static calls, alternatives): a branch on one costs
// nothing and loads nothing, so reading one is no step. They are bytes of static data, set before anything depends on them and never
// changed afterwards, so that a replay reads what the first run read.
import { addVirt, cpu, type PhysAddr, type VirtAddr } from "../hardware/index.ts";
import { KERNEL_DATA_BASE, KERNEL_DATA_PHYSICAL, staticBytes } from "./static-data.ts";

export interface StaticKey {
  readonly name: string;
  /** 0..255; 0 until set. */
  value(): number;
  isEnabled(): boolean;
  /** A step. Boot code only. */
  set(value: number): void;
}

/** Declares a key. */
export function staticKey(name: string): StaticKey {
  const address: VirtAddr = staticBytes(name, 1, 1);
  const physical = (KERNEL_DATA_PHYSICAL + (addVirt(address, 0) - KERNEL_DATA_BASE)) as PhysAddr;
  return {
    name,
    value: () => cpu.memory.read8(physical),
    isEnabled: () => cpu.memory.read8(physical) !== 0,
    set: (value) => cpu.store(address, 1, value),
  };
}
