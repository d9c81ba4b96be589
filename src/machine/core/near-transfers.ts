// Near transfers of compatibility mode that are not frequent enough for ops of their own: targets of 16 bits, counters of 16 bits, code
// segments that are not flat. Each ends its block: RIP is set, and the dispatcher goes on. RIP is linear; EIP is relative to the base of CS.

import { siteOf } from "./blocks.ts";
import { ripOf } from "./events.ts";
import { fault } from "./faults.ts";
import { flagZeroNow } from "./flags.ts";
import { CPU_PAGE_BASE, CPU_REGS, CPU_RIP, CPU_SEG_LIMIT, LEAVE_FAULT, LEAVE_STEPPED, SEG_CS, SITE_LENGTH } from "./layout.gen.ts";
import { VECTOR_GP } from "./mmu.ts";
import { codeBase, moveStack, sizeOf, stackRead, stackWrite, valueAt } from "./stack.ts";

const RCX = CPU_REGS + 8;
/** Loops, as in src/machine/isa/translate-compat.ts. */
const LOOP_E: u32 = 1;
const LOOP_NE: u32 = 2;
const JUMP_IF_ZERO: u32 = 3;
const COUNTER_32: u32 = 16;

function cut(value: u64, bytes: u32): u64 {
  return bytes === 2 ? value & 0xffff : value & 0xffffffff;
}

function isBeyondLimit(eip: u64): bool {
  return eip > (load<u32>(CPU_SEG_LIMIT + SEG_CS * 4) as u64);
}

function goTo(eip: u64): i32 {
  store<u64>(CPU_RIP, (codeBase() + eip) & 0xffffffff);
  return LEAVE_STEPPED;
}

/** EIP of a target relative to the page. */
function relative(target: i64, bytes: u32): u64 {
  return cut(load<u64>(CPU_PAGE_BASE) + (target as u64) - codeBase(), bytes);
}

/** EIP of the next instruction. */
function nextEip(pc: usize): u64 {
  return (ripOf(pc) + (load<u8>(siteOf(pc as u32), SITE_LENGTH) as u64) - codeBase()) & 0xffffffff;
}

function jump(eip: u64): i32 {
  return isBeyondLimit(eip) ? fault(VECTOR_GP, 0) : goTo(eip);
}

function call(pc: usize, eip: u64): i32 {
  const bytes = sizeOf(pc);
  if (isBeyondLimit(eip)) return fault(VECTOR_GP, 0);
  if (!stackWrite(-(bytes as i64), bytes, nextEip(pc))) return LEAVE_FAULT;
  moveStack(-(bytes as i64));
  return goTo(eip);
}

export function nearJump(pc: usize, target: i64): i32 {
  return jump(cut(target as u64, sizeOf(pc)));
}

export function nearJumpRelative(pc: usize, target: i64): i32 {
  return jump(relative(target, sizeOf(pc)));
}

export function nearCall(pc: usize, target: i64): i32 {
  return call(pc, cut(target as u64, sizeOf(pc)));
}

export function nearCallRelative(pc: usize, target: i64): i32 {
  return call(pc, relative(target, sizeOf(pc)));
}

export function nearReturn(pc: usize, drop: i64): i32 {
  const bytes = sizeOf(pc);
  const host = stackRead(0, bytes);
  if (host === 0) return LEAVE_FAULT;
  const eip = valueAt(host, bytes);
  if (isBeyondLimit(eip)) return fault(VECTOR_GP, 0);
  moveStack((bytes as i64) + drop);
  return goTo(eip);
}

/** Jcc: the condition as 0 or 1. */
export function nearBranch(pc: usize, target: i64, taken: i64): i32 {
  if (taken === 0) return goTo(nextEip(pc));
  return jump(relative(target, sizeOf(pc)));
}

/** LOOP, LOOPE, LOOPNE, JCXZ, JECXZ. */
export function nearLoop(pc: usize, target: i64, how: i64): i32 {
  const kind = (how as u32) & 3;
  const wide = ((how as u32) & COUNTER_32) !== 0;
  let count = wide ? load<u32>(RCX) : (load<u16>(RCX) as u32);
  if (kind !== JUMP_IF_ZERO) count = wide ? count - 1 : (count - 1) & 0xffff;
  let taken = kind === JUMP_IF_ZERO ? count === 0 : count !== 0;
  if (kind === LOOP_E) taken = taken && flagZeroNow();
  else if (kind === LOOP_NE) taken = taken && !flagZeroNow();
  const eip = relative(target, sizeOf(pc));
  if (taken && isBeyondLimit(eip)) return fault(VECTOR_GP, 0);
  if (kind !== JUMP_IF_ZERO) {
    if (wide) store<u64>(RCX, count as u64);
    else store<u16>(RCX, count as u16);
  }
  return goTo(taken ? eip : nextEip(pc));
}
