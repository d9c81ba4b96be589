// Model-specific registers of one CPU of the abstract machine. Commands act on the labels; the APIC's registers go to the APIC; all
// others that exist hold what is written. SDM vol. 4.

import type { CpuModel } from "../hardware/index.ts";
import {
  ARCH_CAPABILITIES_BITS,
  fail,
  hex,
  ICR_NMI,
  L1D_FLUSH,
  MSR_CSTAR,
  MSR_EFER,
  MSR_FS_BASE,
  MSR_GS_BASE,
  MSR_IA32_APICBASE,
  MSR_IA32_ARCH_CAPABILITIES,
  MSR_IA32_CR_PAT,
  MSR_IA32_DEBUGCTLMSR,
  MSR_IA32_FEAT_CTL,
  MSR_IA32_FLUSH_CMD,
  MSR_IA32_MISC_ENABLE,
  MSR_IA32_PRED_CMD,
  MSR_IA32_SPEC_CTRL,
  MSR_IA32_SYSENTER_CS,
  MSR_IA32_SYSENTER_EIP,
  MSR_IA32_SYSENTER_ESP,
  MSR_IA32_TSC,
  MSR_IA32_TSC_DEADLINE,
  MSR_IA32_TSX_CTRL,
  MSR_KERNEL_GS_BASE,
  MSR_LSTAR,
  MSR_STAR,
  MSR_SYSCALL_MASK,
  MSR_TSC_AUX,
  MSR_X2APIC_EOI,
  MSR_X2APIC_ICR,
  MSR_X2APIC_ID,
  MSR_X2APIC_LVTT,
  MSR_X2APIC_SIVR,
  PRED_CMD_IBPB,
  unsignedFromHalves,
} from "../hardware/index.ts";
import { type LocalApic, MACHINE_CHECK_RESET, vmxCapability } from "../platform/index.ts";
import type { CoreState } from "./core-state.ts";
import type { Labels } from "./labels.ts";
import type { TrackedMemory } from "./tracked-memory.ts";

/** What the registers reach. */
export interface MsrTarget {
  readonly id: number;
  readonly model: CpuModel;
  readonly state: CoreState;
  readonly msrs: ModelRegisters;
  readonly labels: Labels;
  readonly apic: LocalApic;
  readTime(): number;
  /** Sends an interrupt message to another CPU, or to this one. */
  sendInterrupt(destination: number, vector: number, isNmi: boolean): void;
}

type Halves = readonly [low: number, high: number];

/** Plain registers and their values after reset. FEAT_CTL: locked, VMX outside SMX. PAT: SDM vol. 3, 13.12.4. */
const RESET: ReadonlyMap<number, Halves> = new Map<number, Halves>([
  ...MACHINE_CHECK_RESET,
  [MSR_IA32_APICBASE, [0xfee00c00, 0]],
  [MSR_IA32_FEAT_CTL, [5, 0]],
  [MSR_IA32_SPEC_CTRL, [0, 0]],
  [MSR_IA32_TSX_CTRL, [0, 0]],
  [MSR_IA32_SYSENTER_CS, [0, 0]],
  [MSR_IA32_SYSENTER_ESP, [0, 0]],
  [MSR_IA32_SYSENTER_EIP, [0, 0]],
  [MSR_IA32_MISC_ENABLE, [1, 0]],
  [MSR_IA32_DEBUGCTLMSR, [0, 0]],
  [MSR_IA32_CR_PAT, [0x00070406, 0x00070406]],
  [MSR_STAR, [0, 0]],
  [MSR_LSTAR, [0, 0]],
  [MSR_CSTAR, [0, 0]],
  [MSR_SYSCALL_MASK, [0, 0]],
  [MSR_FS_BASE, [0, 0]],
  [MSR_GS_BASE, [0, 0]],
  [MSR_KERNEL_GS_BASE, [0, 0]],
  [MSR_TSC_AUX, [0, 0]],
]);

