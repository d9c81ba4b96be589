// A hypercall handler that is a Spectre v1 gadget on purpose (KVM_HC_CORDON_TABLE): a bounds-checked lookup whose result selects a
// cache line of a second table. The guest passes a 64-bit index in a register, so a mispredicted bounds check reads any kernel
// address relative to the first table; the line that the transient load leaves behind tells four bits of what was there. All operands
// travel in registers, so that the handler touches nothing of the guest's memory, which the restricted address space does not map.
import { type Assembler, cl, eax, ecx, edx, mem, byte as memByte, rax, rdi } from "../../assembler/index.ts";
import { addVirt, CACHE_LINE_BYTES, cpu, type VirtAddr, virtAddr } from "../../hardware/index.ts";
import { staticBytes } from "../static-data.ts";
import type { StubProgram } from "../stub-program.ts";
import { VCPU_REGS } from "./kvm-struct.ts";

/** Entries (bytes) of the first table. */
export const HC_TABLE_ENTRIES = 16;
/** Lines of the second table: one page, so that line n falls into set n of an L1D with 64 sets. */
const HC_PROBE_LINES = 64;
/** What is taken of an entry. */
const HC_FIELD_MASK = 15;

/** u64: number of entries; on a line of its own. */
export const hcTableSize = staticBytes("kvm_hc_table_size", CACHE_LINE_BYTES, CACHE_LINE_BYTES);
export const hcTable = staticBytes("kvm_hc_table", CACHE_LINE_BYTES, CACHE_LINE_BYTES);
export const hcProbe = staticBytes("kvm_hc_probe", HC_PROBE_LINES * CACHE_LINE_BYTES, 4096);

export const KVM_HC_TABLE_LOOKUP = "kvm_hc_table_lookup";
/** RAX when the index is out of bounds. */
export const HC_OUT_OF_BOUNDS = -1;

/**
 * RDI: the vCPU's registers. There RBX is the index, CL a shift, EDX a first line: reads line ((entry >> shift) & 15) + first, modulo 64,
 * of the second table. @returns in RAX the byte found there, or -1
 */
function program(a: Assembler): void {
  a.mov(rax, mem(rdi, 8 * VCPU_REGS.RBX))
    .mov(ecx, mem(rdi, 8 * VCPU_REGS.RCX))
    .mov(edx, mem(rdi, 8 * VCPU_REGS.RDX));
  a.cmp(rax, mem(hcTableSize)).jae("kvm_hc_table_lookup.out");
  a.movzx(eax, memByte(mem(rax, hcTable)));
  a.shr(eax, cl).and(eax, HC_FIELD_MASK);
  a.add(eax, edx)
    .and(eax, HC_PROBE_LINES - 1)
    .shl(eax, 6);
  a.movzx(eax, memByte(mem(rax, hcProbe)));
  a.ret();
  a.label("kvm_hc_table_lookup.out").mov(rax, HC_OUT_OF_BOUNDS).ret();
}

function effect(regs: number): number {
  const low = cpu.load64(addVirt(virtAddr(regs), 8 * VCPU_REGS.RBX));
  const { high } = cpu;
  const shift = cpu.load(addVirt(virtAddr(regs), 8 * VCPU_REGS.RCX), 4);
  const first = cpu.load(addVirt(virtAddr(regs), 8 * VCPU_REGS.RDX), 4);
  const size = cpu.loadWord(hcTableSize);
  if (high !== 0 || low >= size) return HC_OUT_OF_BOUNDS;
  const field = (cpu.load(addVirt(hcTable, low), 1) >>> (shift & 31)) & HC_FIELD_MASK;
  const line = (field + first) & (HC_PROBE_LINES - 1);
  return cpu.load(addVirt(hcProbe, line * CACHE_LINE_BYTES), 1);
}

export const HYPERCALL_STUBS: readonly StubProgram[] = [{ symbol: KVM_HC_TABLE_LOOKUP, program, effect }];

/** Fills the tables. Boot code. */
export function hypercallTableInit(): void {
  cpu.storeWord(hcTableSize, HC_TABLE_ENTRIES);
  for (let i = 0; i < HC_TABLE_ENTRIES; i++) cpu.store(entryAddress(i), 1, i);
}

function entryAddress(index: number): VirtAddr {
  return addVirt(hcTable, index);
}
