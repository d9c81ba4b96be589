// Programs in machine code against the entries: handlers of signals and their return, INT 0x80, vector registers over switches and handlers,
// bad returns; each also under NMIs at varied points, with address space isolation, with page-table isolation, and with neither.
import assert from "node:assert/strict";
import { test } from "node:test";
import { nmiStorm, type ProgramOptions, runProgram } from "../../../test/host-program.ts";
import { SA_RESTORER, SA_SIGINFO, SIGUSR1, SYS } from "../../abi/index.ts";
import {
  type Assembler,
  at,
  cx,
  dword,
  eax,
  ebx,
  ecx,
  edi,
  edx,
  esi,
  mem,
  qword,
  r8,
  r10,
  r12,
  r13,
  r14,
  r15,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
  xmm0,
} from "../../assembler/index.ts";
import { TRACE_NMI, TRACE_PROCESS_EXIT, TRACE_SYSCALL, TRACE_WARN } from "../trace.ts";

const GOOD = 7;
const BAD = 1;
const ROUNDS = 40;
const PATTERN = 0x1234_5678_9abc_def0n;

const CONFIGURATIONS: readonly (readonly [string, ProgramOptions])[] = [
  ["asi=on", { commandLine: "asi=on" }],
  ["asi=on, preset rfc-v2", { commandLine: "asi=on", preset: "rfc-v2" }],
  ["PTI", { commandLine: "asi=off pti=on" }],
  ["PTI, VERW", { commandLine: "asi=off pti=on mds=full" }],
  ["FRED", { commandLine: "asi=on fred=on", model: "skx-fred" }],
  ["neither", { commandLine: "asi=off pti=off mitigations=off" }],
];

function exit(a: Assembler, status: number): void {
  a.mov(edi, status).mov(eax, SYS.exit_group).syscall();
}

/** Exit statuses, 128 + n for signal n. */
function statuses(events: readonly (readonly number[])[]): readonly number[] {
  return events.filter(([event]) => event === TRACE_PROCESS_EXIT).map(([, , code]) => code ?? -1);
}

function check(emit: (a: Assembler) => void, status: number, options: ProgramOptions): void {
  for (const nmis of [[], nmiStorm(60_000, 2000)]) {
    const { events, lines } = runProgram(emit, { ...options, nmis });
    assert.deepEqual(statuses(events), [status], lines.slice(-3).join("\n"));
    assert.equal(events.filter(([event]) => event === TRACE_WARN).length, 0);
    if (nmis.length > 0) assert.ok(events.filter(([event]) => event === TRACE_NMI).length >= 100);
  }
}

/** Sends itself SIGUSR1 in a loop; the handler clobbers everything it may; afterwards every register must be what it was. */
function signals(a: Assembler): void {
  a.mov(eax, SYS.rt_sigaction).mov(edi, SIGUSR1).lea(rsi, at("action")).xor(edx, edx).mov(r10, 8).syscall();
  a.test(rax, rax).jnz("bad");
  a.mov(eax, SYS.getpid).syscall().mov(r14, rax);
  a.mov(r15, ROUNDS);
  a.mov(rbx, PATTERN).mov(rbp, PATTERN).mov(r12, PATTERN).mov(r13, PATTERN).mov(r8, PATTERN).movq(xmm0, rbx);
  a.label("loop").mov(qword(mem(rsp, -64)), rbx);
  a.mov(eax, SYS.kill).mov(rdi, r14).mov(esi, SIGUSR1).syscall();
  a.test(rax, rax).jnz("bad");
  for (const register of [rbp, r12, r13, r8]) a.cmp(rbx, register).jnz("bad");
  a.mov(rcx, PATTERN).cmp(rbx, rcx).jnz("bad").cmp(rcx, mem(rsp, -64)).jnz("bad");
  a.movq(rax, xmm0).cmp(rax, rbx).jnz("bad");
  a.dec(r15).jnz("loop");
  a.cmp(dword(at("count")), ROUNDS).jnz("bad");
  exit(a, GOOD);
  a.label("bad");
  exit(a, BAD);
  a.label("handler")
    .cmp(edi, SIGUSR1)
    .jnz("bad")
    .cmp(dword(mem(rsi)), SIGUSR1)
    .jnz("bad");
  a.lea(rax, mem(rsp, 8)).test(rax, 15).jnz("bad");
  a.inc(dword(at("count")));
  for (const register of [rbx, rbp, r12, r13, r14, r15, r8, rax, rcx, rdx]) a.xor(register, register);
  a.movq(xmm0, rbx).ret();
  a.label("restorer").mov(eax, SYS.rt_sigreturn).syscall();
  a.align(8)
    .label("action")
    .dq("handler")
    .dq(SA_SIGINFO + SA_RESTORER)
    .dq("restorer")
    .dq(0);
  a.label("count").dd(0);
}

/** getpid() and exit() by INT 0x80, with i386 numbers. */
function int80(a: Assembler): void {
  a.mov(r15, ROUNDS);
  a.label("loop").mov(eax, 20).int(0x80).cmp(eax, 1).jnz("bad");
  a.mov(eax, 9999).int(0x80).cmp(eax, -38).jnz("bad");
  a.dec(r15).jnz("loop");
  a.mov(ebx, GOOD).mov(eax, 252).int(0x80);
  a.label("bad").mov(ebx, BAD).mov(eax, 1).int(0x80);
}

