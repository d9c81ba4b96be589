// What the VMX capability MSRs say (SDM vol. 3, appendix A): exactly the controls that this machine implements. The entry checks
// use the same words, so that a control which is reported works and one which is not fails the entry.
import {
  CPU_BASED_ACTIVATE_SECONDARY_CONTROLS,
  CPU_BASED_CR3_LOAD_EXITING,
  CPU_BASED_CR3_STORE_EXITING,
  CPU_BASED_CR8_LOAD_EXITING,
  CPU_BASED_CR8_STORE_EXITING,
  CPU_BASED_HLT_EXITING,
  CPU_BASED_INTR_WINDOW_EXITING,
  CPU_BASED_INVLPG_EXITING,
  CPU_BASED_MONITOR_EXITING,
  CPU_BASED_MOV_DR_EXITING,
  CPU_BASED_MWAIT_EXITING,
  CPU_BASED_NMI_WINDOW_EXITING,
  CPU_BASED_PAUSE_EXITING,
  CPU_BASED_RDPMC_EXITING,
  CPU_BASED_RDTSC_EXITING,
  CPU_BASED_UNCOND_IO_EXITING,
  CPU_BASED_USE_IO_BITMAPS,
  CPU_BASED_USE_MSR_BITMAPS,
  CPU_BASED_USE_TSC_OFFSETTING,
  CR0_NE,
  CR0_PE,
  CR0_PG,
  CR4_VMXE,
  MSR_IA32_VMX_BASIC,
  MSR_IA32_VMX_CR0_FIXED0,
  MSR_IA32_VMX_CR0_FIXED1,
  MSR_IA32_VMX_CR4_FIXED0,
  MSR_IA32_VMX_CR4_FIXED1,
  MSR_IA32_VMX_ENTRY_CTLS,
  MSR_IA32_VMX_EPT_VPID_CAP,
  MSR_IA32_VMX_EXIT_CTLS,
  MSR_IA32_VMX_MISC,
  MSR_IA32_VMX_PINBASED_CTLS,
  MSR_IA32_VMX_PROCBASED_CTLS,
  MSR_IA32_VMX_PROCBASED_CTLS2,
  MSR_IA32_VMX_TRUE_ENTRY_CTLS,
  MSR_IA32_VMX_TRUE_EXIT_CTLS,
  MSR_IA32_VMX_TRUE_PINBASED_CTLS,
  MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
  PIN_BASED_EXT_INTR_MASK,
  PIN_BASED_NMI_EXITING,
  PIN_BASED_VIRTUAL_NMIS,
  SECONDARY_EXEC_DESC,
  SECONDARY_EXEC_ENABLE_EPT,
  SECONDARY_EXEC_ENABLE_INVPCID,
  SECONDARY_EXEC_ENABLE_RDTSCP,
  SECONDARY_EXEC_ENABLE_VPID,
  SECONDARY_EXEC_UNRESTRICTED_GUEST,
  SECONDARY_EXEC_WBINVD_EXITING,
  VM_ENTRY_IA32E_MODE,
  VM_ENTRY_LOAD_DEBUG_CONTROLS,
  VM_ENTRY_LOAD_IA32_EFER,
  VM_ENTRY_LOAD_IA32_PAT,
  VM_EXIT_ACK_INTR_ON_EXIT,
  VM_EXIT_HOST_ADDR_SPACE_SIZE,
  VM_EXIT_LOAD_IA32_EFER,
  VM_EXIT_LOAD_IA32_PAT,
  VM_EXIT_SAVE_DEBUG_CONTROLS,
  VM_EXIT_SAVE_IA32_EFER,
  VM_EXIT_SAVE_IA32_PAT,
} from "../hardware/index.ts";
import { VMCS_BYTES, VMCS_REVISION } from "./vmcs-region.ts";

/** Bits that must be 1 (`required`), and bits that may be 1 (`allowed`, which includes them). */
export interface Controls {
  readonly required: number;
  readonly allowed: number;
}

