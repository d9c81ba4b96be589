// Handing the machine to another kernel: in an orderly way, at a crash, or for a while, to come back (kernel: kernel/kexec_core.c).
import { EINVAL, type Errno } from "../../abi/index.ts";
import { cpu } from "../../hardware/index.ts";
import { printk } from "../trace.ts";
import { freezeProcesses, thawProcesses } from "./freezer.ts";
import { imageFor, isLoaded } from "./kexec-image.ts";
import { RELOCATE_KERNEL } from "./kexec-stub.ts";
import { resumeSecondaryCpus, suspendSecondaryCpus } from "./non-boot-cpus.ts";
import type { KImage } from "./power-struct.ts";
import { restoreProcessorState, saveProcessorState } from "./processor-state.ts";
import { nmiShootdownCpus, stopOtherCpus } from "./stop-cpus.ts";
import { syscoreResume, syscoreShutdown, syscoreSuspend } from "./syscore.ts";

/** Kernel: `machine_kexec()`. Interrupts off, alone. Returns only with preserved context. */
function machineKexec(image: KImage): void {
  cpu.callStub(RELOCATE_KERNEL, image.controlPage);
}

/** Kernel: `kernel_kexec()`. @returns EINVAL: no image is loaded; with preserved context 0 when the other kernel has returned; EBUSY. */
export function kernelKexec(): 0 | Errno {
  const image = imageFor(false);
  if (!isLoaded(image)) return EINVAL;
  if (image.preserveContext !== 0) return kexecAndReturn(image);
  printk("kexec_core: Starting new kernel");
  cpu.disableInterrupts();
  syscoreShutdown();
  cpu.enableInterrupts();
  stopOtherCpus();
  cpu.disableInterrupts();
  machineKexec(image);
  return 0;
}

/** The other kernel comes back: like a suspend, but that the machine does not sleep (kernel: kernel_kexec() with KEXEC_JUMP). */
function kexecAndReturn(image: KImage): 0 | Errno {
  const frozen = freezeProcesses();
  if (frozen !== 0) return frozen;
  const alone = suspendSecondaryCpus();
  if (alone !== 0) {
    thawProcesses();
    return alone;
  }
  cpu.disableInterrupts();
  syscoreSuspend();
  saveProcessorState();
  machineKexec(image);
  restoreProcessorState();
  syscoreResume();
  cpu.enableInterrupts();
  resumeSecondaryCpus();
  thawProcesses();
  return 0;
}

/**
 * A crash: the kernel that was set aside for it takes over, if there is one (kernel: `crash_kexec()`). Nothing is trusted: no lock, no
 * hook; the restricted address space is not left, because CR3 is overwritten for good. Any context.
 */
export function crashKexec(): void {
  const image = imageFor(true);
  if (!isLoaded(image)) return;
  cpu.disableInterrupts();
  nmiShootdownCpus();
  machineKexec(image);
}
