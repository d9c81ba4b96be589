// 32-bit programs against the entries: INT 0x80, SYSENTER by way of the vDSO's page, handlers of signals; under NMIs, with address space
// isolation, with page-table isolation and with neither. There is no assembler for this mode: the code stands as bytes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { CODE32, elf32Of, nmiStorm, type ProgramOptions, runProgram } from "../../../test/host-program.ts";
import { TRACE_PROCESS_EXIT, TRACE_SYSCALL, TRACE_WARN } from "../trace.ts";

const GOOD = 7;

const CONFIGURATIONS: readonly (readonly [string, ProgramOptions])[] = [
  ["asi=on", { commandLine: "asi=on" }],
  ["PTI", { commandLine: "asi=off pti=on" }],
  ["FRED", { commandLine: "asi=on fred=on", model: "skx-fred" }],
  ["neither", { commandLine: "asi=off pti=off mitigations=off" }],
];

const u32 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
const movEax = (value: number): number[] => [0xb8, ...u32(value)];
const movEbx = (value: number): number[] => [0xbb, ...u32(value)];
const INT80 = [0xcd, 0x80];
const exit = (status: number): number[] => [...movEbx(status), ...movEax(252), ...INT80];
/** jne over nothing: to the failing exit that `unless` puts behind it. */
const failUnlessEqual = (): number[] => {
  const bad = exit(1);
  return [0x74, bad.length, ...bad];
};
const cmpEax = (value: number): number[] => [0x3d, ...u32(value)];

/** Finds AT_SYSINFO on the initial stack, keeps it in EDI; getpid() through it, ROUNDS times. */
function vsyscall(): number[] {
  return [
    ...[0x89, 0xe6], // mov esi, esp
    ...[0xad], // lodsd: argc
    ...[0x8d, 0x74, 0x86, 0x04], // lea esi, [esi + eax*4 + 4]
    ...[0xad, 0x85, 0xc0, 0x75, 0xfb], // environment: lodsd; test eax, eax; jnz
    ...[0xad, 0x89, 0xc3, 0xad, 0x83, 0xfb, 0x20, 0x75, 0xf7], // auxv: lodsd; mov ebx, eax; lodsd; cmp ebx, 32; jne
    ...[0x89, 0xc7], // mov edi, eax
    ...[0xbd, ...u32(40)], // mov ebp, 40
    // loop:
    ...movEax(20),
    ...[0xba, ...u32(0x11223344)], // mov edx, ...
    ...[0xff, 0xd7], // call edi
    ...cmpEax(1),
    ...failUnlessEqual(),
    ...[0x81, 0xfa, ...u32(0x11223344)], // cmp edx, ...: preserved
    ...failUnlessEqual(),
  ];
}

function sysenterProgram(): Uint8Array {
  const body = vsyscall();
  const loopStart = 2 + 1 + 4 + 5 + 9 + 2 + 5;
  const back = loopStart - (body.length + 1 + 2);
  return Uint8Array.from([...body, 0x4d, 0x75, back & 0xff, ...exit(GOOD)]);
}

