// The guests of the prover as machine code: what the abstract machine's guests only say. Page 1 holds page tables, page 2 code: a jump that
// is written anew for each operation, and behind it the ways to leave, all of which lead to the HLT that ends KVM_RUN.
import { PTE_ACCESSED, PTE_DIRTY, PTE_PRESENT, PTE_USER, PTE_WRITE } from "../../hardware/index.ts";
import { guestMemoryAddress } from "./call-arguments.ts";
import type { Part } from "./operation.ts";

const PAGE_TABLES = 0x1000;
const CODE = 0x2000;
const ENTRY = PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_ACCESSED | PTE_DIRTY;
/** Virtual page 4 is physical page 0. */
const PAGE_ZERO_ENTRY = 4;

/**
 * Trains the branch target buffer and leaves an entry in the return stack: lea rax, [rip + 2]; jmp rax; call over the next byte; int3; pop rcx.
 */
export const TRAINING: readonly number[] = [0x48, 0x8d, 0x05, 2, 0, 0, 0, 0xff, 0xe0, 0xe8, 1, 0, 0, 0, 0xcc, 0x59];

/** Where the HLT is, and the first way to leave; from the start of the code. */
const HALT = 0x40;
const LEAVES = 0x100;
const LEAVE_BYTES = 0x20;
/** Opcode of JMP rel32. */
export const JUMP = 0xe9;
const JUMP_BYTES = 5;

/** The ways to leave by the names of KVM_RUN's operations. Each goes on at HALT. */
const CODES: Readonly<Record<string, readonly number[]>> = {
  HLT: [],
  VMCALL: [0xb8, 1, 0, 0, 0, 0x0f, 0x01, 0xc1], // mov eax, 1; vmcall
  "port output": [0xb0, 0x41, 0xe6, 0xe9], // mov al, 0x41; out 0xe9, al
  "EPT violation": [0xbb, 0x00, 0x30, 0, 0, 0x88, 0x03], // mov ebx, 0x3000; mov [rbx], al
  "EPT violation of a read": [0xbb, 0x00, 0x40, 0, 0, 0x8a, 0x03], // mov ebx, 0x4000; mov al, [rbx]
  "external interrupt": [0xb9, 0x00, 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xfc], // mov ecx, 0x1000; again: dec ecx; jnz again
  NMI: [0xb9, 0x00, 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xfc],
  "running on": [0xeb, 0xfe], // jmp to itself
};
const NAMES = Object.keys(CODES);

/** JMP rel32. */
export function jump(from: number, to: number): readonly number[] {
  const distance = to - from - JUMP_BYTES;
  return [JUMP, distance & 0xff, (distance >> 8) & 0xff, (distance >> 16) & 0xff, (distance >> 24) & 0xff];
}

function leaveAt(name: string): number {
  return LEAVES + LEAVE_BYTES * Math.max(0, NAMES.indexOf(name));
}

/** The page is every level of its own tables: entry 0 leads back to it, and at the last level entry n maps virtual page n. */
function pageTables(): Uint8Array {
  const bytes = new Uint8Array(8 * (PAGE_ZERO_ENTRY + 1));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, PAGE_TABLES | ENTRY, true);
  for (let page = 1; page < PAGE_ZERO_ENTRY; page++) view.setUint32(8 * page, (page << 12) | ENTRY, true);
  view.setUint32(8 * PAGE_ZERO_ENTRY, ENTRY, true);
  return bytes;
}

function code(): Uint8Array {
  const bytes = new Uint8Array(LEAVES + LEAVE_BYTES * NAMES.length);
  bytes.set(jump(0, leaveAt("HLT")), 0);
  // mov esp, CODE: the stack is the end of the page before; then what trains; then
  const stack = [0xbc, 0x00, 0x20, 0, 0];
  const halt = [...stack, ...TRAINING, 0xf4, 0x31, 0xc0, 0x31, 0xc9, 0x31, 0xdb]; // hlt; xor eax, eax; xor ecx, ecx; xor ebx, ebx
  bytes.set([...halt, ...jump(HALT + halt.length, 0)], HALT);
  for (const [name, leave] of Object.entries(CODES)) {
    const at = leaveAt(name);
    bytes.set([...leave, ...jump(at + leave.length, HALT)], at);
  }
  return bytes;
}

/** What a process writes into the memory of its VMs before it makes them. */
export function guestCodeSetup(vms: number): readonly Part[] {
  return Array.from({ length: vms }, (_, vm): readonly Part[] => [
    () => ({ kind: "write", address: guestMemoryAddress(vm) + PAGE_TABLES, bytes: pageTables() }),
    () => ({ kind: "write", address: guestMemoryAddress(vm) + CODE, bytes: code() }),
  ]).flat();
}

const KVM_RUN = /^KVM_RUN (.*?)(?: vm \d+)?(?: vcpu \d+)?$/;

/** How a guest leaves first in this operation; undefined: it runs no guest. */
export function guestLeaveOf(operation: string): string | undefined {
  return KVM_RUN.exec(operation)?.[1];
}

/** What makes the guest of VM number `vm` leave so: bytes, and where they go in the memory of its process. */
export function guestJump(vm: number, leave: string): { readonly address: number; readonly bytes: Uint8Array } {
  return { address: guestMemoryAddress(vm) + CODE, bytes: Uint8Array.from(jump(0, leaveAt(leave))) };
}
