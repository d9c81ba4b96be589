// The world switch: guest state from the VMCS into the CPU and back, host state from the VMCS. SDM vol. 3, 28.3.2 (loading guest
// state), 29.3 (saving guest state), 29.5 (loading host state).
import {
  EFER_LMA,
  EFER_LME,
  GUEST_INTR_STATE_MOV_SS,
  GUEST_INTR_STATE_NMI,
  GUEST_INTR_STATE_STI,
  MSR_IA32_CR_PAT,
  MSR_IA32_DEBUGCTLMSR,
  MSR_IA32_SYSENTER_CS,
  MSR_IA32_SYSENTER_EIP,
  MSR_IA32_SYSENTER_ESP,
  RFLAGS_FIXED,
  VM_ENTRY_LOAD_DEBUG_CONTROLS,
  VM_ENTRY_LOAD_IA32_EFER,
  VM_ENTRY_LOAD_IA32_PAT,
  VM_EXIT_LOAD_IA32_EFER,
  VM_EXIT_LOAD_IA32_PAT,
  VM_EXIT_SAVE_DEBUG_CONTROLS,
  VM_EXIT_SAVE_IA32_EFER,
  VM_EXIT_SAVE_IA32_PAT,
  VMCS,
} from "../hardware/index.ts";
import { AR_UNUSABLE, type VmcsRegion, vmcsOffset } from "../platform/index.ts";
import {
  CPU_CPL,
  CPU_CR0,
  CPU_CR3,
  CPU_CR4,
  CPU_DR,
  CPU_EFER,
  CPU_FS_BASE,
  CPU_GDTR_BASE,
  CPU_GDTR_LIMIT,
  CPU_GS_BASE,
  CPU_HALTED,
  CPU_IDTR_BASE,
  CPU_IDTR_LIMIT,
  CPU_NMI_BLOCKED,
  CPU_REGS,
  CPU_RIP,
  CPU_SEG_ACCESS,
  CPU_SEG_BASE,
  CPU_SEG_LIMIT,
  CPU_SEG_SELECTOR,
  CPU_SHADOW,
  SEG_CS,
  SEG_DS,
  SEG_ES,
  SEG_FS,
  SEG_GS,
  SEG_LDTR,
  SEG_SS,
  SEG_TR,
} from "./core/layout.gen.ts";
import type { CoreFields } from "./core-fields.ts";

/** What the world switch needs of the CPU around the core's fields. */
export interface WorldSwitchHost {
  readonly fields: CoreFields;
  getFlags(): number;
  setFlags(value: number): void;
  /** An MSR that the switch loads or saves, kept outside the core: low half, high half in `high`. */
  readKeptMsr(msr: number): number;
  readonly keptHigh: number;
  writeKeptMsr(msr: number, low: number, high: number): void;
}

/** Offset of RSP in the register file. */
const RSP = CPU_REGS + 4 * 8;
/** Offset of DR7. */
const DR7 = CPU_DR + 7 * 8;
const DR7_RESET = 0x400;
/** Access rights that a VM exit gives: accessed read/execute 64-bit code, accessed read/write data, busy 64-bit TSS. */
const HOST_CS_ACCESS = 0xa09b;
const HOST_DATA_ACCESS = 0xc093;
const HOST_TR_ACCESS = 0x8b;
const FLAT_LIMIT = 0xffffffff;
const HOST_TR_LIMIT = 0x67;
const TABLE_LIMIT = 0xffff;
const ACTIVITY_HLT = 1;

/** Where a 32-bit word is: index in linear memory / 4, and offset in the VMCS / 4. Pairs in a row. */
type WordPairs = Int32Array;

function pairs(
  wide: readonly (readonly [core: number, vmcs: number])[],
  narrow: readonly (readonly [core: number, vmcs: number])[],
): WordPairs {
  const out: number[] = [];
  for (const [core, field] of wide) out.push(core / 4, vmcsOffset(field) / 4, core / 4 + 1, vmcsOffset(field) / 4 + 1);
  for (const [core, field] of narrow) out.push(core / 4, vmcsOffset(field) / 4);
  return Int32Array.from(out);
}

/** Where the core keeps the base of a segment. */
function baseField(segment: number): number {
  return segment === SEG_FS ? CPU_FS_BASE : segment === SEG_GS ? CPU_GS_BASE : CPU_SEG_BASE + 8 * segment;
}

