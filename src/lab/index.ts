export { ASI_OPTIONS, PRESET_DIFFERENCES, PRESETS, type Preset, TRACE_PROCESS_EXIT } from "../kernel/index.ts";
export { type AddressMap, addressMaps, loadedSpaces, type MapRow, type PageCount } from "./address-map.ts";
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
export { packCpio } from "./cpio.ts";
export { type GuestRun, type GuestRunOptions, parseGuestImage, runGuest } from "./guest-run.ts";
export { type HostRun, type HostRunOptions, runHost } from "./host-run.ts";
export type { ExitRow, LedgerReport, LedgerRow } from "./ledger.ts";
export { measureOptions, OPERATIONS, type OptionCounts, type OptionRow, optionsTable } from "./options-table.ts";
export * from "./prover/index.ts";
export { parseScenario, type Scenario, type ScenarioGuest, type ScenarioProgram } from "./scenario/scenario-file.ts";
export {
  type ScenarioEnd,
  ScenarioHost,
  type ScenarioInputs,
  type ScenarioRun,
  type ScenarioSnapshot,
} from "./scenario/scenario-run.ts";
export { Simulation, type SimulationOptions } from "./simulation.ts";
export {
  type EpisodeConfig,
  type EpisodeResult,
  formatScript,
  parseScript,
  runEpisode,
  type Script,
  type SoakOptions,
  type SoakReport,
  shrink,
  soak,
} from "./soak/index.ts";
export type { TransitionCounts } from "./transition-counts.ts";
