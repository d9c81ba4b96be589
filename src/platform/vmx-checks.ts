// The checks of VM entry (SDM vol. 3, 28.2 "Checks on VMX controls and host-state area", 28.3.1 "Checks on the guest state area").
// Each function returns the first thing that is wrong, in words, or undefined: the words are for the run's log, the caller turns
// them into the VM-instruction error or the exit reason.
import {
  CPU_BASED_ACTIVATE_SECONDARY_CONTROLS,
  CPU_BASED_NMI_WINDOW_EXITING,
  CPU_BASED_USE_IO_BITMAPS,
  CPU_BASED_USE_MSR_BITMAPS,
  CR0_PE,
  CR0_PG,
  CR4_PAE,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  EFER_SCE,
  GUEST_INTR_STATE_MOV_SS,
  GUEST_INTR_STATE_NMI,
  GUEST_INTR_STATE_STI,
  INTR_INFO_DELIVER_CODE_MASK,
  INTR_INFO_TYPE_MASK,
  INTR_INFO_VALID_MASK,
  INTR_TYPE_EXT_INTR,
  INTR_TYPE_HARD_EXCEPTION,
  INTR_TYPE_NMI_INTR,
  INTR_TYPE_SOFT_EXCEPTION,
  INTR_TYPE_SOFT_INTR,
  PAGE_SIZE,
  PIN_BASED_NMI_EXITING,
  PIN_BASED_VIRTUAL_NMIS,
  RFLAGS_FIXED,
  RFLAGS_IF,
  SECONDARY_EXEC_ENABLE_EPT,
  SECONDARY_EXEC_ENABLE_VPID,
  SECONDARY_EXEC_UNRESTRICTED_GUEST,
  VECTOR_NMI,
  VM_ENTRY_IA32E_MODE,
  VM_ENTRY_LOAD_IA32_EFER,
  VM_ENTRY_LOAD_IA32_PAT,
  VM_EXIT_HOST_ADDR_SPACE_SIZE,
  VM_EXIT_LOAD_IA32_EFER,
  VM_EXIT_LOAD_IA32_PAT,
  VMCS,
} from "../hardware/index.ts";
import type { VmcsRegion } from "./vmcs-region.ts";
import {
  CR0_FIXED0,
  CR4_FIXED0,
  CR4_FIXED1,
  ENTRY_CONTROLS,
  EXIT_CONTROLS,
  PIN_CONTROLS,
  PRIMARY_CONTROLS,
  SECONDARY_CONTROLS,
  satisfies,
} from "./vmx-capabilities.ts";

/** Access-rights bits of a segment. SDM vol. 3, table 26-2. */
export const AR_UNUSABLE = 1 << 16;
const AR_PRESENT = 1 << 7;
const AR_LONG = 1 << 13;
const AR_DEFAULT_BIG = 1 << 14;
const AR_TYPE_BUSY_TSS64 = 11;
const SELECTOR_RPL_TI = 7;
/** Activity states: active, HLT. */
const ACTIVITY_HLT = 1;
const EFER_DEFINED = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
/** EPT pointer bits 11:0 that are right: memory type write-back (6), walk length 4 (3 in bits 5:3), no accessed/dirty flags. */
const EPTP_LOW_BITS = 6 | (3 << 3);
/** Hardware exceptions that push an error code: #DF #TS #NP #SS #GP #PF #AC. */
const ERROR_CODE_VECTORS = (1 << 8) | (1 << 10) | (1 << 11) | (1 << 12) | (1 << 13) | (1 << 14) | (1 << 17);
/** Defined bits of RFLAGS but bit 1: CF PF AF ZF SF TF IF DF OF IOPL NT RF VM AC VIF VIP ID. */
const RFLAGS_DEFINED = 0x3f7fd5;
const RFLAGS_VM = 1 << 17;

function isCanonical(vmcs: VmcsRegion, field: number): boolean {
  const word = vmcs.word(field);
  return word >= -(2 ** 47) && word < 2 ** 47;
}

function isPageOfMemory(value: number, physicalBits: number): boolean {
  return value % PAGE_SIZE === 0 && value < 2 ** physicalBits;
}

