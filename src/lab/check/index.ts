export {
  type CheckConfig,
  type CheckReport,
  checkKvmRun,
  type FoundViolation,
  GUEST_CHOICES,
  type GuestChoice,
  INJECTIONS,
  type Injection,
  KvmRunFixture,
} from "./check-kvm-run.ts";
export {
  bystanderPuppet,
  GUEST_PAGES,
  guestRegion,
  guestSregs,
  guestStartRegisters,
  monitorPuppet,
  monitorState,
} from "./check-puppets.ts";
export { type CheckedObserver, checkedObserver, ResidueCheck, residueTruth } from "./residue-truth.ts";
export { SimulatedCheck } from "./simulated-truth.ts";
