// Suspend to RAM: processes stop, the other CPUs leave, what must not be saved restricted is left, the CPU's registers go to memory, and the
// board sleeps; then all of it backwards (kernel: kernel/power/suspend.c, acpi_suspend_lowlevel()).
import { EINVAL, EIO, type Errno } from "../../abi/index.ts";
import { addVirt, BOOT_FACS, cpu, FACS_WAKING_VECTOR, type PhysAddr, word } from "../../hardware/index.ts";
import { symbolAddress } from "../boot/kernel-text.ts";
import { va } from "../mm/layout.ts";
import { thisRq } from "../sched/schedule.ts";
import { programTimer } from "../sched/tick.ts";
import type { SyntheticFile, SyntheticFiles } from "../synthetic-file.ts";
import { printk } from "../trace.ts";
import { freezeProcesses, thawProcesses } from "./freezer.ts";
import { crashRange, imageFor, isLoaded } from "./kexec-image.ts";
import { resumeSecondaryCpus, suspendSecondaryCpus } from "./non-boot-cpus.ts";
import { restoreProcessorState, saveProcessorState } from "./processor-state.ts";
import { DO_SUSPEND_LOWLEVEL, saveWakeupState, WAKEUP_LONG64 } from "./suspend-stub.ts";
import { syscoreResume, syscoreSuspend } from "./syscore.ts";

/** PM1a control: SLP_EN, and this board's SLP_TYP of S3. ACPI 6.4, 4.8.3.2.1. */
const SLEEP_ENABLE = 1 << 13;
const SLEEP_TYPE_S3 = 1 << 10;

/** Alone, interrupts off (kernel: `suspend_enter()`, `acpi_suspend_enter()`). @returns 0; EIO: the board did not sleep. */
function suspendEnter(): 0 | Errno {
  syscoreSuspend();
  saveProcessorState();
  saveWakeupState();
  word.set(addVirt(va(BOOT_FACS as PhysAddr), FACS_WAKING_VECTOR), symbolAddress(WAKEUP_LONG64));
  const failed = cpu.callStub(DO_SUSPEND_LOWLEVEL, SLEEP_ENABLE | SLEEP_TYPE_S3);
  restoreProcessorState();
  syscoreResume();
  return failed === 0 ? 0 : EIO;
}

/**
 * Suspends to RAM and returns when the machine is awake again (kernel: `pm_suspend(PM_SUSPEND_MEM)`). Process context. @returns 0; EBUSY: a
 * process or a CPU would not stop; EIO. On errors everything runs as before.
 */
export function pmSuspend(): 0 | Errno {
  printk("PM: suspend entry (deep)");
  const frozen = freezeProcesses();
  if (frozen !== 0) return frozen;
  let error = suspendSecondaryCpus();
  if (error === 0) {
    cpu.disableInterrupts();
    error = suspendEnter();
    programTimer(thisRq());
    cpu.enableInterrupts();
    resumeSecondaryCpus();
  }
  thawProcesses();
  printk("PM: suspend exit");
  return error;
}

/** /sys/power/state (kernel: `state_show()`, `state_store()`): the sleep states that there are; writing one enters it. */
const state: SyntheticFile = { show: () => "mem\n", store: (text) => (text.trim() === "mem" ? pmSuspend() : EINVAL) };

function crashSize(): string {
  return `${crashRange().bytes}\n`;
}

/** Everything this folder offers. */
export const POWER_FILES: SyntheticFiles = new Map<string, SyntheticFile>([
  ["/sys/power/state", state],
  ["/sys/kernel/kexec_loaded", { show: () => (isLoaded(imageFor(false)) ? "1\n" : "0\n") }],
  ["/sys/kernel/kexec_crash_loaded", { show: () => (isLoaded(imageFor(true)) ? "1\n" : "0\n") }],
  ["/sys/kernel/kexec_crash_size", { show: crashSize }],
]);