/** All eight bytes of a PAT value are memory types that exist: 0, 1, 4, 5, 6, 7. */
function isPat(low: number, high: number): boolean {
  for (let i = 0; i < 8; i++) {
    const type = ((i < 4 ? low : high) >>> ((i & 3) * 8)) & 0xff;
    if (type > 7 || type === 2 || type === 3) return false;
  }
  return true;
}

/** Controls: a fault here is VM-instruction error 7. SDM vol. 3, 28.2.1. */
export function controlFault(vmcs: VmcsRegion, physicalBits: number): string | undefined {
  const pin = vmcs.low(VMCS.PIN_BASED_VM_EXEC_CONTROL);
  const primary = vmcs.low(VMCS.CPU_BASED_VM_EXEC_CONTROL);
  const hasSecondary = (primary & CPU_BASED_ACTIVATE_SECONDARY_CONTROLS) !== 0;
  const secondary = hasSecondary ? vmcs.low(VMCS.SECONDARY_VM_EXEC_CONTROL) : 0;
  if (!satisfies(pin, PIN_CONTROLS)) return "pin-based controls";
  if (!satisfies(primary, PRIMARY_CONTROLS)) return "primary processor-based controls";
  if (!satisfies(secondary, SECONDARY_CONTROLS)) return "secondary processor-based controls";
  if (!satisfies(vmcs.low(VMCS.VM_EXIT_CONTROLS), EXIT_CONTROLS)) return "VM-exit controls";
  if (!satisfies(vmcs.low(VMCS.VM_ENTRY_CONTROLS), ENTRY_CONTROLS)) return "VM-entry controls";
  if (vmcs.low(VMCS.CR3_TARGET_COUNT) !== 0) return "CR3-target count";
  if ((primary & CPU_BASED_USE_IO_BITMAPS) !== 0) {
    if (!isPageOfMemory(vmcs.physical(VMCS.IO_BITMAP_A), physicalBits)) return "I/O bitmap A";
    if (!isPageOfMemory(vmcs.physical(VMCS.IO_BITMAP_B), physicalBits)) return "I/O bitmap B";
  }
  if ((primary & CPU_BASED_USE_MSR_BITMAPS) !== 0 && !isPageOfMemory(vmcs.physical(VMCS.MSR_BITMAP), physicalBits)) return "MSR bitmap";
  if ((pin & PIN_BASED_NMI_EXITING) === 0 && (pin & PIN_BASED_VIRTUAL_NMIS) !== 0) return "virtual NMIs without NMI exiting";
  if ((pin & PIN_BASED_VIRTUAL_NMIS) === 0 && (primary & CPU_BASED_NMI_WINDOW_EXITING) !== 0) return "NMI window without virtual NMIs";
  if ((secondary & SECONDARY_EXEC_ENABLE_VPID) !== 0 && vmcs.low(VMCS.VIRTUAL_PROCESSOR_ID) === 0) return "VPID 0";
  if ((secondary & SECONDARY_EXEC_ENABLE_EPT) !== 0) {
    const pointer = vmcs.physical(VMCS.EPT_POINTER);
    if (pointer % PAGE_SIZE !== EPTP_LOW_BITS || pointer >= 2 ** physicalBits) return "EPT pointer";
  } else if ((secondary & SECONDARY_EXEC_UNRESTRICTED_GUEST) !== 0) return "unrestricted guest without EPT";
  if (!areMsrListsSound(vmcs, physicalBits)) return "MSR list address";
  return injectionFault(vmcs);
}

function areMsrListsSound(vmcs: VmcsRegion, physicalBits: number): boolean {
  const lists = [
    [VMCS.VM_EXIT_MSR_STORE_COUNT, VMCS.VM_EXIT_MSR_STORE_ADDR],
    [VMCS.VM_EXIT_MSR_LOAD_COUNT, VMCS.VM_EXIT_MSR_LOAD_ADDR],
    [VMCS.VM_ENTRY_MSR_LOAD_COUNT, VMCS.VM_ENTRY_MSR_LOAD_ADDR],
  ] as const;
  for (const [count, address] of lists) {
    const at = vmcs.physical(address);
    if (vmcs.low(count) !== 0 && (at % 16 !== 0 || at + 16 * vmcs.low(count) > 2 ** physicalBits)) return false;
  }
  return true;
}