/** rt_sigaction(SIGUSR1), kill(getpid(), SIGUSR1) by INT 0x80; the handler finds its number, siginfo and context. */
function signalProgram(): Uint8Array {
  const first = [
    ...movEax(174),
    ...movEbx(10),
    ...[0xb9, 0, 0, 0, 0], // mov ecx, action: patched below
    ...[0x31, 0xd2], // xor edx, edx
    ...[0xbe, ...u32(8)], // mov esi, 8
    ...INT80,
    ...cmpEax(0),
    ...failUnlessEqual(),
    ...movEax(20),
    ...INT80,
    ...[0x89, 0xc3], // mov ebx, eax
    ...[0xb9, ...u32(10)], // mov ecx, 10
    ...[0xbf, ...u32(0x55667788)], // mov edi, ...
    ...movEax(37),
    ...INT80,
    ...cmpEax(0),
    ...failUnlessEqual(),
    ...[0x81, 0xff, ...u32(0x55667788)], // cmp edi, ...
    ...failUnlessEqual(),
    ...[0xa1, 0, 0, 0, 0], // mov eax, [count]
    ...cmpEax(1),
    ...failUnlessEqual(),
    ...exit(GOOD),
  ];
  const handler = [
    ...[0x8b, 0x44, 0x24, 0x04], // mov eax, [esp + 4]
    ...cmpEax(10),
    ...failUnlessEqual(),
    ...[0x8b, 0x4c, 0x24, 0x08, 0x8b, 0x01], // mov ecx, [esp + 8]; mov eax, [ecx]
    ...cmpEax(10),
    ...failUnlessEqual(),
    ...[0xff, 0x05, 0, 0, 0, 0], // inc dword [count]
    ...[0x31, 0xff, 0xc3], // xor edi, edi; ret: to the vDSO's sigreturn
  ];
  const handlerAt = CODE32 + first.length;
  const actionAt = handlerAt + handler.length;
  const countAt = actionAt + 20;
  const code = Uint8Array.from([...first, ...handler, ...u32(handlerAt), ...u32(4), ...u32(0), ...u32(0), ...u32(0), ...u32(0)]);
  const view = new DataView(code.buffer);
  view.setUint32(11, actionAt, true);
  view.setUint32(code.indexOf(0xa1) + 1, countAt, true);
  view.setUint32(first.length + handler.length - 7, countAt, true);
  return code;
}

const STACK_POINTER = 0x5678_8000;

/**
 * A 16-bit stack segment by modify_ldt(), and a loop on it that looks at all of ESP; every interrupt returns by IRET to it, which restores
 * 16 bits. Without espfix bits 31:16 would be the kernel's afterwards.
 */
function sixteenBitStackProgram(): Uint8Array {
  const loop = [
    ...[0x89, 0xe0], // mov eax, esp
    ...cmpEax(STACK_POINTER),
    ...failUnlessEqual(),
    ...[0x49], // dec ecx
  ];
  const code = [
    ...movEax(123),
    ...movEbx(1),
    ...[0xb9, 0, 0, 0, 0], // mov ecx, descriptor: patched below
    ...[0xba, ...u32(16)], // mov edx, 16
    ...INT80,
    ...cmpEax(0),
    ...failUnlessEqual(),
    ...[0xb9, ...u32(200_000)], // mov ecx, ...
    ...movEax(7),
    ...[0x8e, 0xd0], // mov ss, eax
    ...[0xbc, ...u32(STACK_POINTER)], // mov esp, ...
    ...loop,
    ...[0x75, -(loop.length + 2) & 0xff], // jnz loop
    ...exit(GOOD),
  ];
  // struct user_desc: entry 0, base 0, limit 0xffff, 16-bit data segment that may be written.
  const all = Uint8Array.from([...code, ...u32(0), ...u32(0), ...u32(0xffff), ...u32(0)]);
  new DataView(all.buffer).setUint32(11, CODE32 + code.length, true);
  return all;
}

function check(code: Uint8Array, options: ProgramOptions): readonly (readonly number[])[] {
  let told: readonly (readonly number[])[] = [];
  for (const nmis of [[], nmiStorm(60_000, 1500)]) {
    const { events, lines } = runProgram(elf32Of(code), { ...options, nmis });
    const exits = events.filter(([event]) => event === TRACE_PROCESS_EXIT).map(([, , status]) => status);
    assert.deepEqual(exits, [GOOD], lines.slice(-3).join("\n"));
    assert.equal(events.filter(([event]) => event === TRACE_WARN).length, 0);
    told = events;
  }
  return told;
}

for (const [name, options] of CONFIGURATIONS) {
  test(`SYSENTER by way of the vDSO's page, 40 times (${name})`, () => {
    const calls = check(sysenterProgram(), options).filter(
      ([event, number, isCompat]) => event === TRACE_SYSCALL && number === 20 && isCompat === 1,
    );
    assert.equal(calls.length, 40);
  });
  test(`a return to a 16-bit stack segment keeps the upper half of ESP (${name})`, () => {
    check(sixteenBitStackProgram(), options);
  });
  test(`a handler of 32-bit code finds its frame and returns by the vDSO (${name})`, () => {
    check(signalProgram(), options);
  });
}