const SEGMENTS = [
  [SEG_ES, "ES"],
  [SEG_CS, "CS"],
  [SEG_SS, "SS"],
  [SEG_DS, "DS"],
  [SEG_FS, "FS"],
  [SEG_GS, "GS"],
  [SEG_LDTR, "LDTR"],
  [SEG_TR, "TR"],
] as const;

/** What loading and saving the guest copy one to one. */
const GUEST_WORDS = pairs(
  [
    [CPU_CR0, VMCS.GUEST_CR0],
    [CPU_CR3, VMCS.GUEST_CR3],
    [CPU_CR4, VMCS.GUEST_CR4],
    [CPU_GDTR_BASE, VMCS.GUEST_GDTR_BASE],
    [CPU_IDTR_BASE, VMCS.GUEST_IDTR_BASE],
    [RSP, VMCS.GUEST_RSP],
    [CPU_RIP, VMCS.GUEST_RIP],
    ...SEGMENTS.map(([segment, name]) => [baseField(segment), VMCS[`GUEST_${name}_BASE`]] as const),
  ],
  [
    [CPU_GDTR_LIMIT, VMCS.GUEST_GDTR_LIMIT],
    [CPU_IDTR_LIMIT, VMCS.GUEST_IDTR_LIMIT],
    ...SEGMENTS.map(([segment, name]) => [CPU_SEG_SELECTOR + 4 * segment, VMCS[`GUEST_${name}_SELECTOR`]] as const),
    ...SEGMENTS.map(([segment, name]) => [CPU_SEG_LIMIT + 4 * segment, VMCS[`GUEST_${name}_LIMIT`]] as const),
    ...SEGMENTS.map(([segment, name]) => [CPU_SEG_ACCESS + 4 * segment, VMCS[`GUEST_${name}_AR_BYTES`]] as const),
  ],
);

/** What loading the host copies one to one. */
const HOST_WORDS = pairs(
  [
    [CPU_CR0, VMCS.HOST_CR0],
    [CPU_CR3, VMCS.HOST_CR3],
    [CPU_CR4, VMCS.HOST_CR4],
    [CPU_FS_BASE, VMCS.HOST_FS_BASE],
    [CPU_GS_BASE, VMCS.HOST_GS_BASE],
    [CPU_SEG_BASE + 8 * SEG_TR, VMCS.HOST_TR_BASE],
    [CPU_GDTR_BASE, VMCS.HOST_GDTR_BASE],
    [CPU_IDTR_BASE, VMCS.HOST_IDTR_BASE],
    [RSP, VMCS.HOST_RSP],
    [CPU_RIP, VMCS.HOST_RIP],
  ],
  [
    [CPU_SEG_SELECTOR + 4 * SEG_ES, VMCS.HOST_ES_SELECTOR],
    [CPU_SEG_SELECTOR + 4 * SEG_CS, VMCS.HOST_CS_SELECTOR],
    [CPU_SEG_SELECTOR + 4 * SEG_SS, VMCS.HOST_SS_SELECTOR],
    [CPU_SEG_SELECTOR + 4 * SEG_DS, VMCS.HOST_DS_SELECTOR],
    [CPU_SEG_SELECTOR + 4 * SEG_FS, VMCS.HOST_FS_SELECTOR],
    [CPU_SEG_SELECTOR + 4 * SEG_GS, VMCS.HOST_GS_SELECTOR],
    [CPU_SEG_SELECTOR + 4 * SEG_TR, VMCS.HOST_TR_SELECTOR],
  ],
);

function loadWords(words: Uint32Array, list: WordPairs, vmcs: number): void {
  for (let i = 0; i < list.length; i += 2) words[list[i] ?? 0] = words[vmcs + (list[i + 1] ?? 0)] ?? 0;
}

function saveWords(words: Uint32Array, list: WordPairs, vmcs: number): void {
  for (let i = 0; i < list.length; i += 2) words[vmcs + (list[i + 1] ?? 0)] = words[list[i] ?? 0] ?? 0;
}

/** Copies a 64-bit field of the VMCS into the core. */
function load(cpu: WorldSwitchHost, vmcs: VmcsRegion, field: number, to: number): void {
  cpu.fields.set(to, vmcs.low(field), vmcs.high(field));
}

function save(cpu: WorldSwitchHost, vmcs: VmcsRegion, from: number, field: number): void {
  vmcs.set(field, cpu.fields.low(from), cpu.fields.high(from));
}