/** The VM-entry interruption-information field. SDM vol. 3, 28.2.1.3. */
function injectionFault(vmcs: VmcsRegion): string | undefined {
  const info = vmcs.low(VMCS.VM_ENTRY_INTR_INFO_FIELD);
  if ((info & INTR_INFO_VALID_MASK) === 0) return undefined;
  const type = info & INTR_INFO_TYPE_MASK;
  const vector = info & 0xff;
  if ((info & 0x7ffff000) !== 0) return "reserved bits of the injected event";
  if (type === 1 << 8 || type === 7 << 8) return "type of the injected event";
  if (type === INTR_TYPE_NMI_INTR && vector !== VECTOR_NMI) return "vector of an injected NMI";
  if (type === INTR_TYPE_HARD_EXCEPTION && vector > 31) return "vector of an injected exception";
  const pushesCode = type === INTR_TYPE_HARD_EXCEPTION && vector < 32 && ((ERROR_CODE_VECTORS >>> vector) & 1) !== 0;
  if (((info & INTR_INFO_DELIVER_CODE_MASK) !== 0) !== pushesCode) return "error-code bit of the injected event";
  if (pushesCode && (vmcs.low(VMCS.VM_ENTRY_EXCEPTION_ERROR_CODE) & 0xffff8000) !== 0) return "error code of the injected event";
  const length = vmcs.low(VMCS.VM_ENTRY_INSTRUCTION_LEN);
  if ((type === INTR_TYPE_SOFT_INTR || type === INTR_TYPE_SOFT_EXCEPTION) && (length < 1 || length > 15)) return "instruction length";
  return undefined;
}

/** Host state: a fault here is VM-instruction error 8. SDM vol. 3, 28.2.2 to 28.2.4. */
export function hostStateFault(vmcs: VmcsRegion, physicalBits: number): string | undefined {
  const exit = vmcs.low(VMCS.VM_EXIT_CONTROLS);
  if ((exit & VM_EXIT_HOST_ADDR_SPACE_SIZE) === 0) return "host address-space size";
  if ((~vmcs.low(VMCS.HOST_CR0) & CR0_FIXED0) !== 0) return "host CR0";
  const cr4 = vmcs.low(VMCS.HOST_CR4);
  if ((~cr4 & (CR4_FIXED0 | CR4_PAE)) !== 0 || (cr4 & ~CR4_FIXED1) !== 0) return "host CR4";
  if (vmcs.physical(VMCS.HOST_CR3) >= 2 ** physicalBits) return "host CR3";
  for (const field of [VMCS.HOST_IA32_SYSENTER_ESP, VMCS.HOST_IA32_SYSENTER_EIP, VMCS.HOST_RIP] as const) {
    if (!isCanonical(vmcs, field)) return "canonical host address";
  }
  for (const field of [VMCS.HOST_FS_BASE, VMCS.HOST_GS_BASE, VMCS.HOST_TR_BASE, VMCS.HOST_GDTR_BASE, VMCS.HOST_IDTR_BASE] as const) {
    if (!isCanonical(vmcs, field)) return "canonical host base";
  }
  if ((exit & VM_EXIT_LOAD_IA32_PAT) !== 0 && !isPat(vmcs.low(VMCS.HOST_IA32_PAT), vmcs.high(VMCS.HOST_IA32_PAT))) return "host PAT";
  if ((exit & VM_EXIT_LOAD_IA32_EFER) !== 0) {
    const efer = vmcs.low(VMCS.HOST_IA32_EFER);
    if ((efer & ~EFER_DEFINED) !== 0 || (~efer & (EFER_LME | EFER_LMA)) !== 0) return "host EFER";
  }
  const selectors = [
    VMCS.HOST_ES_SELECTOR,
    VMCS.HOST_CS_SELECTOR,
    VMCS.HOST_SS_SELECTOR,
    VMCS.HOST_DS_SELECTOR,
    VMCS.HOST_FS_SELECTOR,
    VMCS.HOST_GS_SELECTOR,
    VMCS.HOST_TR_SELECTOR,
  ] as const;
  for (const field of selectors) if ((vmcs.low(field) & SELECTOR_RPL_TI) !== 0) return "host selector with RPL or TI";
  if (vmcs.low(VMCS.HOST_CS_SELECTOR) === 0) return "host CS";
  if (vmcs.low(VMCS.HOST_TR_SELECTOR) === 0) return "host TR";
  return undefined;
}

