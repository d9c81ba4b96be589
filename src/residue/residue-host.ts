// What a CPU of the abstract machine needs of the machine it is in.
import type { Owner, PhysAddr, Puppet, Stub, VirtAddr } from "../hardware/index.ts";
import type { IoBus } from "../platform/index.ts";
import type { GuestModel } from "./guest.ts";
import type { SleepingPaths } from "./sleeping-paths.ts";

/** What a CPU needs of the machine it is in. */
export interface ResidueHost {
  readonly cpuCount: number;
  /** Logical CPUs of a core: 1 or 2. */
  readonly threadsPerCore: number;
  readonly ports: IoBus;
  readonly guest: GuestModel;
  /** Entry points and other stubs of kernel text. */
  stub(symbol: string): Stub | undefined;
  stubAt(address: VirtAddr): Stub | undefined;
  symbol(name: string): VirtAddr | undefined;
  /** Address of the trap of the stub at `address`. */
  trapOf(address: VirtAddr): VirtAddr;
  registerPuppet(name: string, trap: PhysAddr): void;
  puppetAt(trap: PhysAddr): Puppet | undefined;
  sendInterrupt(destination: number, vector: number, isNmi: boolean): void;
  /** Kernel paths that sleep, by the address of their task. */
  readonly sleeping: SleepingPaths;
  /** The owner that context() last named for user and guest code of a CPU. */
  contextLabel(cpu: number, isGuest: boolean): Owner;
}
