// What the processor does by itself at the edges of the kernel: pushing an interrupt frame through gate, TSS and IST, and leaving by
// IRETQ or SYSRETQ. SDM vol. 3, 7.12 to 7.14.
import {
  assert,
  fail,
  fromHalves,
  hex,
  RFLAGS_FIXED,
  RFLAGS_IF,
  RFLAGS_NT,
  RFLAGS_TF,
  VECTOR_DF,
  VECTOR_NMI,
  type VirtAddr,
} from "../hardware/index.ts";
import { type CoreState, R11, RCX } from "./core-state.ts";

/** Reads and writes of linear memory with supervisor rights, which may fault and be retried by whoever provides them. */
export interface LinearAccess {
  readWord(va: number): number;
  /** Of a descriptor table: a fault there ends the machine. */
  read32(va: number): number;
  writeWord(va: number, value: number): void;
  /** False when a write to `[va, va + bytes)` would fault now. */
  canWrite(va: number, bytes: number): boolean;
}

const GATE_BYTES = 16;
const GATE_PRESENT = 1 << 15;
const GATE_INTERRUPT = 0xe;
const TSS_RSP0 = 4;
const TSS_IST1 = 36;
const SELECTOR_USER_RPL = 3;
const FRAME_BYTES = 40;

/** Selectors that the flat 64-bit segments have on entry: CS comes from the gate, SS is null after a change of privilege. */
const NULL_SELECTOR = 0;

interface Gate {
  readonly offset: VirtAddr;
  readonly selector: number;
  readonly ist: number;
  readonly isInterrupt: boolean;
}

function readGate(state: CoreState, linear: LinearAccess, vector: number): Gate {
  const at = state.idtBase + vector * GATE_BYTES;
  assert(vector * GATE_BYTES + GATE_BYTES - 1 <= state.idtLimit, () => `vector ${vector} beyond the IDT (limit ${state.idtLimit})`);
  const word0 = linear.read32(at);
  const word1 = linear.read32(at + 4);
  const word2 = linear.read32(at + 8);
  assert((word1 & GATE_PRESENT) !== 0, () => `IDT gate of vector ${vector} is not present`);
  return {
    offset: ((word2 | 0) * 2 ** 32 + (((word1 & 0xffff0000) | (word0 & 0xffff)) >>> 0)) as VirtAddr,
    selector: word0 >>> 16,
    ist: word1 & 7,
    isInterrupt: ((word1 >>> 8) & 0xf) === GATE_INTERRUPT,
  };
}

/** Base of the task-state segment that TR names. */
function taskStateBase(state: CoreState, linear: LinearAccess): number {
  const at = state.gdtBase + (state.taskSelector & ~7);
  const low = linear.read32(at);
  const high = linear.read32(at + 4);
  const upper = linear.read32(at + 8);
  return (upper | 0) * 2 ** 32 + (((low >>> 16) | ((high & 0xff) << 16) | (high & 0xff000000)) >>> 0);
}

/** A stack pointer of the task-state segment. */
function readStack(linear: LinearAccess, at: number): number {
  return fromHalves(linear.read32(at), linear.read32(at + 4));
}

/**
 * Pushes the frame for `vector` and sets RIP to its handler. `error` only for exceptions that have one. False, with nothing changed,
 * when the stack cannot be written.
 */
function tryPush(state: CoreState, linear: LinearAccess, vector: number, error: number | undefined): boolean {
  if (state.idtLimit === 0) fail(`vector ${vector} without an IDT at RIP ${hex(state.rip)}, CR2 ${hex(state.cr2)}, error ${error ?? 0}`);
  const gate = readGate(state, linear, vector);
  let top: number = state.rsp;
  if (gate.ist !== 0) top = readStack(linear, taskStateBase(state, linear) + TSS_IST1 + 8 * (gate.ist - 1));
  else if (state.cpl === 3) top = readStack(linear, taskStateBase(state, linear) + TSS_RSP0);
  const frame = Math.floor(top / 16) * 16 - FRAME_BYTES;
  if (!linear.canWrite(frame - 8, FRAME_BYTES + 8)) return false;
  const isUser = state.cpl === 3;
  linear.writeWord(frame + 32, isUser ? USER_SS : NULL_SELECTOR);
  linear.writeWord(frame + 24, state.rsp);
  linear.writeWord(frame + 16, state.rflags);
  linear.writeWord(frame + 8, isUser ? USER_CS : gate.selector);
  linear.writeWord(frame, state.rip);
  let rsp = frame;
  if (error !== undefined) {
    rsp -= 8;
    linear.writeWord(rsp, error);
  }
  state.rsp = rsp as VirtAddr;
  state.rip = gate.offset;
  state.cpl = 0;
  state.rflags &= ~(RFLAGS_TF | RFLAGS_NT);
  if (gate.isInterrupt) state.rflags &= ~RFLAGS_IF;
  if (vector === VECTOR_NMI) state.isNmiBlocked = true;
  return true;
}

/** Delivers `vector`, or a double fault in its place when its stack is not there. SDM vol. 3, 7.15, interrupt 8. */
export function pushFrame(state: CoreState, linear: LinearAccess, vector: number, error: number | undefined): void {
  if (tryPush(state, linear, vector, error)) return;
  if (tryPush(state, linear, VECTOR_DF, 0)) return;
  fail(`triple fault: vector ${vector} at RIP ${hex(state.rip)}, RSP ${hex(state.rsp)}, CR2 ${hex(state.cr2)}`);
}

/** Selectors of user code as IRETQ and SYSRETQ load them (kernel: __USER_CS, __USER_DS). */
export const USER_CS = 0x33;
export const USER_SS = 0x2b;

/** IRETQ: pops the frame at RSP; unblocks NMIs. */
export function interruptReturn(state: CoreState, linear: LinearAccess): void {
  const frame = state.rsp;
  const rip = linear.readWord(frame);
  const cs = linear.readWord(frame + 8);
  const rflags = linear.readWord(frame + 16);
  const rsp = linear.readWord(frame + 24);
  state.rip = rip as VirtAddr;
  state.cpl = (cs & SELECTOR_USER_RPL) === 3 ? 3 : 0;
  state.rflags = (rflags >>> 0) | RFLAGS_FIXED;
  state.rsp = rsp as VirtAddr;
  state.isNmiBlocked = false;
}

/** SYSRETQ: RIP from RCX, flags from R11; RSP was loaded by the stub. */
export function systemReturn(state: CoreState): void {
  state.rip = state.register(RCX) as VirtAddr;
  state.rflags = (state.registerLow(R11) & ~(1 << 16)) | RFLAGS_FIXED;
  state.cpl = 3;
}