/** Guest state: a fault here is exit reason 33. SDM vol. 3, 28.3.1. This CPU runs guests in 64-bit mode only. */
export function guestStateFault(vmcs: VmcsRegion, physicalBits: number): string | undefined {
  const entry = vmcs.low(VMCS.VM_ENTRY_CONTROLS);
  const cr0 = vmcs.low(VMCS.GUEST_CR0);
  const cr4 = vmcs.low(VMCS.GUEST_CR4);
  if ((~cr0 & CR0_FIXED0) !== 0) return "guest CR0";
  if ((~cr4 & CR4_FIXED0) !== 0 || (cr4 & ~CR4_FIXED1) !== 0) return "guest CR4";
  if ((entry & VM_ENTRY_IA32E_MODE) !== 0 && ((cr0 & (CR0_PG | CR0_PE)) >>> 0 !== (CR0_PG | CR0_PE) >>> 0 || (cr4 & CR4_PAE) === 0))
    return "IA-32e mode without paging and PAE";
  if (vmcs.physical(VMCS.GUEST_CR3) >= 2 ** physicalBits) return "guest CR3";
  if (vmcs.high(VMCS.GUEST_DR7) !== 0 && (entry & 4) !== 0) return "guest DR7";
  if (!isCanonical(vmcs, VMCS.GUEST_SYSENTER_ESP) || !isCanonical(vmcs, VMCS.GUEST_SYSENTER_EIP)) return "canonical SYSENTER address";
  if ((entry & VM_ENTRY_LOAD_IA32_PAT) !== 0 && !isPat(vmcs.low(VMCS.GUEST_IA32_PAT), vmcs.high(VMCS.GUEST_IA32_PAT))) return "guest PAT";
  if ((entry & VM_ENTRY_LOAD_IA32_EFER) !== 0) {
    const efer = vmcs.low(VMCS.GUEST_IA32_EFER);
    const isLong = (entry & VM_ENTRY_IA32E_MODE) !== 0;
    if ((efer & ~EFER_DEFINED) !== 0 || ((efer & EFER_LMA) !== 0) !== isLong || ((efer & EFER_LME) !== 0) !== isLong) return "guest EFER";
  }
  return segmentFault(vmcs) ?? guestRipFault(vmcs) ?? interruptibilityFault(vmcs);
}

function segmentFault(vmcs: VmcsRegion): string | undefined {
  const tr = vmcs.low(VMCS.GUEST_TR_AR_BYTES);
  if ((tr & AR_UNUSABLE) !== 0 || (tr & AR_PRESENT) === 0 || (tr & 15) !== AR_TYPE_BUSY_TSS64) return "guest TR";
  if ((vmcs.low(VMCS.GUEST_TR_SELECTOR) & 4) !== 0) return "guest TR in the LDT";
  const cs = vmcs.low(VMCS.GUEST_CS_AR_BYTES);
  if ((cs & AR_UNUSABLE) !== 0 || (cs & AR_PRESENT) === 0 || (cs & 0x18) !== 0x18) return "guest CS";
  if ((cs & AR_LONG) === 0 || (cs & AR_DEFAULT_BIG) !== 0) return "guest CS is not a 64-bit code segment";
  const bases = [
    VMCS.GUEST_TR_BASE,
    VMCS.GUEST_FS_BASE,
    VMCS.GUEST_GS_BASE,
    VMCS.GUEST_GDTR_BASE,
    VMCS.GUEST_IDTR_BASE,
    VMCS.GUEST_LDTR_BASE,
  ] as const;
  for (const field of bases) if (!isCanonical(vmcs, field)) return "canonical guest base";
  if (vmcs.high(VMCS.GUEST_CS_BASE) !== 0) return "guest CS base";
  if (vmcs.low(VMCS.GUEST_GDTR_LIMIT) > 0xffff || vmcs.low(VMCS.GUEST_IDTR_LIMIT) > 0xffff) return "guest table limit";
  return undefined;
}

