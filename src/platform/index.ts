// What both machines with interrupts and guests have in common: see README.md.
export { type CpuidResult, cpuidOf } from "./cpuid.ts";
export { IoBus, type IoHost, PORT_COM1_DATA, PORT_COM1_LINE_STATUS, PORT_DEBUG_CONSOLE, PORT_DEBUG_EXIT } from "./io-bus.ts";
export { LOCAL_APIC_WORDS, LocalApic, type LocalApicState } from "./local-apic.ts";
export { isMachineCheckUnderWay, logMachineCheck, MACHINE_CHECK_RESET, type MachineCheck } from "./machine-check.ts";
export { hasVmcsField, VMCS_BYTES, VMCS_REVISION, VmcsRegion, vmcsOffset } from "./vmcs-region.ts";
export {
  type Controls,
  CR0_FIXED0,
  CR4_FIXED0,
  CR4_FIXED1,
  ENTRY_CONTROLS,
  EXIT_CONTROLS,
  PIN_CONTROLS,
  PRIMARY_CONTROLS,
  SECONDARY_CONTROLS,
  satisfies,
  vmxCapability,
} from "./vmx-capabilities.ts";
export { AR_UNUSABLE, controlFault, guestStateFault, hostStateFault, LINK_POINTER_FAULT } from "./vmx-checks.ts";
