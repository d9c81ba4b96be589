// FRED on the core: frames, stack levels, the two entries, ERETU and ERETS, and what it does away with. Expected values: Intel's FRED
// specification, chapters 5 (delivery), 6 (returns), 7 (LKGS), 8 (instructions that change); MSR numbers: SDM vol. 4.
import assert from "node:assert/strict";
import { test } from "node:test";
import { CODE, CoreFixture, P, STACK_TOP, U, W, WINDOW } from "../../test/core-fixture.ts";
import { findCpuModel } from "../hardware/index.ts";
import { cpuidOf } from "../platform/index.ts";
import { KERNEL_CS, KERNEL_SS, USER_CS, USER_SS } from "./bare.ts";
import {
  CPU_CPL,
  CPU_CR2,
  CPU_CR4,
  CPU_FEATURES,
  CPU_GDTR_LIMIT,
  CPU_GS_BASE,
  CPU_MSR_FRED_CONFIG,
  CPU_MSR_FRED_RSP,
  CPU_MSR_FRED_STKLVLS,
  CPU_MSR_KERNEL_GS_BASE,
  CPU_MSR_STAR,
  CPU_NMI_BLOCKED,
  CPU_REGS,
  CPU_RFLAGS,
  CPU_RIP,
  CPU_SEG_SELECTOR,
  EVENT_EXCEPTION,
  EVENT_NMI,
  FEATURE_FRED,
  SEG_GS,
} from "./core/layout.gen.ts";

const ENTRY = 0x130000;
const STACK0 = 0x160000;
const STACK2 = 0x164000;
const RED_ZONE = 64;
const RSP = CPU_REGS + 32;
const RAX = CPU_REGS;
const TRAP = [0x0f, 0xff, 0xc0];
const ERETU = [0xf3, 0x0f, 0x01, 0xca];
const ERETS = [0xf2, 0x0f, 0x01, 0xca];
const SYSCALL = [0x0f, 0x05];
const CR4_FRED_HIGH = 1;
const FRED_BIT_IN_EAX = 1 << 17;
const LKGS_BIT_IN_EAX = 1 << 18;

interface FredFrame {
  readonly error: number;
  readonly rip: number;
  readonly cs: number;
  readonly level: number;
  readonly flags: number;
  readonly rsp: number;
  readonly ss: number;
  /** Bits 16 to 18: STI, software event, NMI. */
  readonly bits: number;
  readonly vector: number;
  readonly type: number;
  readonly isLong: boolean;
  readonly isNested: boolean;
  readonly length: number;
  readonly data: number;
}

/** CR4.FRED set, entries that are traps, NMIs (vector 2) on level 2; SYSCALL's selectors. */
function fixture(): CoreFixture {
  const f = new CoreFixture();
  const { fields } = f.core;
  f.core.physical.set(TRAP, ENTRY);
  f.core.physical.set(TRAP, ENTRY + 256);
  f.addTrap(ENTRY, "user");
  f.addTrap(ENTRY + 256, "kernel");
  fields.setLow(CPU_FEATURES, FEATURE_FRED);
  fields.set(CPU_CR4, fields.low(CPU_CR4), CR4_FRED_HIGH);
  fields.setWord(CPU_MSR_FRED_CONFIG, ENTRY | RED_ZONE);
  fields.setWord(CPU_MSR_FRED_RSP, STACK0);
  fields.setWord(CPU_MSR_FRED_RSP + 16, STACK2);
  fields.setWord(CPU_MSR_FRED_STKLVLS, 2 << 4);
  fields.set(CPU_MSR_STAR, 0, KERNEL_CS);
  fields.setWord(CPU_GS_BASE, 0x1111);
  fields.setWord(CPU_MSR_KERNEL_GS_BASE, 0x2222);
  f.core.functions.contextChanged();
  return f;
}

