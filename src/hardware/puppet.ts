// Puppets: user tasks whose decisions are TypeScript, but whose system calls, loads and stores are executed by the machine in user
// mode (law 4). A puppet's text page is a loop around a trap: at the trap the machine asks the puppet's function for the next
// action, loads registers, and continues at the block that performs it; the block returns to the trap.
import type { PhysAddr, VirtAddr } from "./addresses.ts";

/**
 * How a system call enters the kernel, SYSCALL unless it is said. "int80": INT 0x80 from 64-bit code, with 32-bit numbers and arguments.
 * "sysenter", "syscall32": what the 32-bit vDSO does, which only the abstract machine can: a puppet's text is 64-bit code.
 */
export type SystemCallEntry = "int80" | "sysenter" | "syscall32";

/** What a puppet does next. Addresses are in its own user space. */
export type PuppetAction =
  | { readonly kind: "syscall"; readonly number: number; readonly args: readonly number[]; readonly entry?: SystemCallEntry }
  | { readonly kind: "load"; readonly address: number }
  | { readonly kind: "store"; readonly address: number; readonly value: number }
  /** Writes at most 4096 bytes: the machine puts them in the staging page (as a device would), the text copies them with REP MOVSB. */
  | { readonly kind: "write"; readonly address: number; readonly bytes: Uint8Array }
  /** Reads `count` cache lines from `address` on, one word each (leaves them in the caches). */
  | { readonly kind: "touch"; readonly address: number; readonly count: number };

/** What a puppet sees when it decides: its state page, its memory, and the result (RAX, as a number) of its last action. */
export interface PuppetView {
  readonly result: number;
  /** Its state page (4096 bytes at PUPPET_STATE), to read and write: all that it remembers lives here. Zeroed at start. */
  readonly state: DataView;
  /** Copies `length` bytes of its memory; undefined where a page is not present. */
  read(address: number, length: number): Uint8Array | undefined;
}

/** Decides the next action. Deterministic, no closures over mutable state. */
export type Puppet = (view: PuppetView) => PuppetAction;

/** User addresses of a puppet's pages: text (read, execute), state and staging (read, write), stack top. */
export const PUPPET_TEXT = 0x400000;
export const PUPPET_STATE = 0x600000;
export const PUPPET_STAGING = 0x601000;
/** Read-only: u32 length of the process's arguments, then their bytes (as many pages as they need). */
export const PUPPET_ARGUMENTS = 0x10000000;
export const PUPPET_STACK_TOP = 0x7ffffffff000;

/** Offsets of the blocks in the text page. */
export const PUPPET_TRAP_OFFSET = 0x00;
export const PUPPET_SYSCALL_OFFSET = 0x10;
export const PUPPET_LOAD_OFFSET = 0x20;
export const PUPPET_STORE_OFFSET = 0x30;
export const PUPPET_WRITE_OFFSET = 0x40;
export const PUPPET_TOUCH_OFFSET = 0x50;
export const PUPPET_INT80_OFFSET = 0x60;
/** What a puppet may give rt_sigaction(): a handler that returns at once, and the restorer that it returns to. */
export const PUPPET_HANDLER_OFFSET = 0x70;
export const PUPPET_RESTORER_OFFSET = 0x80;
/** Stand for the 32-bit vDSO's code, where there are no instructions. */
export const PUPPET_SYSENTER_OFFSET = 0x90;
export const PUPPET_SYSCALL32_OFFSET = 0xa0;

/** The text page's bytes: `block; jmp trap` each. Registers: RDI, RSI, RDX, R10, R8, R9 arguments, RAX number and result, RCX count. */
export function puppetText(): Uint8Array {
  const page = new Uint8Array(4096).fill(0xcc);
  const block = (offset: number, code: readonly number[]): void => {
    const back = PUPPET_TRAP_OFFSET - (offset + code.length + 2);
    page.set([...code, 0xeb, back & 0xff], offset);
  };
  page.set([0x0f, 0xff, 0xc0], PUPPET_TRAP_OFFSET); // ud0 eax, eax
  block(PUPPET_SYSCALL_OFFSET, [0x0f, 0x05]); // syscall
  block(PUPPET_LOAD_OFFSET, [0x48, 0x8b, 0x07]); // mov rax, [rdi]
  block(PUPPET_STORE_OFFSET, [0x48, 0x89, 0x37]); // mov [rdi], rsi
  block(PUPPET_WRITE_OFFSET, [0xf3, 0xa4]); // rep movsb
  block(PUPPET_INT80_OFFSET, [0xcd, 0x80]); // int 0x80
  block(PUPPET_HANDLER_OFFSET, [0xc3]); // ret
  block(PUPPET_RESTORER_OFFSET, [0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05]); // mov eax, 15; syscall
  // again: mov rax, [rdi]; add rdi, 64; dec rcx; jnz again
  block(PUPPET_TOUCH_OFFSET, [0x48, 0x8b, 0x07, 0x48, 0x83, 0xc7, 0x40, 0x48, 0xff, 0xc9, 0x75, 0xf4]);
  return page;
}

/** Where a puppet's trap instruction is: told to the machine by the kernel when it loads the puppet's text. */
export interface PuppetPlace {
  readonly name: string;
  readonly trap: PhysAddr;
  readonly text: VirtAddr;
}