// The reserved bits that must be 1 ("default1"): SDM vol. 3, appendix A.2 to A.5.
const PIN_DEFAULT1 = 0x16;
const PRIMARY_DEFAULT1 = 0x0401e172;
/** With the TRUE capability MSRs CR3 exiting may be 0. */
const PRIMARY_TRUE_DEFAULT1 = PRIMARY_DEFAULT1 & ~(CPU_BASED_CR3_LOAD_EXITING | CPU_BASED_CR3_STORE_EXITING);
const EXIT_DEFAULT1 = 0x36dff;
const EXIT_TRUE_DEFAULT1 = EXIT_DEFAULT1 & ~VM_EXIT_SAVE_DEBUG_CONTROLS;
const ENTRY_DEFAULT1 = 0x11ff;
const ENTRY_TRUE_DEFAULT1 = ENTRY_DEFAULT1 & ~VM_ENTRY_LOAD_DEBUG_CONTROLS;

function controls(required: number, optional: number): Controls {
  return { required: required >>> 0, allowed: (required | optional) >>> 0 };
}

export const PIN_CONTROLS = controls(PIN_DEFAULT1, PIN_BASED_EXT_INTR_MASK | PIN_BASED_NMI_EXITING | PIN_BASED_VIRTUAL_NMIS);

const PRIMARY_OPTIONAL =
  CPU_BASED_INTR_WINDOW_EXITING |
  CPU_BASED_USE_TSC_OFFSETTING |
  CPU_BASED_HLT_EXITING |
  CPU_BASED_INVLPG_EXITING |
  CPU_BASED_MWAIT_EXITING |
  CPU_BASED_RDPMC_EXITING |
  CPU_BASED_RDTSC_EXITING |
  CPU_BASED_CR3_LOAD_EXITING |
  CPU_BASED_CR3_STORE_EXITING |
  CPU_BASED_CR8_LOAD_EXITING |
  CPU_BASED_CR8_STORE_EXITING |
  CPU_BASED_NMI_WINDOW_EXITING |
  CPU_BASED_MOV_DR_EXITING |
  CPU_BASED_UNCOND_IO_EXITING |
  CPU_BASED_USE_IO_BITMAPS |
  CPU_BASED_USE_MSR_BITMAPS |
  CPU_BASED_MONITOR_EXITING |
  CPU_BASED_PAUSE_EXITING |
  CPU_BASED_ACTIVATE_SECONDARY_CONTROLS;
export const PRIMARY_CONTROLS = controls(PRIMARY_TRUE_DEFAULT1, PRIMARY_OPTIONAL);

export const SECONDARY_CONTROLS = controls(
  0,
  SECONDARY_EXEC_ENABLE_EPT |
    SECONDARY_EXEC_DESC |
    SECONDARY_EXEC_ENABLE_RDTSCP |
    SECONDARY_EXEC_ENABLE_VPID |
    SECONDARY_EXEC_WBINVD_EXITING |
    SECONDARY_EXEC_UNRESTRICTED_GUEST |
    SECONDARY_EXEC_ENABLE_INVPCID,
);

const EXIT_OPTIONAL =
  VM_EXIT_SAVE_DEBUG_CONTROLS |
  VM_EXIT_HOST_ADDR_SPACE_SIZE |
  VM_EXIT_ACK_INTR_ON_EXIT |
  VM_EXIT_SAVE_IA32_PAT |
  VM_EXIT_LOAD_IA32_PAT |
  VM_EXIT_SAVE_IA32_EFER |
  VM_EXIT_LOAD_IA32_EFER;
export const EXIT_CONTROLS = controls(EXIT_TRUE_DEFAULT1, EXIT_OPTIONAL);

const ENTRY_OPTIONAL = VM_ENTRY_LOAD_DEBUG_CONTROLS | VM_ENTRY_IA32E_MODE | VM_ENTRY_LOAD_IA32_PAT | VM_ENTRY_LOAD_IA32_EFER;
/** "IA-32e mode guest" must be 1: the core executes 64-bit mode only, so that is what this CPU offers its guests. */
export const ENTRY_CONTROLS = controls(ENTRY_TRUE_DEFAULT1 | VM_ENTRY_IA32E_MODE, ENTRY_OPTIONAL);