function frameOf(f: CoreFixture): FredFrame {
  const at = f.core.fields.word(RSP);
  const low = (n: number): number => f.view.getUint32(at + 8 * n, true);
  const high = (n: number): number => f.view.getUint32(at + 8 * n + 4, true);
  return {
    error: low(0),
    rip: low(1),
    cs: low(2) & 0xffff,
    level: (low(2) >>> 16) & 3,
    flags: low(3),
    rsp: low(4),
    ss: low(5) & 0xffff,
    bits: low(5) >>> 16,
    vector: high(5) & 0xff,
    type: (high(5) >>> 16) & 15,
    isLong: (high(5) & (1 << 25)) !== 0,
    isNested: (high(5) & (1 << 26)) !== 0,
    length: high(5) >>> 28,
    data: low(6),
  };
}

function user(f: CoreFixture, code: readonly number[]): string {
  f.bare.load(CODE, Uint8Array.from(code));
  f.start(CODE, true);
  return f.go().trap;
}

function kernel(f: CoreFixture, code: readonly number[]): string {
  f.bare.load(CODE, Uint8Array.from(code));
  f.start();
  return f.go().trap;
}

test("SYSCALL is an event of type 7: the entry of ring 3, the stack of level 0, GS swapped, RCX and R11 kept", () => {
  const f = fixture();
  f.core.fields.setWord(CPU_REGS + 8, 77);
  assert.equal(user(f, SYSCALL), "user");
  const { fields } = f.core;
  assert.equal(fields.word(RSP), STACK0 - 64);
  assert.deepEqual(frameOf(f), {
    error: 0,
    rip: CODE + 2,
    cs: USER_CS,
    level: 0,
    flags: 2,
    rsp: STACK_TOP,
    ss: USER_SS,
    bits: 2,
    vector: 1,
    type: 7,
    isLong: true,
    isNested: false,
    length: 2,
    data: 0,
  });
  assert.deepEqual([fields.word(CPU_GS_BASE), fields.word(CPU_MSR_KERNEL_GS_BASE)], [0x2222, 0x1111]);
  assert.deepEqual([fields.low(CPU_CPL), fields.low(CPU_RFLAGS), fields.word(CPU_REGS + 8)], [0, 2, 77]);
});

test("SYSENTER and INT n are events too, whatever the IDT says", () => {
  const f = fixture();
  assert.equal(user(f, [0x0f, 0x34]), "user");
  assert.deepEqual([frameOf(f).vector, frameOf(f).type, frameOf(f).bits], [2, 7, 2]);
  assert.equal(user(f, [0xcd, 0x80]), "user");
  assert.deepEqual([frameOf(f).vector, frameOf(f).type, frameOf(f).length, frameOf(f).rip], [0x80, 4, 2, CODE + 2]);
  assert.equal(user(f, [0xcc]), "user");
  assert.deepEqual([frameOf(f).vector, frameOf(f).type, frameOf(f).bits, frameOf(f).rip], [3, 6, 0, CODE + 1]);
});

test("a page fault has its address as event data, an error code, and RF in the flags", () => {
  const f = fixture();
  // MOV EAX, [WINDOW + 8], not mapped.
  assert.equal(user(f, [0x8b, 0x04, 0x25, 8, 0, 0, WINDOW >>> 24]), "user");
  const frame = frameOf(f);
  assert.deepEqual([frame.vector, frame.type, frame.error, frame.data, frame.flags], [14, 3, 4, WINDOW + 8, 0x10002]);
  assert.equal(f.core.fields.word(CPU_CR2), WINDOW + 8);
});

test("an event of ring 0 goes to its own entry, below the red zone, aligned to 64 bytes", () => {
  const f = fixture();
  // SUB RSP, 8; UD2
  assert.equal(kernel(f, [0x48, 0x83, 0xec, 8, 0x0f, 0x0b]), "kernel");
  const frame = frameOf(f);
  assert.equal(f.core.fields.word(RSP), ((STACK_TOP - 8 - RED_ZONE) & ~63) - 64);
  assert.deepEqual([frame.vector, frame.cs, frame.ss, frame.rsp, frame.level], [6, KERNEL_CS, KERNEL_SS, STACK_TOP - 8, 0]);
  assert.equal(f.core.fields.word(CPU_GS_BASE), 0x1111);
});

