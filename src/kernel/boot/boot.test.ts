// The kernel from its first instruction to its idle tasks, and the processes that it starts, on every machine.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TraceRecord } from "../../../test/in-kernel.ts";
import { MACHINES, runKernel } from "../../../test/kernel-machines.ts";
import { EFAULT, MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE, SYS } from "../../abi/index.ts";
import {
  type KernelImage,
  PUPPET_ARGUMENTS,
  PUPPET_STAGING,
  type Puppet,
  type PuppetAction,
  type PuppetView,
} from "../../hardware/index.ts";
import { TRACE_BOOT_DONE, TRACE_CONTEXT_SWITCH, TRACE_PROCESS_EXIT, TRACE_WARN } from "../trace.ts";
import { buildKernelImage } from "./kernel-image.ts";

/** A puppet that does the actions of a list, one after the other, keeps their results, and exits. */
function script(actions: (view: PuppetView) => readonly PuppetAction[]): Puppet {
  return (view) => {
    const at = view.state.getUint32(0, true);
    view.state.setFloat64(8 + 8 * at, view.result, true);
    view.state.setUint32(0, at + 1, true);
    return actions(view)[at] ?? call(SYS.exit, 0);
  };
}

function call(number: number, ...args: number[]): PuppetAction {
  return { kind: "syscall", number, args };
}

function write(text: string): PuppetAction[] {
  const bytes = new TextEncoder().encode(text);
  return [{ kind: "write", address: PUPPET_STAGING + 1024, bytes }, call(SYS.write, 1, PUPPET_STAGING + 1024, bytes.length)];
}

const count = (events: readonly TraceRecord[], wanted: number): number => events.filter(([event]) => event === wanted).length;

function noProcesses(): KernelImage {
  return buildKernelImage({ preset: "cordon", processes: [], puppets: new Map() });
}

for (const machine of MACHINES) {
  for (const asi of ["on", "off"]) {
    test(`the kernel boots to its idle tasks and tells so (asi=${asi}, two CPUs; ${machine})`, () => {
      const { lines, events } = runKernel(machine, noProcesses(), { commandLine: `asi=${asi}`, cpus: 2 });
      assert.equal(count(events, TRACE_BOOT_DONE), 1);
      assert.equal(lines.includes("ASI enabled through kernel command line."), asi === "on");
      assert.ok(lines.includes("smp: Brought up 1 node, 2 CPUs"));
    });
  }
}

test("an unknown value of asi= is warned of, and ASI stays off (spec 2.17)", () => {
  const { lines } = runKernel("residue", noProcesses(), { commandLine: "asi=maybe" });
  assert.ok(lines.includes("Ignoring unknown asi=maybe argument: expected on, off"));
  assert.equal(lines.includes("ASI enabled through kernel command line."), false);
});

/** Result of a puppet's action number `at`, as script() keeps it. */
function resultOf(view: PuppetView, at: number): number {
  return view.state.getFloat64(8 + 8 * (at + 1), true);
}

const MAPPING = 3;
const LOADED = 5;

const first = script((view) => {
  const mapped = resultOf(view, MAPPING);
  return [
    ...write("first\n"),
    call(SYS.getpid),
    call(SYS.mmap, 0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
    { kind: "store", address: mapped + 4096, value: 77 },
    { kind: "load", address: mapped + 4096 },
    call(SYS.sched_yield),
    call(SYS.munmap, mapped, 8192),
    ...write(resultOf(view, LOADED) === 77 ? "77\n" : "lost\n"),
    call(SYS.exit, resultOf(view, 2)),
  ];
});

const second = script((view) => [
  { kind: "load", address: PUPPET_ARGUMENTS },
  ...write("second\n"),
  { kind: "store", address: PUPPET_STAGING, value: 0 },
  { kind: "store", address: PUPPET_STAGING + 8, value: 3_000_000 },
  call(SYS.nanosleep, PUPPET_STAGING),
  ...write("woke\n"),
  call(SYS.exit, Math.floor(resultOf(view, 0) / 2 ** 32) & 0xff),
]);

function exits(events: readonly TraceRecord[]): (readonly [number, number])[] {
  return events.filter(([event]) => event === TRACE_PROCESS_EXIT).map(([, pid, code]) => [pid, code]);
}

for (const machine of MACHINES) {
  test(`two processes share a CPU: their system calls, memory, console output, sleep and exit (${machine})`, () => {
    const image = buildKernelImage({
      preset: "cordon",
      processes: [
        { name: "first", puppet: "first" },
        { name: "second", puppet: "second", args: Uint8Array.of(9, 0, 0, 0) },
      ],
      puppets: new Map([
        ["first", first],
        ["second", second],
      ]),
    });
    const { console, events } = runKernel(machine, image, {
      commandLine: "asi=on",
      until: (all) => count(all, TRACE_PROCESS_EXIT) === 2,
    });
    assert.deepEqual(exits(events), [
      [1, 1],
      [2, 9],
    ]);
    assert.deepEqual(console.split("\n").sort(), ["", "77", "first", "second", "woke"]);
    assert.ok(console.endsWith("woke\n"));
    assert.ok(events.some(([event, from, to]) => event === TRACE_CONTEXT_SWITCH && from === 1 && to === 2));
    assert.equal(count(events, TRACE_WARN), 0);
  });

  test(`a process moves to the CPU that its affinity names, and a bad pointer ends it with SIGSEGV (${machine})`, () => {
    const mover = script((view) => [
      { kind: "store", address: PUPPET_STAGING, value: 2 },
      call(SYS.sched_setaffinity, 0, 8, PUPPET_STAGING),
      ...write(`${resultOf(view, 1)}\n`),
      call(SYS.write, 1, 0x500000, 3),
      ...write(`${resultOf(view, 4)}\n`),
      { kind: "store", address: 0x500000, value: 1 },
      call(SYS.exit, 0),
    ]);
    const image = buildKernelImage({
      preset: "cordon",
      processes: [{ name: "mover", puppet: "mover" }],
      puppets: new Map([["mover", mover]]),
    });
    const { console, events, lines } = runKernel(machine, image, {
      commandLine: "asi=on",
      cpus: 2,
      until: (all) => count(all, TRACE_PROCESS_EXIT) === 1,
    });
    assert.equal(console, `0\n${EFAULT}\n`);
    assert.deepEqual(exits(events), [[1, 128 + 11]]);
    assert.ok(lines.some((line) => line.startsWith("mover[1]: killed by signal 11: segfault at 0x500000")));
  });
}