/** CR0 and CR4 bits that must be 1 in VMX operation. */
export const CR0_FIXED0 = (CR0_PE | CR0_NE | CR0_PG) >>> 0;
export const CR4_FIXED0 = CR4_VMXE;
/** CR4 bits that may be 1: those that this processor implements. Bits 0..11, 13, 16..18, 20, 21. */
export const CR4_FIXED1 = 0x372fff;

/** IA32_VMX_BASIC, high half: region bytes, memory type write-back (6) in bits 53:50, INS/OUTS information (54), TRUE MSRs (55). */
const BASIC_HIGH = VMCS_BYTES | (6 << 18) | (1 << 22) | (1 << 23);
/** IA32_VMX_MISC: activity state HLT (bit 6); EFER.LMA stored into "IA-32e mode guest" on exit (bit 5). */
const MISC_LOW = (1 << 5) | (1 << 6);
// IA32_VMX_EPT_VPID_CAP: walk length 4 (6), write-back (14), 2 MiB (16), 1 GiB (17), INVEPT (20) single (25) all (26);
// high half: INVVPID (32) address (40) single (41) all (42) single-retaining-globals (43). A/D flags are not offered.
const EPT_VPID_LOW = (1 << 6) | (1 << 14) | (1 << 16) | (1 << 17) | (1 << 20) | (1 << 25) | (1 << 26);
const EPT_VPID_HIGH = (1 << 0) | (1 << 8) | (1 << 9) | (1 << 10) | (1 << 11);
const ALL_ONES = 0xffffffff;

type Halves = readonly [low: number, high: number];

const capabilityMsrs: ReadonlyMap<number, Halves> = new Map<number, Halves>([
  [MSR_IA32_VMX_BASIC, [VMCS_REVISION, BASIC_HIGH >>> 0]],
  [MSR_IA32_VMX_PINBASED_CTLS, [PIN_CONTROLS.required, PIN_CONTROLS.allowed]],
  [MSR_IA32_VMX_TRUE_PINBASED_CTLS, [PIN_CONTROLS.required, PIN_CONTROLS.allowed]],
  [MSR_IA32_VMX_PROCBASED_CTLS, [PRIMARY_DEFAULT1, PRIMARY_CONTROLS.allowed]],
  [MSR_IA32_VMX_TRUE_PROCBASED_CTLS, [PRIMARY_CONTROLS.required, PRIMARY_CONTROLS.allowed]],
  [MSR_IA32_VMX_PROCBASED_CTLS2, [0, SECONDARY_CONTROLS.allowed]],
  [MSR_IA32_VMX_EXIT_CTLS, [EXIT_DEFAULT1, EXIT_CONTROLS.allowed]],
  [MSR_IA32_VMX_TRUE_EXIT_CTLS, [EXIT_CONTROLS.required, EXIT_CONTROLS.allowed]],
  [MSR_IA32_VMX_ENTRY_CTLS, [ENTRY_DEFAULT1 | ENTRY_CONTROLS.required, ENTRY_CONTROLS.allowed]],
  [MSR_IA32_VMX_TRUE_ENTRY_CTLS, [ENTRY_CONTROLS.required, ENTRY_CONTROLS.allowed]],
  [MSR_IA32_VMX_MISC, [MISC_LOW, 0]],
  [MSR_IA32_VMX_CR0_FIXED0, [CR0_FIXED0, 0]],
  [MSR_IA32_VMX_CR0_FIXED1, [ALL_ONES, 0]],
  [MSR_IA32_VMX_CR4_FIXED0, [CR4_FIXED0, 0]],
  [MSR_IA32_VMX_CR4_FIXED1, [CR4_FIXED1, 0]],
  [MSR_IA32_VMX_EPT_VPID_CAP, [EPT_VPID_LOW >>> 0, EPT_VPID_HIGH >>> 0]],
]);

/** The value of a VMX capability MSR as halves; undefined: not one of them. */
export function vmxCapability(msr: number): Halves | undefined {
  return capabilityMsrs.get(msr);
}

/** True when `value` sets all required bits and none that is not allowed. */
export function satisfies(value: number, capability: Controls): boolean {
  return (~value & capability.required) === 0 && (value & ~capability.allowed) === 0;
}