/** Two processes keep different values in a vector register while they yield to one another. */
function vectors(a: Assembler): void {
  a.mov(eax, SYS.fork).syscall().mov(r12, rax).lea(rbx, mem(rax, 5)).movq(xmm0, rbx).mov(r15, ROUNDS);
  a.label("loop").mov(eax, SYS.sched_yield).syscall().movq(rax, xmm0).cmp(rax, rbx).jnz("bad");
  a.dec(r15).jnz("loop");
  exit(a, GOOD);
  a.label("bad");
  exit(a, BAD);
}

for (const [name, options] of CONFIGURATIONS) {
  test(`a handler of signals finds its frame, and all registers come back (${name})`, () => check(signals, GOOD, options));
  test(`INT 0x80 takes i386 numbers from 64-bit code (${name})`, () => check(int80, GOOD, options));
  test(`vector registers are a process's own (${name})`, () => {
    const { events } = runProgram(vectors, options);
    assert.deepEqual(statuses(events), [GOOD, GOOD]);
  });
}

test("rt_sigreturn to a segment that is not there ends the process, not the kernel: the fault of IRET is the user's", () => {
  for (const [, options] of CONFIGURATIONS) {
    const { events } = runProgram((a) => {
      a.mov(eax, SYS.rt_sigaction).mov(edi, SIGUSR1).lea(rsi, at("action")).xor(edx, edx).mov(r10, 8).syscall();
      a.mov(eax, SYS.getpid).syscall().mov(rdi, rax).mov(esi, SIGUSR1).mov(eax, SYS.kill).syscall();
      exit(a, BAD);
      // The selectors follow the seventeen registers and the flags in the context.
      a.label("handler")
        .mov(ecx, 0x7b)
        .mov(mem(rdx, 40 + 18 * 8), ecx)
        .ret();
      a.label("restorer").mov(eax, SYS.rt_sigreturn).syscall();
      a.align(8)
        .label("action")
        .dq("handler")
        .dq(SA_SIGINFO + SA_RESTORER)
        .dq("restorer")
        .dq(0);
    }, options);
    assert.deepEqual(statuses(events), [128 + 11]);
  }
});

test("INT 0x80 is told as a call of the other table", () => {
  const { events } = runProgram(int80);
  assert.ok(events.some(([event, number, isCompat]) => event === TRACE_SYSCALL && number === 20 && isCompat === 1));
});

/** A pure loop that counts to `count`, then exits well. */
function counting(count: number): (a: Assembler) => void {
  return (a) => {
    a.mov(rcx, count).label("loop").dec(rcx).jnz("loop");
    exit(a, GOOD);
  };
}

test("machine checks that let the interrupted code go on change nothing, wherever they arrive", () => {
  for (const [, options] of CONFIGURATIONS) {
    // Farther apart than one takes with the flushes at its end: two at once are a shutdown, on the processor too.
    const machineChecks = nmiStorm(60_000, 100, 20_000).map((cycle): readonly [number, boolean] => [cycle, true]);
    const { events, lines } = runProgram(signals, { ...options, machineChecks });
    assert.deepEqual(statuses(events), [GOOD], lines.slice(-3).join("\n"));
    assert.ok(lines.filter((line) => line.startsWith("mce:")).length >= 20);
    assert.equal(events.filter(([event]) => event === TRACE_WARN).length, 0);
  }
});

test("a machine check that ends what it interrupts kills a process in user mode", () => {
  for (const [, options] of CONFIGURATIONS) {
    const { events } = runProgram(counting(3_000_000), { ...options, machineChecks: [[1_500_000, false]] });
    assert.deepEqual(statuses(events), [128 + 7]);
  }
});

test("the same with a stack segment of the LDT: IRET faults on the espfix stack, #DF turns into the #GP that it was", () => {
  for (const [, options] of CONFIGURATIONS) {
    const { events, lines } = runProgram((a) => {
      a.mov(eax, SYS.modify_ldt).mov(edi, 1).lea(rsi, at("descriptor")).mov(edx, 16).syscall();
      a.mov(eax, SYS.rt_sigaction).mov(edi, SIGUSR1).lea(rsi, at("action")).xor(edx, edx).mov(r10, 8).syscall();
      a.mov(eax, SYS.getpid).syscall().mov(rdi, rax).mov(esi, SIGUSR1).mov(eax, SYS.kill).syscall();
      exit(a, BAD);
      a.label("handler")
        .mov(ecx, 0x7b)
        .mov(mem(rdx, 40 + 18 * 8), cx)
        .mov(ecx, 7)
        .mov(mem(rdx, 40 + 18 * 8 + 6), cx)
        .ret();
      a.label("restorer").mov(eax, SYS.rt_sigreturn).syscall();
      a.align(8)
        .label("action")
        .dq("handler")
        .dq(SA_SIGINFO + SA_RESTORER)
        .dq("restorer")
        .dq(0);
      a.label("descriptor").dd(0, 0, 0xffff, 0);
    }, options);
    assert.deepEqual(statuses(events), [128 + 11], lines.slice(-3).join("\n"));
    assert.ok(lines.some((line) => line.includes("general_protection")));
  }
});