/** Writes a kept MSR from a VMCS field, if it holds something else: three of them are the same on both sides nearly always. */
function loadKept(cpu: WorldSwitchHost, vmcs: VmcsRegion, field: number, msr: number): void {
  const low = vmcs.low(field);
  const high = vmcs.high(field);
  if (cpu.readKeptMsr(msr) !== low || cpu.keptHigh !== high) cpu.writeKeptMsr(msr, low, high);
}

function saveKept(cpu: WorldSwitchHost, vmcs: VmcsRegion, msr: number, field: number): void {
  const low = cpu.readKeptMsr(msr);
  vmcs.set(field, low, cpu.keptHigh);
}

/** Registers of the guest. The caller then turns guest mode on and tells the core that its context changed. hot: bench/exits */
export function loadGuestState(cpu: WorldSwitchHost, vmcs: VmcsRegion): void {
  const { fields } = cpu;
  const entry = vmcs.low(VMCS.VM_ENTRY_CONTROLS);
  loadWords(fields.words, GUEST_WORDS, vmcs.firstWord);
  if ((entry & VM_ENTRY_LOAD_DEBUG_CONTROLS) !== 0) {
    load(cpu, vmcs, VMCS.GUEST_DR7, DR7);
    loadKept(cpu, vmcs, VMCS.GUEST_IA32_DEBUGCTL, MSR_IA32_DEBUGCTLMSR);
  }
  loadKept(cpu, vmcs, VMCS.GUEST_SYSENTER_CS, MSR_IA32_SYSENTER_CS);
  loadKept(cpu, vmcs, VMCS.GUEST_SYSENTER_ESP, MSR_IA32_SYSENTER_ESP);
  loadKept(cpu, vmcs, VMCS.GUEST_SYSENTER_EIP, MSR_IA32_SYSENTER_EIP);
  if ((entry & VM_ENTRY_LOAD_IA32_PAT) !== 0) loadKept(cpu, vmcs, VMCS.GUEST_IA32_PAT, MSR_IA32_CR_PAT);
  if ((entry & VM_ENTRY_LOAD_IA32_EFER) !== 0) load(cpu, vmcs, VMCS.GUEST_IA32_EFER, CPU_EFER);
  else fields.setLow(CPU_EFER, fields.low(CPU_EFER) | EFER_LMA | EFER_LME);
  // CPL is SS.DPL (SDM vol. 3, 26.4.1).
  fields.setLow(CPU_CPL, (vmcs.low(VMCS.GUEST_SS_AR_BYTES) >> 5) & 3);
  cpu.setFlags(vmcs.low(VMCS.GUEST_RFLAGS));
  const blocking = vmcs.low(VMCS.GUEST_INTERRUPTIBILITY_INFO);
  fields.setLow(CPU_SHADOW, (blocking & (GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS)) !== 0 ? 1 : 0);
  fields.setLow(CPU_NMI_BLOCKED, (blocking & GUEST_INTR_STATE_NMI) !== 0 ? 1 : 0);
  fields.setLow(CPU_HALTED, vmcs.low(VMCS.GUEST_ACTIVITY_STATE) === ACTIVITY_HLT ? 1 : 0);
}

