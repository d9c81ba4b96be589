// The kernel as a machine takes it: text, traps, handlers, stubs, puppets.
import { assert, type KernelImage, type PhysAddr, type Puppet, type Stub } from "../../hardware/index.ts";
import type { Preset } from "../asi/asi-options.ts";
import type { ProcessConfig } from "../linux/process.ts";
import { KERNEL_TEXT_BASE, KERNEL_TEXT_PHYSICAL } from "../static-data.ts";
import { STARTUP_SYMBOL } from "./boot-stubs.ts";
import { type KernelHooks, kernelCode } from "./kernel-stubs.ts";
import { kernelText } from "./kernel-text.ts";
import { startKernel, startSecondary } from "./start-kernel.ts";

export interface KernelConfig {
  readonly preset: Preset;
  /** Started in this order, pids from 1. */
  readonly processes: readonly ProcessConfig[];
  /** Puppets that the processes name. */
  readonly puppets: ReadonlyMap<string, Puppet>;
  readonly hooks?: KernelHooks;
  /** Runs in the boot CPU's context when everything is up, before the processes start (kernel: late_initcall()). */
  readonly lateInitcall?: () => void;
}

/** Builds the image for a configuration. The command line is not part of it: firmware gives it to the kernel. */
export function buildKernelImage(config: KernelConfig): KernelImage {
  for (const { name, puppet, program } of config.processes) {
    assert((puppet === undefined) !== (program === undefined), () => `process ${name} runs either a puppet or a program`);
    if (puppet !== undefined) assert(config.puppets.has(puppet), () => `process ${name}: no puppet ${puppet}`);
  }
  const { bytes, symbols, traps } = kernelText();
  const { stubs, handlers } = kernelCode(() => startKernel(config), startSecondary, config.hooks ?? {});
  return {
    base: KERNEL_TEXT_BASE,
    physicalBase: KERNEL_TEXT_PHYSICAL as PhysAddr,
    bytes: bytes.slice(),
    symbols,
    traps,
    handlers,
    stubs: new Map(stubs.map((stub): [string, Stub] => [stub.symbol, stub])),
    puppets: config.puppets,
    entrySymbol: STARTUP_SYMBOL,
  };
}