function guestRipFault(vmcs: VmcsRegion): string | undefined {
  if (!isCanonical(vmcs, VMCS.GUEST_RIP)) return "guest RIP";
  const flags = vmcs.low(VMCS.GUEST_RFLAGS);
  if (vmcs.high(VMCS.GUEST_RFLAGS) !== 0 || (flags & RFLAGS_FIXED) === 0 || (flags & ~(RFLAGS_DEFINED | RFLAGS_FIXED)) !== 0)
    return "guest RFLAGS";
  if ((flags & RFLAGS_VM) !== 0) return "virtual-8086 mode in IA-32e mode";
  const info = vmcs.low(VMCS.VM_ENTRY_INTR_INFO_FIELD);
  const injectsInterrupt = (info & INTR_INFO_VALID_MASK) !== 0 && (info & INTR_INFO_TYPE_MASK) === INTR_TYPE_EXT_INTR;
  if (injectsInterrupt && (flags & RFLAGS_IF) === 0) return "an interrupt is injected while RFLAGS.IF is 0";
  return undefined;
}

/** Activity and interruptibility. SDM vol. 3, 28.3.1.5. */
function interruptibilityFault(vmcs: VmcsRegion): string | undefined {
  const activity = vmcs.low(VMCS.GUEST_ACTIVITY_STATE);
  const blocking = vmcs.low(VMCS.GUEST_INTERRUPTIBILITY_INFO);
  const shadow = blocking & (GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS);
  if (activity > ACTIVITY_HLT) return "guest activity state";
  if (activity === ACTIVITY_HLT && ((vmcs.low(VMCS.GUEST_SS_AR_BYTES) >> 5) & 3) !== 0) return "HLT outside privilege level 0";
  if (activity !== 0 && shadow !== 0) return "HLT in an interrupt shadow";
  if ((blocking & ~(GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS | GUEST_INTR_STATE_NMI)) !== 0) return "interruptibility state";
  if (shadow === (GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS)) return "blocking by STI and by MOV SS";
  if ((blocking & GUEST_INTR_STATE_STI) !== 0 && (vmcs.low(VMCS.GUEST_RFLAGS) & RFLAGS_IF) === 0) return "blocking by STI with RFLAGS.IF 0";
  const info = vmcs.low(VMCS.VM_ENTRY_INTR_INFO_FIELD);
  if ((info & INTR_INFO_VALID_MASK) !== 0) {
    const type = info & INTR_INFO_TYPE_MASK;
    if (type === INTR_TYPE_EXT_INTR && shadow !== 0) return "an interrupt is injected in an interrupt shadow";
    if (type === INTR_TYPE_NMI_INTR && (blocking & GUEST_INTR_STATE_MOV_SS) !== 0) return "an NMI is injected while MOV SS blocks";
    const hasVirtualNmis = (vmcs.low(VMCS.PIN_BASED_VM_EXEC_CONTROL) & PIN_BASED_VIRTUAL_NMIS) !== 0;
    if (type === INTR_TYPE_NMI_INTR && hasVirtualNmis && (blocking & GUEST_INTR_STATE_NMI) !== 0)
      return "an NMI is injected while NMIs are blocked";
  }
  if (vmcs.low(VMCS.VMCS_LINK_POINTER) !== 0xffffffff || vmcs.high(VMCS.VMCS_LINK_POINTER) !== 0xffffffff) return LINK_POINTER_FAULT;
  return undefined;
}

/** The one guest-state fault that has a qualification of its own (4). */
export const LINK_POINTER_FAULT = "VMCS link pointer";
