// User mode of the abstract machine: the only user code is a puppet's text page, so its few blocks are interpreted here by their
// offsets, one instruction at a time, with the registers and the page rights that the real instructions would use.
import {
  assert,
  fail,
  hex,
  PAGE_SIZE,
  type PhysAddr,
  PUPPET_HANDLER_OFFSET,
  PUPPET_INT80_OFFSET,
  PUPPET_LOAD_OFFSET,
  PUPPET_RESTORER_OFFSET,
  PUPPET_STACK_TOP,
  PUPPET_STAGING,
  PUPPET_STATE,
  PUPPET_STORE_OFFSET,
  PUPPET_SYSCALL_OFFSET,
  PUPPET_SYSCALL32_OFFSET,
  PUPPET_SYSENTER_OFFSET,
  PUPPET_TEXT,
  PUPPET_TOUCH_OFFSET,
  PUPPET_TRAP_OFFSET,
  PUPPET_WRITE_OFFSET,
  type Puppet,
  type PuppetAction,
  type SystemCallEntry,
  type VirtAddr,
} from "../hardware/index.ts";
import { type CoreState, R8, R9, R10, R11, RAX, RBP, RBX, RCX, RDI, RDX, RSI } from "./core-state.ts";
import { type Access, FAULT, FETCH, type Mmu, READ, WRITE } from "./mmu.ts";
import type { TrackedMemory } from "./tracked-memory.ts";

/** What user code did: one instruction, or something that the kernel must handle. */
export type UserEvent = "done" | "syscall" | "fault" | SystemCallEntry;

const ARGUMENT_REGISTERS = [RDI, RSI, RDX, R10, R8, R9];
/** Of the 32-bit calls; the sixth, EBP, is the vDSO's to pass where it is not INT 0x80. */
const ARGUMENT_REGISTERS_32 = [RBX, RCX, RDX, RSI, RDI, RBP];
const ENTRIES_32: ReadonlyMap<number, SystemCallEntry> = new Map<number, SystemCallEntry>([
  [PUPPET_INT80_OFFSET, "int80"],
  [PUPPET_SYSENTER_OFFSET, "sysenter"],
  [PUPPET_SYSCALL32_OFFSET, "syscall32"],
]);
const OFFSET_OF_ENTRY: Readonly<Record<SystemCallEntry, number>> = {
  int80: PUPPET_INT80_OFFSET,
  sysenter: PUPPET_SYSENTER_OFFSET,
  syscall32: PUPPET_SYSCALL32_OFFSET,
};
/** Below 4 GiB, and zero: what the vDSO's ESP points to. */
const STACK_32 = PUPPET_STATE + PAGE_SIZE - 16;
/** Bytes of every instruction that calls the kernel. */
const SYSCALL_BYTES = 2;
const SIGRETURN = 15;
const MOV_EAX_BYTES = 5;
/** Offset of the jump back behind each block. */
const JUMP_OFFSETS = new Set([
  PUPPET_SYSCALL_OFFSET + SYSCALL_BYTES,
  PUPPET_LOAD_OFFSET + 3,
  PUPPET_STORE_OFFSET + 3,
  PUPPET_WRITE_OFFSET + 2,
  PUPPET_TOUCH_OFFSET + 12,
  PUPPET_INT80_OFFSET + SYSCALL_BYTES,
]);
const LINE = 64;

export interface UserCode {
  readonly state: CoreState;
  readonly mmu: Mmu;
  readonly memory: TrackedMemory;
  puppetAt(trap: PhysAddr): Puppet | undefined;
}

