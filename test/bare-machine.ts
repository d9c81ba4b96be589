// Runs a bare kernel on a simulated machine, and a log in its memory of what happened: for tests of the machine alone.
import {
  cpu,
  findCpuModel,
  assert as invariant,
  type KernelImage,
  physAddr,
  silentObserver,
  type VirtAddr,
} from "../src/hardware/index.ts";
import { type RunResult, SimulatedMachine } from "../src/machine/index.ts";
import { direct, FREE_PHYSICAL, type TestKernel, testImage } from "./bare-kernel.ts";

const skx = findCpuModel("skx");
invariant(skx !== undefined, () => "no model skx");
export const model = skx;
export const EXIT_PORT = 0xf4;
export const TIMER_VECTOR = 0xec;
export const IPI_VECTOR = 0xfd;
export const APIC_ON = 0x1ff;
export const MEMORY_BYTES = 64 * 2 ** 20;
/** Where tests leave what they saw. */
export const LOG = direct(FREE_PHYSICAL);

export function machineOf(kernel: TestKernel, cpus = 1): SimulatedMachine {
  const image: KernelImage = testImage(kernel);
  return new SimulatedMachine({
    model,
    memoryBytes: MEMORY_BYTES,
    cpus,
    gear: "architectural",
    image,
    commandLine: "",
    observer: silentObserver,
  });
}

export function run(kernel: TestKernel, cpus = 1): { readonly machine: SimulatedMachine; readonly result: RunResult } {
  const machine = machineOf(kernel, cpus);
  return { machine, result: machine.run(50_000_000) };
}

export function exit(status: number): void {
  cpu.portOut(EXIT_PORT, 1, status);
}

export function logged(machine: SimulatedMachine, index: number): number {
  return machine.memory.readWord(physAddr(FREE_PHYSICAL + 8 * index));
}

/** Appends to the log in memory: word 0 is the number of entries. */
export function append(value: number): void {
  const count = cpu.loadWord(LOG);
  cpu.storeWord((LOG + 8 * (count + 1)) as VirtAddr, value);
  cpu.storeWord(LOG, count + 1);
}

export function entries(machine: SimulatedMachine): number[] {
  return Array.from({ length: logged(machine, 0) }, (_, i) => logged(machine, i + 1));
}
