export { PRESETS, type Preset } from "../kernel/index.ts";
export { CONTROL_MEANINGS, CONTROL_NAMES, type ControlName } from "./attack/controls.ts";
export {
  ATTACKS,
  type AttackName,
  type AttackOptions,
  type AttackResult,
  type Defence,
  runAttack,
  SECRET_BYTES,
} from "./attack/scenario.ts";
export { type CheckConfig, type CheckReport, checkKvmRun } from "./check/index.ts";
export { type GuestRun, type GuestRunOptions, parseGuestImage, runGuest } from "./guest-run.ts";
export type { ExitRow, LedgerReport, LedgerRow } from "./ledger.ts";
export { Simulation, type SimulationOptions } from "./simulation.ts";