/** Runs one instruction at RIP. After "fault" the MMU holds vector and error code, and CR2 is set. */
export function userStep(user: UserCode): UserEvent {
  const { state } = user;
  const page = Math.floor(state.rip / PAGE_SIZE) * PAGE_SIZE;
  const offset = state.rip - page;
  const text = access(user, state.rip, FETCH);
  if (text === FAULT) return "fault";
  if (page !== PUPPET_TEXT) return landingPad(state, offset);
  if (offset === PUPPET_TRAP_OFFSET) return decide(user, text, page);
  if (JUMP_OFFSETS.has(offset)) {
    state.rip = page as VirtAddr;
    return "done";
  }
  switch (offset) {
    case PUPPET_SYSCALL_OFFSET:
    case PUPPET_RESTORER_OFFSET + MOV_EAX_BYTES:
      state.setRegister(RCX, state.rip + SYSCALL_BYTES);
      state.setRegister(R11, state.rflags);
      return "syscall";
    case PUPPET_INT80_OFFSET:
    case PUPPET_SYSENTER_OFFSET:
    case PUPPET_SYSCALL32_OFFSET:
      state.rip = (state.rip + SYSCALL_BYTES) as VirtAddr; // behind the instruction
      return ENTRIES_32.get(offset) ?? "done";
    case PUPPET_HANDLER_OFFSET: {
      const pa = access(user, state.rsp, READ);
      if (pa === FAULT) return "fault";
      state.rip = user.memory.readWord(pa as PhysAddr) as VirtAddr; // the restorer, as the frame says
      state.rsp = (state.rsp + 8) as VirtAddr; // RET
      return "done";
    }
    case PUPPET_RESTORER_OFFSET:
      state.setRegister(RAX, SIGRETURN);
      return advance(state, MOV_EAX_BYTES);
    case PUPPET_LOAD_OFFSET: {
      const pa = access(user, state.register(RDI), READ);
      if (pa === FAULT) return "fault";
      state.setRegister(RAX, user.memory.readWord(pa as PhysAddr));
      return advance(state, 3);
    }
    case PUPPET_STORE_OFFSET: {
      const pa = access(user, state.register(RDI), WRITE);
      if (pa === FAULT) return "fault";
      user.memory.writeWord(pa as PhysAddr, state.register(RSI));
      return advance(state, 3);
    }
    case PUPPET_WRITE_OFFSET:
      return moveString(user);
    case PUPPET_TOUCH_OFFSET:
      return touchLines(user);
    default:
      return fail(`user code at ${hex(state.rip)} is no block of a puppet's text`);
  }
}

/** Behind the vDSO's calls (see the kernel's vdso-32.ts): it restores what it pushed and returns to whoever called it, here to the puppet's text. */
function landingPad(state: CoreState, offset: number): UserEvent {
  assert(offset === VDSO32_LANDING_PAD, () => `user code at ${hex(state.rip)} is neither a puppet's text nor the landing pad`);
  state.rsp = (PUPPET_STACK_TOP - 16) as VirtAddr; // where a puppet's stack always is
  state.rip = PUPPET_TEXT as VirtAddr;
  return "done";
}

/** Where SYSENTER and SYSCALL from 32-bit code return to, in the vDSO's page. */
const VDSO32_LANDING_PAD = 9;

function access(user: UserCode, va: number, kind: Access): number {
  const pa = user.mmu.translate(va, kind, true);
  if (pa === FAULT) user.state.cr2 = va as VirtAddr;
  return pa;
}

function advance(state: CoreState, bytes: number): UserEvent {
  state.rip = (state.rip + bytes) as VirtAddr;
  return "done";
}

/** REP MOVSB, page by page; what is left stays in the registers over a fault. */
function moveString(user: UserCode): UserEvent {
  const { state, memory } = user;
  let left = state.register(RCX);
  while (left > 0) {
    const source = state.register(RSI);
    const target = state.register(RDI);
    const from = access(user, source, READ);
    if (from === FAULT) return "fault";
    const to = access(user, target, WRITE);
    if (to === FAULT) return "fault";
    const count = Math.min(left, PAGE_SIZE - (source % PAGE_SIZE), PAGE_SIZE - (target % PAGE_SIZE));
    memory.copyWithin(to as PhysAddr, from as PhysAddr, count);
    state.setRegister(RSI, source + count);
    state.setRegister(RDI, target + count);
    left -= count;
    state.setRegister(RCX, left);
  }
  return advance(state, 2);
}

