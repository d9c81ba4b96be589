// Model-specific registers of a logical CPU: which exist on its model, what they hold, and what writing them does. SDM vol. 4.
// Those that the core itself uses live in its CPU block; the rest are kept here.
import {
  ARCH_CAPABILITIES_BITS,
  type CpuModel,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  EFER_SCE,
  hasFeature,
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
  MSR_IA32_FRED_CONFIG,
  MSR_IA32_FRED_RSP0,
  MSR_IA32_FRED_RSP1,
  MSR_IA32_FRED_RSP2,
  MSR_IA32_FRED_RSP3,
  MSR_IA32_FRED_SSP1,
  MSR_IA32_FRED_SSP2,
  MSR_IA32_FRED_SSP3,
  MSR_IA32_FRED_STKLVLS,
  MSR_IA32_MC0_MISC,
  MSR_IA32_MC0_STATUS,
  MSR_IA32_MCG_CAP,
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
  SPEC_CTRL_IBRS,
  SPEC_CTRL_SSBD,
  SPEC_CTRL_STIBP,
} from "../hardware/index.ts";
import { type LocalApic, logMachineCheck, MACHINE_CHECK_RESET, type MachineCheck, vmxCapability } from "../platform/index.ts";
import {
  CPU_CR8,
  CPU_EFER,
  CPU_FS_BASE,
  CPU_GS_BASE,
  CPU_MSR_CSTAR,
  CPU_MSR_FMASK,
  CPU_MSR_FRED_CONFIG,
  CPU_MSR_FRED_RSP,
  CPU_MSR_FRED_STKLVLS,
  CPU_MSR_KERNEL_GS_BASE,
  CPU_MSR_LSTAR,
  CPU_MSR_STAR,
  CPU_MSR_SYSENTER_CS,
  CPU_MSR_SYSENTER_EIP,
  CPU_MSR_SYSENTER_ESP,
  CPU_MSR_TSC_AUX,
} from "./core/layout.gen.ts";
import type { CoreFields } from "./core-fields.ts";

const MSR_IA32_BIOS_SIGN_ID = 0x8b;
const MSR_X2APIC_FIRST = 0x800;
const MSR_X2APIC_LAST = 0x83f;
const MSR_X2APIC_VERSION = 0x803;
const MSR_X2APIC_TPR = 0x808;
const MSR_X2APIC_ISR = 0x810;
const MSR_X2APIC_IRR = 0x820;
const MSR_X2APIC_ESR = 0x828;
const MSR_X2APIC_LVT_LINT0 = 0x835;
const MSR_X2APIC_LVT_ERROR = 0x837;
const MSR_X2APIC_SELF_IPI = 0x83f;
/** Integrated APIC (0x15) with seven LVT entries. */
const APIC_VERSION = 0x60015;
/** APIC base: x2APIC mode, enabled; bit 8 marks the boot processor. */
const APIC_BASE_LOW = 0xfee00c00;
const APIC_BASE_BSP = 1 << 8;
/** IA32_FEATURE_CONTROL: locked, VMXON outside SMX. */
const FEAT_CTL_VALUE = 5;
/** Power-up value of the PAT: WB WT UC- UC, twice. */
const PAT_LOW = 0x00070406;
const MISC_ENABLE_FAST_STRING = 1;
const EFER_DEFINED = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
/** ICR: destination shorthand in bits 19:18: self, all, all but self. */
const ICR_SHORTHAND_SHIFT = 18;

