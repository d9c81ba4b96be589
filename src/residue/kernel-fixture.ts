// A booted kernel for tests of kernel code: the image is started as firmware does, runs until every CPU sleeps, and then the test's
// function runs as kernel code on the boot CPU, on top of its idle task, as an interrupt handler would: interrupts as the idle task
// left them, and it must not sleep.
import { type CpuModel, fail, findCpuModel, type KernelImage, type Observer } from "../hardware/index.ts";
import type { GuestModel } from "./guest.ts";
import { ResidueMachine } from "./residue-machine.ts";

export interface KernelFixtureOptions {
  readonly memoryBytes?: number;
  readonly cpus?: number;
  readonly commandLine?: string;
  readonly model?: CpuModel;
  readonly observer?: Observer;
  readonly console?: (byte: number) => void;
  /** How guests leave that run while the kernel boots; without it they run on. */
  readonly guest?: GuestModel;
}

const DEFAULT_MEMORY = 128 * 1024 * 1024;
/** A boot that takes more turns than this never ends. */
const BOOT_TURNS = 100_000;

/** Boots `image` until every CPU sleeps. */
export function bootKernel(image: KernelImage, options: KernelFixtureOptions = {}): ResidueMachine {
  const machine = new ResidueMachine({
    model: options.model ?? findCpuModel("skx") ?? fail("no CPU model skx"),
    memoryBytes: options.memoryBytes ?? DEFAULT_MEMORY,
    cpus: options.cpus ?? 1,
    image,
    commandLine: options.commandLine ?? "",
    ...(options.observer === undefined ? {} : { observer: options.observer }),
    ...(options.console === undefined ? {} : { console: options.console }),
  });
  if (options.guest !== undefined) machine.guest = options.guest;
  // Until everybody waits for the first time: timers do not count.
  machine.run(() => machine.cpus.every((cpu) => !cpu.canRun), BOOT_TURNS);
  return machine;
}

/** Boots `image`, then runs `body` as kernel code on the boot CPU and returns its result. */
export function runInKernel<T>(image: KernelImage, body: (machine: ResidueMachine) => T, options: KernelFixtureOptions = {}): T {
  const machine = bootKernel(image, options);
  return runOn(machine, 0, () => body(machine));
}

/** Runs `body` as kernel code on CPU `index` of a machine that sleeps. */
export function runOn<T>(machine: ResidueMachine, index: number, body: () => T): T {
  let result: T | undefined;
  machine.cpu(index).runAside(() => {
    result = body();
  });
  return result as T;
}
