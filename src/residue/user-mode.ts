// User mode of the abstract machine: the only user code is a puppet's text page, so its few blocks are interpreted here by their
// offsets, one instruction at a time, with the registers and the page rights that the real instructions would use.
import {
  assert,
  fail,
  hex,
  PAGE_SIZE,
  type PhysAddr,
  PUPPET_LOAD_OFFSET,
  PUPPET_STAGING,
  PUPPET_STATE,
  PUPPET_STORE_OFFSET,
  PUPPET_SYSCALL_OFFSET,
  PUPPET_TOUCH_OFFSET,
  PUPPET_TRAP_OFFSET,
  PUPPET_WRITE_OFFSET,
  type Puppet,
  type VirtAddr,
} from "../hardware/index.ts";
import { type CoreState, R8, R9, R10, R11, RAX, RCX, RDI, RDX, RSI } from "./core-state.ts";
import { type Access, FAULT, FETCH, type Mmu, READ, WRITE } from "./mmu.ts";
import type { TrackedMemory } from "./tracked-memory.ts";

/** What user code did: one instruction, or something that the kernel must handle. */
export type UserEvent = "done" | "syscall" | "fault";

const ARGUMENT_REGISTERS = [RDI, RSI, RDX, R10, R8, R9];
const SYSCALL_BYTES = 2;
/** Offset of the jump back behind each block. */
const JUMP_OFFSETS = new Set([
  PUPPET_SYSCALL_OFFSET + SYSCALL_BYTES,
  PUPPET_LOAD_OFFSET + 3,
  PUPPET_STORE_OFFSET + 3,
  PUPPET_WRITE_OFFSET + 2,
  PUPPET_TOUCH_OFFSET + 12,
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
  if (offset === PUPPET_TRAP_OFFSET) return decide(user, text, page);
  if (JUMP_OFFSETS.has(offset)) {
    state.rip = page as VirtAddr;
    return "done";
  }
  switch (offset) {
    case PUPPET_SYSCALL_OFFSET:
      state.setRegister(RCX, state.rip + SYSCALL_BYTES);
      state.setRegister(R11, state.rflags);
      return "syscall";
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
      state.setRegister(RAX, action.number);
      ARGUMENT_REGISTERS.forEach((register, i) => {
        state.setRegister(register, action?.kind === "syscall" ? (action.args[i] ?? 0) : 0);
      });
      return go(state, text, PUPPET_SYSCALL_OFFSET);
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