/** MSRs that the core holds, and where. */
const CORE_MSRS: ReadonlyMap<number, number> = new Map([
  [MSR_STAR, CPU_MSR_STAR],
  [MSR_LSTAR, CPU_MSR_LSTAR],
  [MSR_CSTAR, CPU_MSR_CSTAR],
  [MSR_SYSCALL_MASK, CPU_MSR_FMASK],
  [MSR_IA32_SYSENTER_CS, CPU_MSR_SYSENTER_CS],
  [MSR_IA32_SYSENTER_ESP, CPU_MSR_SYSENTER_ESP],
  [MSR_IA32_SYSENTER_EIP, CPU_MSR_SYSENTER_EIP],
  [MSR_FS_BASE, CPU_FS_BASE],
  [MSR_GS_BASE, CPU_GS_BASE],
  [MSR_KERNEL_GS_BASE, CPU_MSR_KERNEL_GS_BASE],
  [MSR_TSC_AUX, CPU_MSR_TSC_AUX],
  [MSR_IA32_FRED_RSP0, CPU_MSR_FRED_RSP],
  [MSR_IA32_FRED_RSP1, CPU_MSR_FRED_RSP + 8],
  [MSR_IA32_FRED_RSP2, CPU_MSR_FRED_RSP + 16],
  [MSR_IA32_FRED_RSP3, CPU_MSR_FRED_RSP + 24],
  [MSR_IA32_FRED_STKLVLS, CPU_MSR_FRED_STKLVLS],
  [MSR_IA32_FRED_CONFIG, CPU_MSR_FRED_CONFIG],
]);

/** Shadow stacks of FRED's levels: held, never used, for there is no CET. */
const FRED_SHADOW_STACKS = [MSR_IA32_FRED_SSP1, MSR_IA32_FRED_SSP2, MSR_IA32_FRED_SSP3] as const;

/** MSRs that hold an address: a write of a non-canonical one faults. */
const CANONICAL_MSRS: ReadonlySet<number> = new Set([
  MSR_LSTAR,
  MSR_CSTAR,
  MSR_FS_BASE,
  MSR_GS_BASE,
  MSR_KERNEL_GS_BASE,
  MSR_IA32_SYSENTER_ESP,
  MSR_IA32_SYSENTER_EIP,
  MSR_IA32_FRED_RSP0,
  MSR_IA32_FRED_RSP1,
  MSR_IA32_FRED_RSP2,
  MSR_IA32_FRED_RSP3,
  MSR_IA32_FRED_CONFIG,
]);

/** What writing an MSR can set off. */
export interface MsrHost {
  /** The CPU's time-stamp counter. */
  timestamp(): number;
  /** IA32_EFER changed: what translation depends on is new. */
  modeChanged(): void;
  predictorBarrier(): void;
  flushL1d(): void;
  speculationControl(value: number): void;
  /** The APIC has something new: a timer, an end of interrupt, a priority. */
  apicChanged(): void;
  /** Sends `vector` or an NMI to the CPU numbered `destination`; -1: all but this one, -2: all, -3: this one. */
  sendInterrupt(destination: number, vector: number, isNmi: boolean): void;
}

export const SEND_ALL_BUT_SELF = -1;
export const SEND_ALL = -2;
export const SEND_SELF = -3;

export class Msrs {
  private readonly model: CpuModel;
  private readonly fields: CoreFields;
  private readonly apic: LocalApic;
  private readonly host: MsrHost;
  private readonly id: number;
  /** Those that only remember what was written: low, high. */
  private kept: Map<number, readonly [number, number]>;
  private readonly powerUp: ReadonlyMap<number, readonly [number, number]>;
  /** High half of the last value read. */
  high = 0;

  constructor(model: CpuModel, id: number, fields: CoreFields, apic: LocalApic, host: MsrHost) {
    this.model = model;
    this.id = id;
    this.fields = fields;
    this.apic = apic;
    this.host = host;
    this.kept = new Map<number, readonly [number, number]>([
      ...MACHINE_CHECK_RESET,
      [MSR_IA32_CR_PAT, [PAT_LOW, PAT_LOW]],
      [MSR_IA32_DEBUGCTLMSR, [0, 0]],
      [MSR_IA32_MISC_ENABLE, [MISC_ENABLE_FAST_STRING, 0]],
      [MSR_IA32_BIOS_SIGN_ID, [0, 0]],
    ]);
    if (hasFeature(model, "FRED")) for (const msr of FRED_SHADOW_STACKS) this.kept.set(msr, [0, 0]);
    if (hasFeature(model, "IBRS")) this.kept.set(MSR_IA32_SPEC_CTRL, [0, 0]);
    if (model.archCapabilities.includes("TSX_CTRL_MSR")) this.kept.set(MSR_IA32_TSX_CTRL, [0, 0]);
    this.powerUp = new Map(this.kept);
  }