/** Writes the guest's registers back. hot: bench/exits */
export function saveGuestState(cpu: WorldSwitchHost, vmcs: VmcsRegion): void {
  const { fields } = cpu;
  const exit = vmcs.low(VMCS.VM_EXIT_CONTROLS);
  saveWords(fields.words, GUEST_WORDS, vmcs.firstWord);
  if ((exit & VM_EXIT_SAVE_DEBUG_CONTROLS) !== 0) {
    save(cpu, vmcs, DR7, VMCS.GUEST_DR7);
    saveKept(cpu, vmcs, MSR_IA32_DEBUGCTLMSR, VMCS.GUEST_IA32_DEBUGCTL);
  }
  saveKept(cpu, vmcs, MSR_IA32_SYSENTER_CS, VMCS.GUEST_SYSENTER_CS);
  saveKept(cpu, vmcs, MSR_IA32_SYSENTER_ESP, VMCS.GUEST_SYSENTER_ESP);
  saveKept(cpu, vmcs, MSR_IA32_SYSENTER_EIP, VMCS.GUEST_SYSENTER_EIP);
  if ((exit & VM_EXIT_SAVE_IA32_PAT) !== 0) saveKept(cpu, vmcs, MSR_IA32_CR_PAT, VMCS.GUEST_IA32_PAT);
  if ((exit & VM_EXIT_SAVE_IA32_EFER) !== 0) save(cpu, vmcs, CPU_EFER, VMCS.GUEST_IA32_EFER);
  vmcs.set(VMCS.GUEST_RFLAGS, cpu.getFlags(), 0);
  // The core has one shadow for STI and MOV SS; it is reported as blocking by STI when IF is 1, else as blocking by MOV SS.
  const hasShadow = fields.low(CPU_SHADOW) !== 0;
  const shadow = !hasShadow ? 0 : (cpu.getFlags() & (1 << 9)) !== 0 ? GUEST_INTR_STATE_STI : GUEST_INTR_STATE_MOV_SS;
  const nmi = fields.low(CPU_NMI_BLOCKED) !== 0 ? GUEST_INTR_STATE_NMI : 0;
  vmcs.set(VMCS.GUEST_INTERRUPTIBILITY_INFO, shadow | nmi, 0);
  vmcs.set(VMCS.GUEST_ACTIVITY_STATE, fields.low(CPU_HALTED) !== 0 ? ACTIVITY_HLT : 0, 0);
  vmcs.set(VMCS.GUEST_PENDING_DBG_EXCEPTIONS, 0, 0);
}

/** Registers of the host after a VM exit. The caller has turned guest mode off. hot: bench/exits */
export function loadHostState(cpu: WorldSwitchHost, vmcs: VmcsRegion): void {
  const { fields } = cpu;
  const exit = vmcs.low(VMCS.VM_EXIT_CONTROLS);
  loadWords(fields.words, HOST_WORDS, vmcs.firstWord);
  fields.set(DR7, DR7_RESET, 0);
  if (cpu.readKeptMsr(MSR_IA32_DEBUGCTLMSR) !== 0) cpu.writeKeptMsr(MSR_IA32_DEBUGCTLMSR, 0, 0);
  loadKept(cpu, vmcs, VMCS.HOST_IA32_SYSENTER_CS, MSR_IA32_SYSENTER_CS);
  loadKept(cpu, vmcs, VMCS.HOST_IA32_SYSENTER_ESP, MSR_IA32_SYSENTER_ESP);
  loadKept(cpu, vmcs, VMCS.HOST_IA32_SYSENTER_EIP, MSR_IA32_SYSENTER_EIP);
  if ((exit & VM_EXIT_LOAD_IA32_PAT) !== 0) loadKept(cpu, vmcs, VMCS.HOST_IA32_PAT, MSR_IA32_CR_PAT);
  if ((exit & VM_EXIT_LOAD_IA32_EFER) !== 0) load(cpu, vmcs, VMCS.HOST_IA32_EFER, CPU_EFER);
  else fields.setLow(CPU_EFER, fields.low(CPU_EFER) | EFER_LMA | EFER_LME);
  for (let i = SEG_ES; i <= SEG_GS; i++) {
    const selector = fields.low(CPU_SEG_SELECTOR + 4 * i);
    const access = i === SEG_CS ? HOST_CS_ACCESS : HOST_DATA_ACCESS;
    fields.setLow(CPU_SEG_LIMIT + 4 * i, FLAT_LIMIT);
    // A null selector makes the register unusable; SS then has DPL 0.
    fields.setLow(CPU_SEG_ACCESS + 4 * i, selector === 0 ? AR_UNUSABLE | access : access);
    if (i < SEG_FS) fields.set(CPU_SEG_BASE + 8 * i, 0, 0);
  }
  fields.setLow(CPU_SEG_LIMIT + 4 * SEG_TR, HOST_TR_LIMIT);
  fields.setLow(CPU_SEG_ACCESS + 4 * SEG_TR, HOST_TR_ACCESS);
  fields.setLow(CPU_SEG_SELECTOR + 4 * SEG_LDTR, 0);
  fields.setLow(CPU_SEG_ACCESS + 4 * SEG_LDTR, AR_UNUSABLE);
  fields.setLow(CPU_GDTR_LIMIT, TABLE_LIMIT);
  fields.setLow(CPU_IDTR_LIMIT, TABLE_LIMIT);
  cpu.setFlags(RFLAGS_FIXED);
  fields.setLow(CPU_CPL, 0);
  fields.setLow(CPU_SHADOW, 0);
  fields.setLow(CPU_HALTED, 0);
}