test("an NMI on level 2; ERETS goes back to the level of the frame and lets NMIs come again", () => {
  const f = fixture();
  const { fields } = f.core;
  f.start();
  assert.equal(f.core.functions.deliver(2, EVENT_NMI, 0, 0), 0);
  assert.deepEqual([fields.word(RSP), fields.low(CPU_MSR_FRED_CONFIG) & 3, fields.low(CPU_NMI_BLOCKED)], [STACK2 - 64, 2, 1]);
  assert.deepEqual([frameOf(f).bits, frameOf(f).type, frameOf(f).level], [4, 2, 0]);
  // A fault in the handler stays on the level and does not unblock NMIs when it returns.
  assert.equal(f.core.functions.deliver(6, EVENT_EXCEPTION, 0, 0), 0);
  assert.equal(frameOf(f).level, 2);
  f.core.physical.set(ERETS, ENTRY + 256);
  f.core.functions.physicalWritten(ENTRY + 256, 4);
  fields.setWord(CPU_RIP, ENTRY + 256);
  f.core.functions.run(1);
  assert.deepEqual([fields.word(RSP), fields.low(CPU_NMI_BLOCKED), fields.word(CPU_RIP)], [STACK2 - 64, 1, ENTRY + 256]);
  f.core.functions.run(1);
  assert.deepEqual([fields.word(RSP), fields.low(CPU_NMI_BLOCKED), fields.word(CPU_RIP)], [STACK_TOP, 0, CODE]);
  assert.equal(fields.low(CPU_MSR_FRED_CONFIG) & 3, 0);
});

test("from ring 3 every event but a double fault uses level 0", () => {
  const f = fixture();
  f.start(CODE, true);
  assert.equal(f.core.functions.deliver(2, EVENT_NMI, 0, 0), 0);
  assert.equal(f.core.fields.word(RSP), STACK0 - 64);
});

test("a fault while an event is delivered is nested; the stack it finds is its own level's", () => {
  const f = fixture();
  // Level 0's stack is not mapped: #PF of the delivery, on level 2.
  f.core.fields.setWord(CPU_MSR_FRED_RSP, WINDOW + 0x1000);
  f.core.fields.set(CPU_MSR_FRED_STKLVLS, 2 << 28, 0);
  assert.equal(user(f, SYSCALL), "user");
  const frame = frameOf(f);
  assert.deepEqual([frame.vector, frame.isNested, f.core.fields.word(RSP)], [14, true, STACK2 - 64]);
});

test("ERETU returns to ring 3 with GS swapped, all of ESP even on a 16-bit stack; not from a higher level", () => {
  const f = fixture();
  const { fields } = f.core;
  // The fixture's GDT, and behind it 32-bit code and a 16-bit stack.
  const code32 = 0x43;
  const stack16 = 0x4b;
  f.setEntry(0x4000 + 0x40, 0x00cffb000000ffffn);
  f.setEntry(0x4000 + 0x48, 0x0000f3000000ffffn);
  fields.setLow(CPU_GDTR_LIMIT, 0x4f);
  const back = (cs: number, ss: number, rsp: number): string => {
    const at = STACK0 - 64;
    for (const [n, value] of [0, CODE + 0x100, cs, 2, rsp, ss].entries()) f.setEntry(at + 8 * n, BigInt(value));
    f.bare.load(CODE, Uint8Array.from(ERETU));
    f.bare.load(CODE + 0x100, Uint8Array.from([0xcc]));
    f.start();
    fields.setWord(RSP, at);
    return f.go().trap;
  };
  assert.equal(back(USER_CS, USER_SS, 0x170000), "user");
  assert.deepEqual([frameOf(f).cs, frameOf(f).rsp, frameOf(f).vector], [USER_CS, 0x170000, 3]);
  // Swapped by ERETU, and again by the event.
  assert.equal(fields.word(CPU_GS_BASE), 0x1111);
  assert.equal(back(code32, stack16, 0x12345678), "user");
  assert.deepEqual([frameOf(f).rsp, frameOf(f).isLong], [0x12345678, false]);
  fields.setLow(CPU_MSR_FRED_CONFIG, ENTRY | RED_ZONE | 1);
  assert.equal(back(USER_CS, USER_SS, 0x170000), "kernel");
  assert.deepEqual([frameOf(f).vector, frameOf(f).error], [13, 0]);
});

