// Moves of XMM registers and memory: what compilers use to copy and clear. Arithmetic on them is not implemented.
import { CR0_TS } from "./context.ts";
import { fault } from "./faults.ts";
import { BOUNCE_REGION, CPU_CR0, CPU_CR4, CPU_GENERATION, CPU_REGS, CPU_XMM, LEAVE_FAULT, UOP_DST, UOP_SRC } from "./layout.gen.ts";
import { commitBounce, hostForRead, slowReadForWrite } from "./memory.ts";
import { VECTOR_GP, VECTOR_UD } from "./mmu.ts";
import { portHostAccess } from "./port.gen.ts";

const VECTOR_NM = 7;
const CR0_EM: u64 = 4;
const CR4_OSFXSR: u64 = 0x200;

/** 0 when SSE instructions are enabled, else the LEAVE_* code of the fault. */
function check(): i32 {
  if (load<u64>(CPU_CR0) & CR0_EM || !(load<u64>(CPU_CR4) & CR4_OSFXSR)) return fault(VECTOR_UD, 0);
  return load<u64>(CPU_CR0) & CR0_TS ? fault(VECTOR_NM, 0) : 0;
}

function misaligned(va: i64): bool {
  return (va & 15) !== 0;
}

/** Loads 4, 8 or 16 bytes and clears the rest of the register. */
export function vectorLoad(pc: usize, bytes: i64, va: i64): i32 {
  const code = check();
  if (code !== 0) return code;
  const host = hostForRead(va, bytes as u32, load<u64>(CPU_GENERATION));
  if (host === 0) return LEAVE_FAULT;
  const to: u32 = CPU_XMM + (load<u8>(pc, UOP_DST) as u32);
  const low = bytes === 4 ? (load<u32>(host) as u64) : load<u64>(host);
  const high = bytes === 16 ? load<u64>(host, 8) : 0;
  store<u64>(to, low);
  store<u64>(to, high, 8);
  return 0;
}

export function vectorLoadAligned(pc: usize, bytes: i64, va: i64): i32 {
  return misaligned(va) ? fault(VECTOR_GP, 0) : vectorLoad(pc, bytes, va);
}

export function vectorStore(pc: usize, bytes: i64, va: i64): i32 {
  const code = check();
  if (code !== 0) return code;
  const host = slowReadForWrite(va, bytes as u32);
  if (host === 0) return LEAVE_FAULT;
  portHostAccess(host, bytes as u32, true);
  memory.copy(host, CPU_XMM + (load<u8>(pc, UOP_SRC) as u32), bytes as u32);
  if (host === BOUNCE_REGION) commitBounce(va, bytes as u32);
  return 0;
}

export function vectorStoreAligned(pc: usize, bytes: i64, va: i64): i32 {
  return misaligned(va) ? fault(VECTOR_GP, 0) : vectorStore(pc, bytes, va);
}

/** Register to register; imm 8: the low half, the upper one cleared (MOVQ). */
export function vectorMove(pc: usize, bytes: i64): i32 {
  const code = check();
  if (code !== 0) return code;
  const to: u32 = CPU_XMM + (load<u8>(pc, UOP_DST) as u32);
  const from: u32 = CPU_XMM + (load<u8>(pc, UOP_SRC) as u32);
  const high = bytes === 16 ? load<u64>(from, 8) : 0;
  store<u64>(to, load<u64>(from));
  store<u64>(to, high, 8);
  return 0;
}

export function vectorXor(pc: usize): i32 {
  const code = check();
  if (code !== 0) return code;
  const to: u32 = CPU_XMM + (load<u8>(pc, UOP_DST) as u32);
  const from: u32 = CPU_XMM + (load<u8>(pc, UOP_SRC) as u32);
  const high = load<u64>(to, 8) ^ load<u64>(from, 8);
  store<u64>(to, load<u64>(to) ^ load<u64>(from));
  store<u64>(to, high, 8);
  return 0;
}

/** MOVD and MOVQ from a general register. */
export function vectorFromRegister(pc: usize, bytes: i64, value: i64): i32 {
  const code = check();
  if (code !== 0) return code;
  const to: u32 = CPU_XMM + (load<u8>(pc, UOP_DST) as u32);
  store<i64>(to, bytes === 4 ? value & 0xffffffff : value);
  store<u64>(to, 0, 8);
  return 0;
}

export function vectorToRegister(pc: usize, bytes: i64): i32 {
  const code = check();
  if (code !== 0) return code;
  const value = load<u64>(CPU_XMM + (load<u8>(pc, UOP_SRC) as u32));
  store<u64>(load<u8>(pc, UOP_DST), bytes === 4 ? value & 0xffffffff : value, CPU_REGS);
  return 0;
}