  /** Power-up values. */
  reset(): void {
    this.kept = new Map(this.powerUp);
    for (const field of CORE_MSRS.values()) this.fields.set(field, 0, 0);
    this.host.speculationControl(0);
  }

  save(): ReadonlyMap<number, readonly [number, number]> {
    return new Map(this.kept);
  }

  restore(state: ReadonlyMap<number, readonly [number, number]>): void {
    this.kept = new Map(state);
  }

  /** RDMSR. @returns the low half (the high one in `high`), or -1: #GP. */
  read(msr: number): number {
    this.high = 0;
    const field = this.fieldOf(msr);
    if (field !== undefined) {
      this.high = this.fields.high(field);
      return this.fields.low(field);
    }
    const kept = this.kept.get(msr);
    if (kept !== undefined) {
      this.high = kept[1];
      return kept[0];
    }
    const capability = hasFeature(this.model, "VMX") ? vmxCapability(msr) : undefined;
    if (capability !== undefined) {
      this.high = capability[1];
      return capability[0];
    }
    if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST) return this.readApic(msr);
    switch (msr) {
      case MSR_EFER:
        return this.fields.low(CPU_EFER);
      case MSR_IA32_TSC:
        return this.number(this.host.timestamp());
      case MSR_IA32_TSC_DEADLINE:
        return this.apic.deadline === Number.POSITIVE_INFINITY ? 0 : this.number(this.apic.deadline);
      case MSR_IA32_APICBASE:
        return (APIC_BASE_LOW | (this.id === 0 ? APIC_BASE_BSP : 0)) >>> 0;
      case MSR_IA32_FEAT_CTL:
        return FEAT_CTL_VALUE;
      case MSR_IA32_ARCH_CAPABILITIES:
        return hasFeature(this.model, "ARCH_CAPABILITIES") ? this.archCapabilities() : -1;
      default:
        return -1;
    }
  }

  /** WRMSR. @returns false: #GP. */
  write(msr: number, low: number, high: number): boolean {
    if (CANONICAL_MSRS.has(msr) && !isCanonicalPair(low, high)) return false;
    const field = this.fieldOf(msr);
    if (field !== undefined) {
      this.fields.set(field, low, msr === MSR_TSC_AUX ? 0 : high);
      return true;
    }
    switch (msr) {
      case MSR_IA32_SPEC_CTRL:
        if (!this.kept.has(msr) || high !== 0 || (low & ~(SPEC_CTRL_IBRS | SPEC_CTRL_STIBP | SPEC_CTRL_SSBD)) !== 0) return false;
        this.kept.set(msr, [low, 0]);
        this.host.speculationControl(low);
        return true;
      case MSR_EFER:
        return this.writeEfer(low, high);
      case MSR_IA32_PRED_CMD:
        if (!hasFeature(this.model, "IBPB") || (low & ~PRED_CMD_IBPB) !== 0 || high !== 0) return false;
        if ((low & PRED_CMD_IBPB) !== 0) this.host.predictorBarrier();
        return true;
      case MSR_IA32_FLUSH_CMD:
        if (!hasFeature(this.model, "FLUSH_L1D") || (low & ~L1D_FLUSH) !== 0 || high !== 0) return false;
        if ((low & L1D_FLUSH) !== 0) this.host.flushL1d();
        return true;
      case MSR_IA32_TSC_DEADLINE:
        this.apic.deadline = low === 0 && high === 0 ? Number.POSITIVE_INFINITY : high * 2 ** 32 + low;
        this.host.apicChanged();
        return true;
      case MSR_IA32_APICBASE:
        return true;
      default:
    }
    if (msr === MSR_IA32_MCG_CAP) return false;
    // Software can only clear a bank's status and address (SDM vol. 3, 17.3.2.2).
    if (msr >= MSR_IA32_MC0_STATUS && msr <= MSR_IA32_MC0_MISC && (low !== 0 || high !== 0)) return false;
    if (this.kept.has(msr)) {
      this.kept.set(msr, [low, high]);
      return true;
    }
    return msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST && this.writeApic(msr, low, high);
  }

  /** An error is logged in bank 0, and a machine check begins. @returns false: one was under way. */
  logMachineCheck(event: MachineCheck): boolean {
    return logMachineCheck(this.kept, event);
  }

  /** Where the core holds it, if the model has it. */
  private fieldOf(msr: number): number | undefined {
    const isFred = msr >= MSR_IA32_FRED_RSP0 && msr <= MSR_IA32_FRED_CONFIG;
    return isFred && !hasFeature(this.model, "FRED") ? undefined : CORE_MSRS.get(msr);
  }

  private number(value: number): number {
    this.high = Math.floor(value / 2 ** 32) >>> 0;
    return value >>> 0;
  }

  private archCapabilities(): number {
    let bits = 0;
    for (const name of this.model.archCapabilities) bits |= 1 << ARCH_CAPABILITIES_BITS[name];
    return bits >>> 0;
  }

  private writeEfer(low: number, high: number): boolean {
    // LMA is read-only; LME cannot change while paging is on, and here it always is.
    if (high !== 0 || (low & ~EFER_DEFINED) !== 0) return false;
    const current = this.fields.low(CPU_EFER);
    if (((low ^ current) & EFER_LME) !== 0) return false;
    this.fields.set(CPU_EFER, ((low & ~EFER_LMA) | (current & EFER_LMA)) >>> 0, 0);
    this.host.modeChanged();
    return true;
  }

  private readApic(msr: number): number {
    if (msr >= MSR_X2APIC_ISR && msr < MSR_X2APIC_ISR + 8) return this.apic.serviceWord(msr - MSR_X2APIC_ISR);
    if (msr >= MSR_X2APIC_IRR && msr < MSR_X2APIC_IRR + 8) return this.apic.requestWord(msr - MSR_X2APIC_IRR);
    switch (msr) {
      case MSR_X2APIC_ID:
        return this.id;
      case MSR_X2APIC_VERSION:
        return APIC_VERSION;
      case MSR_X2APIC_TPR:
        return (this.fields.low(CPU_CR8) & 15) << 4;
      case MSR_X2APIC_SIVR:
        return this.apic.spurious;
      case MSR_X2APIC_LVTT:
        return this.apic.lvtTimer;
      case MSR_X2APIC_ESR:
        return 0;
      default:
        return -1;
    }
  }

  private writeApic(msr: number, low: number, high: number): boolean {
    switch (msr) {
      case MSR_X2APIC_TPR:
        this.fields.set(CPU_CR8, (low >> 4) & 15, 0);
        break;
      case MSR_X2APIC_EOI:
        if (low !== 0 || high !== 0) return false;
        this.apic.endOfInterrupt();
        break;
      case MSR_X2APIC_SIVR:
        this.apic.spurious = low;
        break;
      case MSR_X2APIC_LVTT:
        this.apic.lvtTimer = low;
        break;
      case MSR_X2APIC_SELF_IPI:
        this.host.sendInterrupt(SEND_SELF, low & 0xff, false);
        break;
      case MSR_X2APIC_ICR:
        this.sendCommand(low, high);
        break;
      case MSR_X2APIC_ESR:
        return true;
      default:
        // The other local vectors exist but nothing is wired to them.
        return msr >= MSR_X2APIC_LVT_LINT0 - 3 && msr <= MSR_X2APIC_LVT_ERROR;
    }
    this.host.apicChanged();
    return true;
  }

  private sendCommand(low: number, high: number): void {
    const shorthand = (low >> ICR_SHORTHAND_SHIFT) & 3;
    const destination = shorthand === 0 ? high : shorthand === 1 ? SEND_SELF : shorthand === 2 ? SEND_ALL : SEND_ALL_BUT_SELF;
    this.host.sendInterrupt(destination, low & 0xff, (low & 0x700) === ICR_NMI);
  }
}

/** True when bits 63..47 are all alike. */
export function isCanonicalPair(low: number, high: number): boolean {
  const top = Math.floor(high / 2 ** 15);
  return (top === 0 || top === 0x1ffff) && low >= 0;
}