test("IRETQ does not leave ring 0, SWAPGS and SYSRET are undefined, CR4.FRED needs the feature", () => {
  const f = fixture();
  const at = STACK_TOP - 40;
  for (const [n, value] of [CODE + 0x100, USER_CS, 2, 0x170000, USER_SS].entries()) f.setEntry(at + 8 * n, BigInt(value));
  f.bare.load(CODE, Uint8Array.from([0x48, 0xcf]));
  f.start();
  f.core.fields.setWord(RSP, at);
  assert.equal(f.go().trap, "kernel");
  assert.deepEqual([frameOf(f).vector, frameOf(f).error], [13, USER_CS & ~3]);
  assert.equal(kernel(f, [0x0f, 0x01, 0xf8]), "kernel");
  assert.equal(frameOf(f).vector, 6);
  assert.equal(kernel(f, [0x48, 0x0f, 0x07]), "kernel");
  assert.equal(frameOf(f).vector, 6);
  // MOV CR4 with bit 32 on a part without FRED.
  const plain = new CoreFixture();
  plain.bare.load(CODE, Uint8Array.from([0x0f, 0x22, 0xe0]));
  plain.start();
  plain.core.fields.set(RAX, plain.core.fields.low(CPU_CR4), CR4_FRED_HIGH);
  assert.equal(plain.go().trap, "#13");
  plain.core.fields.setLow(CPU_FEATURES, FEATURE_FRED);
  plain.bare.load(CODE + 3, Uint8Array.from(TRAP));
  plain.addTrap(CODE + 3, "set");
  plain.start();
  plain.core.fields.set(RAX, plain.core.fields.low(CPU_CR4), CR4_FRED_HIGH);
  assert.equal(plain.go().trap, "set");
});

test("LKGS loads the selector, and the base into KERNEL_GS_BASE", () => {
  const f = fixture();
  f.map(0, P | W | U);
  f.setEntry(0x4000 + 0x40, 0x00cff3345678ffffn);
  f.core.fields.setLow(CPU_GDTR_LIMIT, 0x47);
  f.bare.load(CODE + 8, Uint8Array.from(TRAP));
  f.addTrap(CODE + 8, "done");
  // MOV AX, 0x43; LKGS AX
  assert.equal(kernel(f, [0x66, 0xb8, 0x43, 0, 0xf2, 0x0f, 0x00, 0xf0, ...TRAP]), "done");
  const { fields } = f.core;
  assert.deepEqual([fields.word(CPU_GS_BASE), fields.word(CPU_MSR_KERNEL_GS_BASE)], [0x1111, 0x345678]);
  assert.equal(fields.low(CPU_SEG_SELECTOR + SEG_GS * 4), 0x43);
});

test("CPUID leaf 7.1 has FRED and LKGS on the model that is made for it, and the leaf is 0 elsewhere", () => {
  const fred = findCpuModel("skx-fred");
  const plain = findCpuModel("skx");
  assert.ok(fred !== undefined && plain !== undefined);
  assert.deepEqual(cpuidOf(fred, 7, 1, 0, 1), [FRED_BIT_IN_EAX | LKGS_BIT_IN_EAX, 0, 0, 0]);
  assert.equal(cpuidOf(fred, 7, 0, 0, 1)[0], 1);
  assert.deepEqual(cpuidOf(plain, 7, 1, 0, 1), [0, 0, 0, 0]);
  assert.equal(cpuidOf(plain, 7, 0, 0, 1)[0], 0);
});