function touchLines(user: UserCode): UserEvent {
  const { state, memory } = user;
  for (let left = state.register(RCX); left > 0; left--) {
    const pa = access(user, state.register(RDI), READ);
    if (pa === FAULT) return "fault";
    state.setRegister(RAX, memory.readWord(pa as PhysAddr));
    state.setRegister(RDI, state.register(RDI) + LINE);
    state.setRegister(RCX, left - 1);
  }
  return advance(state, 12);
}

/** The trap: asks the puppet for its next action and loads the registers of the block that performs it. */
function decide(user: UserCode, trap: number, text: number): UserEvent {
  const { state, mmu, memory } = user;
  const puppet = user.puppetAt(trap as PhysAddr);
  if (puppet === undefined) fail(`no puppet is registered for the trap at physical address ${hex(trap)}`);
  const stateAt = access(user, PUPPET_STATE, WRITE);
  if (stateAt === FAULT) return "fault";
  // Before the puppet is asked: after a fork its pages are to be copied first, and it must not be asked twice.
  const staging = access(user, PUPPET_STAGING, WRITE);
  if (staging === FAULT) return "fault";
  const view = {
    result: state.register(RAX),
    state: new DataView(memory.bytes.buffer, memory.bytes.byteOffset + stateAt, PAGE_SIZE),
    read: (address: number, length: number) => readUser(mmu, memory, state, address, length),
  };
  let action: ReturnType<Puppet> | undefined;
  memory.external(stateAt as PhysAddr, PAGE_SIZE, () => {
    action = puppet(view);
  });
  assert(action !== undefined, () => "a puppet decided nothing");
  switch (action.kind) {
    case "syscall":
      return call(state, text, action);
    case "load":
      state.setRegister(RDI, action.address);
      return go(state, text, PUPPET_LOAD_OFFSET);
    case "store":
      state.setRegister(RDI, action.address);
      state.setRegister(RSI, action.value);
      return go(state, text, PUPPET_STORE_OFFSET);
    case "touch":
      state.setRegister(RDI, action.address);
      state.setRegister(RCX, action.count);
      return go(state, text, PUPPET_TOUCH_OFFSET);
    case "write": {
      const { bytes, address } = action;
      assert(bytes.byteLength <= PAGE_SIZE, () => `a puppet writes at most a page at once, not ${bytes.byteLength} bytes`);
      memory.writeBytes(staging as PhysAddr, bytes);
      state.setRegister(RSI, PUPPET_STAGING);
      state.setRegister(RDI, address);
      state.setRegister(RCX, bytes.byteLength);
      return go(state, text, PUPPET_WRITE_OFFSET);
    }
  }
}

function call(state: CoreState, text: number, { number, args, entry }: PuppetAction & { readonly kind: "syscall" }): UserEvent {
  state.setRegister(RAX, number);
  const registers = entry === undefined ? ARGUMENT_REGISTERS : ARGUMENT_REGISTERS_32;
  for (let i = 0; i < registers.length; i++) state.setRegister(registers[i] ?? RAX, args[i] ?? 0);
  if (entry === "sysenter" || entry === "syscall32") state.setRegister(RBP, STACK_32);
  return go(state, text, entry === undefined ? PUPPET_SYSCALL_OFFSET : OFFSET_OF_ENTRY[entry]);
}

function go(state: CoreState, text: number, offset: number): UserEvent {
  state.rip = (text + offset) as VirtAddr;
  return "done";
}

function readUser(mmu: Mmu, memory: TrackedMemory, state: CoreState, address: number, length: number): Uint8Array | undefined {
  const out = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const va = address + done;
    const pa = mmu.peek(va, (state.cr3 - (state.cr3 % PAGE_SIZE)) as PhysAddr);
    if (pa === undefined) return undefined;
    const count = Math.min(length - done, PAGE_SIZE - (va % PAGE_SIZE));
    out.set(memory.slice(pa, count), done);
    done += count;
  }
  return out;
}
