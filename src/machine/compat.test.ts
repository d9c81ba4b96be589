// Compatibility mode on the core: segments with limits, LDT, 16-bit stacks, transfers between 64-bit and 32-bit code, the system calls of
// 32-bit code. Expected values: SDM vol. 3, 3.4, 6.8, 7.14; vol. 2 for each instruction; APM vol. 3 for SYSCALL on AMD processors.
import assert from "node:assert/strict";
import { test } from "node:test";
import { CODE, CoreFixture, RSP0, STACK_TOP } from "../../test/core-fixture.ts";
import { KERNEL_CS, USER_CS, USER_SS } from "./bare.ts";
import {
  CPU_CPL,
  CPU_FEATURES,
  CPU_GDTR_LIMIT,
  CPU_MSR_CSTAR,
  CPU_MSR_FMASK,
  CPU_MSR_STAR,
  CPU_MSR_SYSENTER_CS,
  CPU_MSR_SYSENTER_EIP,
  CPU_MSR_SYSENTER_ESP,
  CPU_REGS,
  CPU_RFLAGS,
  CPU_RIP,
  CPU_SEG_SELECTOR,
  FEATURE_AMD,
  SEG_CS,
  SEG_SS,
} from "./core/layout.gen.ts";

const GDT = 0x4000;
const LDT = 0x5800;
/** Selectors of the test's own descriptors, behind the fixture's. */
const CODE32 = 0x43;
const CODE16 = 0x4b;
const STACK16 = 0x53;
const SMALL = 0x5b;
const DOWN = 0x63;
const GATE = 0x73;
const LDT_SELECTOR = 0x80;
const RESERVED_CODE = 0x93;
const FRESH = 0x9b;
const GDT_BYTES = 0xa0;
/** Base of SMALL, DOWN, STACK16 and CODE16. */
const BASE = 0x200000;
const USER_STACK = 0x170000;
const RAX = CPU_REGS;
const RCX = CPU_REGS + 8;
const RDX = CPU_REGS + 16;
const RSP = CPU_REGS + 32;
const HANDLER = 0x140000;
const INT3 = 0xcc;
const UD0 = [0x0f, 0xff, 0xc0];

function descriptor(base: number, limit: number, access: number, flags: number): bigint {
  const b = BigInt(base);
  const l = BigInt(limit);
  return (
    (l & 0xffffn) | ((b & 0xffffffn) << 16n) | (BigInt(access) << 40n) | ((l >> 16n) << 48n) | (BigInt(flags) << 52n) | ((b >> 24n) << 56n)
  );
}

/** A machine with the descriptors, an INT3 gate for user code, and the trap HANDLER. */
function fixture(): CoreFixture {
  const f = new CoreFixture();
  const set = (selector: number, value: bigint): void => f.setEntry(GDT + (selector & ~7), value);
  set(CODE32, descriptor(0, 0xfffff, 0xfb, 0xc));
  set(CODE16, descriptor(BASE, 0xffff, 0xfb, 0));
  set(STACK16, descriptor(BASE, 0xffff, 0xf3, 0));
  set(SMALL, descriptor(BASE, 0xfff, 0xf3, 4));
  set(DOWN, descriptor(BASE, 0xfff, 0xf7, 4));
  set(RESERVED_CODE, descriptor(0, 0xfffff, 0xfb, 0xe));
  set(FRESH, descriptor(0, 0xfffff, 0xf2, 0xc));
  // A call gate of DPL 3 to kernel code at HANDLER.
  set(GATE, BigInt(HANDLER & 0xffff) | (BigInt(KERNEL_CS) << 16n) | (0xecn << 40n) | (BigInt(HANDLER >>> 16) << 48n));
  f.setEntry(GDT + (GATE & ~7) + 8, 0n);
  f.setEntry(GDT + LDT_SELECTOR, descriptor(LDT, 15, 0x82, 0));
  f.setEntry(GDT + LDT_SELECTOR + 8, 0n);
  f.setEntry(LDT, 0n);
  f.setEntry(LDT + 8, descriptor(0, 0xfffff, 0xfb, 0xc));
  f.core.fields.setLow(CPU_GDTR_LIMIT, GDT_BYTES - 1);
  f.setGate(3, 0x8000 + 3 * 16, 0, true);
  f.core.physical.set(UD0, HANDLER);
  f.addTrap(HANDLER, "handler");
  return f;
}

