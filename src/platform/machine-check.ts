// Machine checks (SDM vol. 3, 17): what an uncorrected error leaves in the registers of bank 0 before #MC is raised.
import {
  MCG_STATUS_MCIP,
  MCG_STATUS_RIPV,
  MCI_STATUS_ADDRV,
  MCI_STATUS_EN,
  MCI_STATUS_UC,
  MCI_STATUS_VAL,
  MSR_IA32_MC0_ADDR,
  MSR_IA32_MC0_CTL,
  MSR_IA32_MC0_MISC,
  MSR_IA32_MC0_STATUS,
  MSR_IA32_MCG_CAP,
  MSR_IA32_MCG_STATUS,
} from "../hardware/index.ts";

/** An uncorrected error that raises #MC. */
export interface MachineCheck {
  /** MCA error code of MCi_STATUS: for example 0x134, data read of the memory hierarchy. */
  readonly errorCode: number;
  /** Physical address of MCi_ADDR. */
  readonly address: number;
  /** MCG_STATUS.RIPV: the interrupted program can go on. */
  readonly isRestartable: boolean;
}

type Halves = readonly [low: number, high: number];

const BANKS = 1;

/** Where a CPU keeps the registers. */
export interface MachineCheckRegisters {
  get(msr: number): Halves | undefined;
  set(msr: number, value: Halves): unknown;
}

/** The registers and their values after reset. */
export const MACHINE_CHECK_RESET: readonly (readonly [msr: number, value: Halves])[] = [
  [MSR_IA32_MCG_CAP, [BANKS, 0]],
  [MSR_IA32_MCG_STATUS, [0, 0]],
  [MSR_IA32_MC0_CTL, [0, 0]],
  [MSR_IA32_MC0_STATUS, [0, 0]],
  [MSR_IA32_MC0_ADDR, [0, 0]],
  [MSR_IA32_MC0_MISC, [0, 0]],
];

/** A machine check was logged whose handler has not cleared MCIP. */
export function isMachineCheckUnderWay(msrs: MachineCheckRegisters): boolean {
  return ((msrs.get(MSR_IA32_MCG_STATUS)?.[0] ?? 0) & MCG_STATUS_MCIP) !== 0;
}

/** Logs `event` in the registers. @returns false: another machine check is under way (MCIP), which is a shutdown. */
export function logMachineCheck(msrs: MachineCheckRegisters, event: MachineCheck): boolean {
  const wasUnderWay = isMachineCheckUnderWay(msrs);
  msrs.set(MSR_IA32_MC0_STATUS, [event.errorCode, (MCI_STATUS_VAL | MCI_STATUS_UC | MCI_STATUS_EN | MCI_STATUS_ADDRV) >>> 0]);
  msrs.set(MSR_IA32_MC0_ADDR, [event.address >>> 0, Math.floor(event.address / 2 ** 32)]);
  msrs.set(MSR_IA32_MCG_STATUS, [MCG_STATUS_MCIP | (event.isRestartable ? MCG_STATUS_RIPV : 0), 0]);
  return !wasUnderWay;
}
