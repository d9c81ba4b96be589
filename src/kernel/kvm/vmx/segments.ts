// Guest segments and descriptor tables: between struct kvm_segment (struct kvm_dtable), as user space gives them, and the VMCS.
import { DTABLE, KVM_SEGMENT_BYTES, SEGMENT } from "../../../abi/index.ts";
import { addVirt, cpu, type VirtAddr, VMCS } from "../../../hardware/index.ts";

interface SegmentFields {
  readonly selector: number;
  readonly base: number;
  readonly limit: number;
  readonly ar: number;
}

/** The fields of each segment register (kernel: kvm_vmx_segment_fields). */
export const VMX_SEGMENT_FIELDS = {
  cs: { selector: VMCS.GUEST_CS_SELECTOR, base: VMCS.GUEST_CS_BASE, limit: VMCS.GUEST_CS_LIMIT, ar: VMCS.GUEST_CS_AR_BYTES },
  ds: { selector: VMCS.GUEST_DS_SELECTOR, base: VMCS.GUEST_DS_BASE, limit: VMCS.GUEST_DS_LIMIT, ar: VMCS.GUEST_DS_AR_BYTES },
  es: { selector: VMCS.GUEST_ES_SELECTOR, base: VMCS.GUEST_ES_BASE, limit: VMCS.GUEST_ES_LIMIT, ar: VMCS.GUEST_ES_AR_BYTES },
  fs: { selector: VMCS.GUEST_FS_SELECTOR, base: VMCS.GUEST_FS_BASE, limit: VMCS.GUEST_FS_LIMIT, ar: VMCS.GUEST_FS_AR_BYTES },
  gs: { selector: VMCS.GUEST_GS_SELECTOR, base: VMCS.GUEST_GS_BASE, limit: VMCS.GUEST_GS_LIMIT, ar: VMCS.GUEST_GS_AR_BYTES },
  ss: { selector: VMCS.GUEST_SS_SELECTOR, base: VMCS.GUEST_SS_BASE, limit: VMCS.GUEST_SS_LIMIT, ar: VMCS.GUEST_SS_AR_BYTES },
  tr: { selector: VMCS.GUEST_TR_SELECTOR, base: VMCS.GUEST_TR_BASE, limit: VMCS.GUEST_TR_LIMIT, ar: VMCS.GUEST_TR_AR_BYTES },
  ldt: { selector: VMCS.GUEST_LDTR_SELECTOR, base: VMCS.GUEST_LDTR_BASE, limit: VMCS.GUEST_LDTR_LIMIT, ar: VMCS.GUEST_LDTR_AR_BYTES },
} as const satisfies Record<string, SegmentFields>;
export type SegmentName = keyof typeof VMX_SEGMENT_FIELDS;
export const SEGMENT_NAMES = ["cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"] as const satisfies readonly SegmentName[];

const TABLE_FIELDS = {
  gdt: { base: VMCS.GUEST_GDTR_BASE, limit: VMCS.GUEST_GDTR_LIMIT },
  idt: { base: VMCS.GUEST_IDTR_BASE, limit: VMCS.GUEST_IDTR_LIMIT },
} as const;

// Access rights as the VMCS holds them. SDM vol. 3, table 26-2.
const AR_S = 4;
const AR_DPL = 5;
const AR_P = 7;
const AR_AVL = 12;
const AR_L = 13;
const AR_DB = 14;
const AR_G = 15;
export const AR_UNUSABLE = 1 << 16;

/** Writes one segment of the current VMCS from the structure at `from` (kernel: `vmx_set_segment()`). */
export function vmxSetSegment(name: SegmentName, from: VirtAddr): void {
  const fields = VMX_SEGMENT_FIELDS[name];
  const flag = (offset: number): number => cpu.load(addVirt(from, offset), 1);
  const low = cpu.load64(addVirt(from, SEGMENT.base));
  cpu.vmwrite(fields.base, low, cpu.high);
  cpu.vmwrite(fields.limit, cpu.load(addVirt(from, SEGMENT.limit), 4), 0);
  cpu.vmwrite(fields.selector, cpu.load(addVirt(from, SEGMENT.selector), 2), 0);
  const isPresent = flag(SEGMENT.present) !== 0;
  const isUnusable = flag(SEGMENT.unusable) !== 0 || !isPresent;
  const rights =
    (flag(SEGMENT.type) & 15) |
    ((flag(SEGMENT.s) & 1) << AR_S) |
    ((flag(SEGMENT.dpl) & 3) << AR_DPL) |
    ((isPresent ? 1 : 0) << AR_P) |
    ((flag(SEGMENT.avl) & 1) << AR_AVL) |
    ((flag(SEGMENT.l) & 1) << AR_L) |
    ((flag(SEGMENT.db) & 1) << AR_DB) |
    ((flag(SEGMENT.g) & 1) << AR_G) |
    (isUnusable ? AR_UNUSABLE : 0);
  cpu.vmwrite(fields.ar, rights, 0);
}

/** The reverse (kernel: `vmx_get_segment()`). */
export function vmxGetSegment(name: SegmentName, to: VirtAddr): void {
  const fields = VMX_SEGMENT_FIELDS[name];
  cpu.fill(to, 0, KVM_SEGMENT_BYTES);
  const low = cpu.vmread(fields.base);
  cpu.store64(addVirt(to, SEGMENT.base), low, cpu.high);
  cpu.store(addVirt(to, SEGMENT.limit), 4, cpu.vmread(fields.limit));
  cpu.store(addVirt(to, SEGMENT.selector), 2, cpu.vmread(fields.selector));
  const rights = cpu.vmread(fields.ar);
  const put = (offset: number, shift: number, mask: number): void => cpu.store(addVirt(to, offset), 1, (rights >>> shift) & mask);
  put(SEGMENT.type, 0, 15);
  put(SEGMENT.s, AR_S, 1);
  put(SEGMENT.dpl, AR_DPL, 3);
  put(SEGMENT.present, AR_P, 1);
  put(SEGMENT.avl, AR_AVL, 1);
  put(SEGMENT.l, AR_L, 1);
  put(SEGMENT.db, AR_DB, 1);
  put(SEGMENT.g, AR_G, 1);
  put(SEGMENT.unusable, 16, 1);
}

/** Writes GDTR or IDTR of the current VMCS from struct kvm_dtable. */
export function vmxSetTable(name: "gdt" | "idt", from: VirtAddr): void {
  const low = cpu.load64(addVirt(from, DTABLE.base));
  cpu.vmwrite(TABLE_FIELDS[name].base, low, cpu.high);
  cpu.vmwrite(TABLE_FIELDS[name].limit, cpu.load(addVirt(from, DTABLE.limit), 2), 0);
}

export function vmxGetTable(name: "gdt" | "idt", to: VirtAddr): void {
  const low = cpu.vmread(TABLE_FIELDS[name].base);
  cpu.store64(addVirt(to, DTABLE.base), low, cpu.high);
  cpu.store(addVirt(to, DTABLE.limit), 2, cpu.vmread(TABLE_FIELDS[name].limit));
}

/** A segment at reset. SDM vol. 3, table 11-1. */
export function vmxResetSegment(name: SegmentName, selector: number, base: number, rights: number): void {
  const fields = VMX_SEGMENT_FIELDS[name];
  cpu.vmwrite(fields.selector, selector, 0);
  cpu.vmwrite(fields.base, base, 0);
  cpu.vmwrite(fields.limit, 0xffff, 0);
  cpu.vmwrite(fields.ar, rights, 0);
}
