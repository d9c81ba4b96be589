// Stopping the other CPUs for good: by an interrupt at an orderly end, by an NMI at a crash (kernel: arch/x86/kernel/smp.c, reboot.c).
import { cpu } from "../../hardware/index.ts";
import { sendIpi, sendNmi } from "../entry/ipi.ts";
import { REBOOT_VECTOR } from "../entry/vectors.ts";
import { emergencyDisableVirtualization, vmxDisableVirtualizationCpu } from "../kvm/vmx/hardware.ts";
import { onlineCpus, setCpuOffline } from "../mm/percpu.ts";
import { CrashRegion, crashRegion } from "./power-struct.ts";

/** Turns of waiting for others; a CPU that does not answer is left behind (kernel: a second, in NMI mode ten milliseconds). */
const WAIT_TURNS = 10_000;

function others(): number {
  return (onlineCpus() & ~(1 << cpu.id)) >>> 0;
}

function waitForOthers(): void {
  for (let turn = 0; turn < WAIT_TURNS && others() !== 0; turn++) cpu.pause();
}

function tellEach(send: (id: number) => void): void {
  const mask = others();
  for (let id = 0; id < 32; id++) if ((mask & (1 << id)) !== 0) send(id);
}

/** Stops every other CPU (kernel: `native_stop_other_cpus()`). Interrupts may be on. */
export function stopOtherCpus(): void {
  if (others() === 0) return;
  tellEach((id) => sendIpi(id, REBOOT_VECTOR));
  waitForOthers();
}

/** Handler of REBOOT_VECTOR (kernel: `sysvec_reboot()`). Does not return. */
export function rebootInterrupt(): void {
  vmxDisableVirtualizationCpu();
  stopThisCpu();
}

/** Kernel: `nmi_shootdown_cpus()`. Interrupts off. */
export function nmiShootdownCpus(): void {
  CrashRegion.at(crashRegion).isCrashing = 1;
  if (others() === 0) return;
  tellEach(sendNmi);
  waitForOthers();
}

/** First act of an NMI: at a crash this CPU ends here (kernel: `crash_nmi_callback()`). */
export function crashNmi(): void {
  if (CrashRegion.at(crashRegion).isCrashing === 0) return;
  emergencyDisableVirtualization();
  stopThisCpu();
}

function stopThisCpu(): void {
  cpu.disableInterrupts();
  setCpuOffline(cpu.id);
  cpu.park();
}