/** Enters user code at `rip` by the frame that IRETQ pops. */
function enter(f: CoreFixture, cs: number, rip: number, code: readonly number[], ss = USER_SS, rsp = USER_STACK, flags = 2): string {
  const base = cs === CODE16 ? BASE : 0;
  f.bare.load(base + rip, Uint8Array.from([...code, INT3]));
  const frame = STACK_TOP - 40;
  for (const [n, value] of [rip, cs, flags, rsp, ss].entries()) f.setEntry(frame + 8 * n, BigInt(value));
  f.bare.load(CODE, Uint8Array.from([0x48, 0xcf]));
  f.start();
  f.core.fields.setWord(RSP, frame);
  return f.go().trap;
}

function dword(value: number): number[] {
  return [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
}

const AT = 0x150000;

test("IRETQ enters 32-bit code; an exception there pushes the 64-bit frame with EIP, CS and ESP", () => {
  const f = fixture();
  f.core.fields.set(RAX, 7, 0xffffffff);
  // INC EAX is 40, a REX prefix in 64-bit mode; the upper half of RAX is cleared.
  assert.equal(enter(f, CODE32, AT, [0x40, 0x50]), "#3");
  const frame = f.frame(false);
  assert.deepEqual([frame.rip, frame.cs, frame.rsp, frame.ss], [AT + 3, CODE32, USER_STACK - 4, USER_SS]);
  assert.equal(f.core.fields.word(RAX), 8);
  assert.equal(f.view.getUint32(USER_STACK - 4, true), 8);
  assert.equal(f.core.fields.word(RSP), RSP0 - 40);
  assert.equal(f.core.fields.low(CPU_CPL), 0);
});

test("the same bytes at the same address are translated for each mode", () => {
  const f = fixture();
  for (const [cs, expected] of [
    [CODE32, 6],
    [USER_CS, 5],
    [CODE32, 6],
  ] as const) {
    f.core.fields.setWord(RAX, 5);
    // 40 90: INC EAX, NOP; in 64-bit mode a REX prefix of NOP.
    assert.equal(enter(f, cs, AT, [0x40, 0x90]), "#3");
    assert.equal(f.core.fields.word(RAX), expected);
  }
});

test("IRETQ to a 16-bit stack loads SP alone: the rest of ESP is that of the kernel's stack pointer", () => {
  const f = fixture();
  assert.equal(enter(f, CODE32, AT, [], STACK16, 0x12345678), "#3");
  const kernelHigh = (STACK_TOP - 40) & 0xffff0000;
  assert.equal(f.frame(false).rsp, kernelHigh | 0x5678);
  assert.equal(f.frame(false).ss, STACK16);
});

test("pushes and pops of a 16-bit stack wrap in SP, and keep the upper half of ESP", () => {
  const f = fixture();
  // PUSH 0x11223344 (four bytes) at SP = 2 goes to 0xfffe: the limit is 0xffff, so it is #SS(0).
  assert.equal(enter(f, CODE32, AT, [0x68, ...dword(0x11223344)], STACK16, 2), "#12");
  assert.equal(f.frame(true).error, 0);
  // With SP = 4 it goes to 0; the next one to 0xfffc.
  assert.equal(enter(f, CODE32, AT, [0x68, ...dword(0x11223344), 0x68, ...dword(0x55667788)], STACK16, 4), "#3");
  assert.equal(f.view.getUint32(BASE, true), 0x11223344);
  assert.equal(f.view.getUint32(BASE + 0xfffc, true), 0x55667788);
  assert.equal(f.frame(false).rsp & 0xffff, 0xfffc);
});

test("limits: the last byte counts; beyond it #GP(0), through SS #SS(0); expand-down segments begin above theirs", () => {
  const f = fixture();
  const read = (selector: number, offset: number): string =>
    // MOV AX, selector; MOV DS, AX; MOV EAX, [offset]
    enter(f, CODE32, AT, [0x66, 0xb8, selector, 0, 0x8e, 0xd8, 0xa1, ...dword(offset)]);
  f.view.setUint32(BASE + 0xffc, 0xabcdef01, true);
  assert.equal(read(SMALL, 0xffc), "#3");
  assert.equal(f.core.fields.word(RAX), 0xabcdef01);
  assert.equal(read(SMALL, 0xffd), "#13");
  assert.equal(f.frame(true).error, 0);
  assert.equal(read(DOWN, 0xfff), "#13");
  assert.equal(read(DOWN, 0x1000), "#3");
  // POP with SS = SMALL and ESP = 0xffd.
  assert.equal(enter(f, CODE32, AT, [0x58], SMALL, 0xffd), "#12");
  // A store through CS, and any access through a null DS.
  assert.equal(enter(f, CODE32, AT, [0x2e, 0xa3, ...dword(BASE)]), "#13");
  assert.equal(enter(f, CODE32, AT, [0x31, 0xc0, 0x8e, 0xd8, 0xa1, ...dword(BASE)]), "#13");
});

test("a code segment with a base and a limit: EIP is relative, calls push it, fetches beyond the limit are #GP(0)", () => {
  const f = fixture();
  // CALL +1; NOP; POP AX in 16-bit code: the return address is 3.
  assert.equal(enter(f, CODE16, 0, [0xe8, 1, 0, 0x90, 0x58], STACK16, 0x8000), "#3");
  assert.equal(f.core.fields.low(RAX) & 0xffff, 3);
  assert.equal(f.frame(false).rip, 6);
  // A two-byte instruction whose second byte lies beyond the limit.
  assert.equal(enter(f, CODE16, 0xffff, [0xb0], STACK16, 0x8000), "#13");
  // A jump backwards over 0 wraps in 16 bits.
  f.bare.load(BASE + 0xfff0, Uint8Array.from([INT3]));
  assert.equal(enter(f, CODE16, 0, [0xeb, 0xee], STACK16, 0x8000), "#3");
  assert.equal(f.frame(false).rip, 0xfff1);
});

test("segments of the LDT: a far jump there, and #GP with the selector once LDTR is null", () => {
  const f = fixture();
  const local = 0xf;
  const jump = [0xea, ...dword(AT + 0x20), local, 0];
  f.bare.load(AT + 0x20, Uint8Array.from([0x40, INT3]));
  const load = (selector: number): void => {
    f.bare.load(CODE, Uint8Array.from([0x66, 0xb8, selector & 0xff, 0, 0x0f, 0x00, 0xd0, ...UD0]));
    f.addTrap(CODE + 7, "loaded");
    f.start();
    assert.equal(f.go().trap, "loaded");
  };
  load(LDT_SELECTOR);
  f.core.fields.setWord(RAX, 1);
  const keep = f.core.fields.word(RAX);
  assert.equal(enter(f, CODE32, AT, jump), "#3");
  assert.equal(f.frame(false).cs, local);
  assert.equal(f.core.fields.word(RAX), keep + 1);
  load(0);
  assert.equal(enter(f, CODE32, AT, jump), "#13");
  assert.equal(f.frame(true).error, local & ~3);
});

test("far jumps and returns between 32-bit and 64-bit code; L and D together are refused", () => {
  const f = fixture();
  const long = AT + 0x40;
  // 64-bit code: push the way back and RETFQ... to 32-bit code, which ends.
  f.bare.load(long, Uint8Array.from([0x6a, CODE32, 0x68, ...dword(AT + 0x80), 0x48, 0xcb]));
  f.bare.load(AT + 0x80, Uint8Array.from([0x40, INT3]));
  f.core.fields.set(RAX, 0xffffffff, 0xffffffff);
  assert.equal(enter(f, CODE32, AT, [0xea, ...dword(long), USER_CS, 0]), "#3");
  assert.equal(f.frame(false).cs, CODE32);
  assert.equal(f.core.fields.word(RAX), 0);
  assert.equal(enter(f, CODE32, AT, [0xea, ...dword(long), RESERVED_CODE, 0]), "#13");
  assert.equal(f.frame(true).error, RESERVED_CODE & ~3);
  // CALL far pushes CS and EIP of four bytes; RETF takes them.
  f.bare.load(AT + 0x80, Uint8Array.from([0xcb]));
  assert.equal(enter(f, CODE32, AT, [0x9a, ...dword(AT + 0x80), CODE32, 0]), "#3");
  assert.equal(f.frame(false).rip, AT + 8);
  assert.equal(f.view.getUint32(USER_STACK - 4, true), CODE32);
  assert.equal(f.view.getUint32(USER_STACK - 8, true), AT + 7);
});

test("a 64-bit call gate leads inwards: the stack of the TSS, SS null, four words of eight bytes", () => {
  const f = fixture();
  assert.equal(enter(f, CODE32, AT, [0x9a, ...dword(0), GATE, 0]), "handler");
  const { fields } = f.core;
  assert.equal(fields.low(CPU_CPL), 0);
  assert.equal(fields.low(CPU_SEG_SELECTOR + SEG_SS * 4), 0);
  assert.equal(fields.low(CPU_SEG_SELECTOR + SEG_CS * 4), KERNEL_CS);
  assert.equal(fields.word(RSP), RSP0 - 32);
  const pushed = [0, 8, 16, 24].map((n) => Number(f.view.getBigUint64(RSP0 - 32 + n, true)));
  assert.deepEqual(pushed, [AT + 7, CODE32, USER_STACK, USER_SS]);
});

test("SYSENTER from 32-bit code and SYSEXIT back; SYSCALL there is #UD, but goes to CSTAR on AMD", () => {
  const f = fixture();
  const { fields } = f.core;
  fields.setWord(CPU_MSR_SYSENTER_CS, KERNEL_CS);
  fields.setWord(CPU_MSR_SYSENTER_ESP, 0x160000);
  fields.setWord(CPU_MSR_SYSENTER_EIP, HANDLER);
  const IF = 0x200;
  assert.equal(enter(f, CODE32, AT, [0x0f, 0x34], USER_SS, USER_STACK, IF | 2), "handler");
  assert.deepEqual([fields.word(RSP), fields.low(CPU_CPL), fields.low(CPU_RFLAGS) & IF], [0x160000, 0, 0]);
  assert.equal(fields.low(CPU_SEG_SELECTOR + SEG_SS * 4), KERNEL_CS + 8);
  // SYSEXIT with 32 bits: EIP from EDX, ESP from ECX, CS = SYSENTER_CS + 16 | 3.
  f.bare.load(HANDLER + 3, Uint8Array.from([0x0f, 0x35]));
  f.bare.load(AT + 0x40, Uint8Array.from([INT3]));
  fields.setWord(RDX, AT + 0x40);
  fields.setWord(RCX, USER_STACK - 0x100);
  assert.equal(f.go().trap, "#3");
  assert.deepEqual([f.frame(false).cs, f.frame(false).rip, f.frame(false).rsp], [KERNEL_CS + 19, AT + 0x41, USER_STACK - 0x100]);
  assert.equal(enter(f, CODE32, AT, [0x0f, 0x05]), "#6");
  fields.setLow(CPU_FEATURES, FEATURE_AMD);
  fields.set(CPU_MSR_STAR, 0, KERNEL_CS);
  fields.setWord(CPU_MSR_CSTAR, HANDLER);
  fields.setWord(CPU_MSR_FMASK, 0);
  assert.equal(enter(f, CODE32, AT, [0x0f, 0x05]), "handler");
  assert.equal(fields.word(RCX), AT + 2);
  assert.equal(enter(f, CODE32, AT, [0x0f, 0x34]), "#6");
  fields.setLow(CPU_FEATURES, 0);
});

test("INT n obeys the gate's DPL; INTO traps on OF; BOUND and AAM 0 fault", () => {
  const f = fixture();
  assert.equal(enter(f, CODE32, AT, [0xcd, 6]), "#13");
  assert.equal(f.frame(true).error, 6 * 8 + 2);
  f.setGate(4, 0x8000 + 4 * 16, 0, true);
  // MOV AL, 0x7f; INC AL; INTO
  assert.equal(enter(f, CODE32, AT, [0xb0, 0x7f, 0xfe, 0xc0, 0xce]), "#4");
  assert.equal(f.frame(false).rip, AT + 5);
  f.view.setInt32(BASE, -5, true);
  f.view.setInt32(BASE + 4, 5, true);
  // PUSH SS; POP DS first: the fixture leaves DS empty.
  const bound = (value: number): string => enter(f, CODE32, AT, [0x16, 0x1f, 0xb8, ...dword(value), 0x62, 0x05, ...dword(BASE)]);
  assert.deepEqual([bound(5), bound(-5), bound(6), bound(-6)], ["#3", "#3", "#5", "#5"]);
  assert.equal(enter(f, CODE32, AT, [0xd4, 0]), "#0");
});

test("loading a segment whose accessed bit is clear sets it in the table", () => {
  const f = fixture();
  assert.equal(enter(f, CODE32, AT, [0x66, 0xb8, FRESH, 0, 0x8e, 0xd8]), "#3");
  assert.equal(f.core.physical[GDT + (FRESH & ~7) + 5], 0xf3);
});

test("the trap flag stops after each 32-bit instruction", () => {
  const f = fixture();
  f.core.fields.setWord(RAX, 1);
  assert.equal(enter(f, CODE32, AT, [0x40, 0x40], USER_SS, USER_STACK, 0x102), "#1");
  assert.equal(f.frame(false).rip, AT + 1);
  assert.equal(f.core.fields.word(RAX), 2);
});

test("a return to user mode drops data segments of the kernel's privilege", () => {
  const f = fixture();
  // MOV EAX, DS in user code, after the kernel had loaded its own data segment.
  f.bare.load(CODE, Uint8Array.from([0x66, 0xb8, 0x10, 0, 0x8e, 0xd8, ...UD0]));
  f.addTrap(CODE + 6, "loaded");
  f.start();
  assert.equal(f.go().trap, "loaded");
  assert.equal(enter(f, USER_CS, AT, [0x8c, 0xd8]), "#3");
  assert.equal(f.core.fields.low(RAX), 0);
  assert.ok(f.core.fields.word(CPU_RIP) < CODE);
});