const NUMBERS: ReadonlyMap<number, number> = new Map([...RESET.keys()].map((msr, index) => [msr, index]));

/** The plain registers of one CPU, as words that are hashed and go back. */
export class ModelRegisters {
  private readonly memory: TrackedMemory;
  private readonly first: number;

  constructor(memory: TrackedMemory) {
    this.memory = memory;
    this.first = memory.reserveRegisters(2 * RESET.size);
    this.reset();
  }

  reset(): void {
    for (const [msr, value] of RESET) this.set(msr, value);
  }

  get(msr: number): Halves | undefined {
    const number = NUMBERS.get(msr);
    if (number === undefined) return undefined;
    const at = this.first + 2 * number;
    return [(this.memory.words[at] ?? 0) >>> 0, (this.memory.words[at + 1] ?? 0) >>> 0];
  }

  set(msr: number, [low, high]: Halves): void {
    const number = NUMBERS.get(msr) ?? fail(`a register that this CPU does not have: ${hex(msr)}`);
    this.memory.setRegister(this.first + 2 * number, low);
    this.memory.setRegister(this.first + 2 * number + 1, high);
  }
}

const ICR_MODE_MASK = 0x700;

function archCapabilities(model: CpuModel): number {
  let bits = 0;
  for (const name of model.archCapabilities) bits |= 1 << ARCH_CAPABILITIES_BITS[name];
  return bits >>> 0;
}

export function readMsr(target: MsrTarget, msr: number): Halves {
  switch (msr) {
    case MSR_EFER:
      return [target.state.efer, 0];
    case MSR_IA32_TSC: {
      const time = target.readTime();
      return [time >>> 0, Math.floor(time / 2 ** 32) >>> 0];
    }
    case MSR_IA32_ARCH_CAPABILITIES:
      return [archCapabilities(target.model), 0];
    case MSR_X2APIC_ID:
      return [target.id, 0];
    case MSR_X2APIC_SIVR:
      return [target.apic.spurious, 0];
    case MSR_X2APIC_LVTT:
      return [target.apic.lvtTimer, 0];
    case MSR_IA32_TSC_DEADLINE: {
      const { deadline } = target.apic;
      return Number.isFinite(deadline) ? [deadline >>> 0, Math.floor(deadline / 2 ** 32) >>> 0] : [0, 0];
    }
    default:
      return target.msrs.get(msr) ?? vmxCapability(msr) ?? fail(`RDMSR of a register that this CPU does not have: ${hex(msr)}`);
  }
}

export function writeMsr(target: MsrTarget, msr: number, low: number, high: number): void {
  switch (msr) {
    case MSR_EFER:
      target.state.efer = low;
      return;
    case MSR_IA32_PRED_CMD:
      if ((low & PRED_CMD_IBPB) !== 0) target.labels.indirectBranchBarrier();
      return;
    case MSR_IA32_FLUSH_CMD:
      if ((low & L1D_FLUSH) !== 0) target.labels.flushL1d(true);
      return;
    case MSR_X2APIC_EOI:
      target.apic.endOfInterrupt();
      return;
    case MSR_X2APIC_SIVR:
      target.apic.spurious = low;
      return;
    case MSR_X2APIC_LVTT:
      target.apic.lvtTimer = low;
      return;
    case MSR_X2APIC_ICR:
      target.sendInterrupt(high, low & 0xff, (low & ICR_MODE_MASK) === ICR_NMI);
      return;
    case MSR_IA32_TSC_DEADLINE: {
      const deadline = unsignedFromHalves(low, high);
      target.apic.deadline = deadline === 0 ? Number.POSITIVE_INFINITY : deadline;
      return;
    }
    default:
      if (!RESET.has(msr)) fail(`WRMSR of a register that this CPU does not have: ${hex(msr)}`);
      target.msrs.set(msr, [low, high]);
  }
}
