// Suspend to RAM: everything goes on as if nothing had been, though the CPU forgot all that memory does not hold.
import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { MACHINES, runKernel } from "../../../test/kernel-machines.ts";
import { EINVAL, O_WRONLY, SYS } from "../../abi/index.ts";
import { cpu, MSR_IA32_SPEC_CTRL, MSR_LSTAR, PUPPET_STAGING, type Puppet, type PuppetAction } from "../../hardware/index.ts";
import { asiTaints, currAsi } from "../asi/asi-state.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { EXIT_SUSPEND, TRACE_ASI_EXIT, TRACE_PROCESS_EXIT, TRACE_WARN } from "../trace.ts";
import { POWER_FILES, pmSuspend } from "./suspend.ts";

type Registers = readonly number[];

function registers(): Registers {
  const lstar = cpu.readMsr(MSR_LSTAR);
  const { high } = cpu;
  return [
    cpu.readCr0(),
    cpu.readCr4(),
    cpu.readCr3(),
    cpu.readMsr(MSR_IA32_SPEC_CTRL),
    lstar,
    high,
    currAsi.get(),
    cpu.readFlags() & 0x200,
  ];
}

for (const machine of MACHINES) {
  for (const model of ["skx", "clx"]) {
    test(`the CPU's registers are as before, twice (${model}; ${machine})`, () => {
      let seen: readonly Registers[] = [];
      let results: readonly number[] = [];
      const image = buildKernelImage({
        preset: "cordon",
        processes: [],
        puppets: new Map(),
        lateInitcall: () => {
          const before = registers();
          results = [pmSuspend(), pmSuspend()];
          seen = [before, registers()];
          assert.notEqual(asiTaints.get() & 1, 0); // KERNEL_DATA: unrestricted all the time
        },
      });
      const { lines, events } = runKernel(machine, image, { commandLine: "asi=on", model });
      assert.deepEqual(results, [0, 0]);
      assert.deepEqual(seen[1], seen[0]);
      assert.equal(lines.filter((line) => line === "PM: suspend exit").length, 2);
      assert.equal(events.filter(([event]) => event === TRACE_WARN).length, 0);
    });
  }
}

test("for an unknown state nothing happens", () => {
  const state = POWER_FILES.get("/sys/power/state");
  assert.equal(inKernel(() => state?.store?.("disk\n")).result, EINVAL);
  assert.equal(inKernel(() => state?.show()).result, "mem\n");
});

/** A puppet that does the actions of a list, one after the other, and exits. */
function script(actions: readonly PuppetAction[]): Puppet {
  return (view) => {
    const at = view.state.getUint32(0, true);
    view.state.setUint32(0, at + 1, true);
    return actions[at] ?? { kind: "syscall", number: SYS.exit, args: [0] };
  };
}
function call(number: number, ...args: number[]): PuppetAction {
  return { kind: "syscall", number, args };
}
function put(text: string, at = PUPPET_STAGING + 1024): PuppetAction {
  return { kind: "write", address: at, bytes: new TextEncoder().encode(text) };
}
const say = (text: string): PuppetAction[] => [put(text), call(SYS.write, 1, PUPPET_STAGING + 1024, text.length)];

const sleeper = script([
  ...say("a\n"),
  put("/sys/power/state\0", PUPPET_STAGING),
  call(SYS.open, PUPPET_STAGING, O_WRONLY),
  put("mem\n"),
  call(SYS.write, 3, PUPPET_STAGING + 1024, 4),
  ...say("awake\n"),
]);
const worker = script([...say("b\n"), call(SYS.sched_yield), call(SYS.sched_yield), call(SYS.sched_yield), ...say("done\n")]);

for (const machine of MACHINES) {
  for (const preset of ["cordon", "rfc-v2"] as const) {
    for (const [asi, cpus] of [
      ["asi=on", 1],
      ["asi=on", 3],
      ["asi=off", 2],
      ["asi=off pti=off", 1],
    ] as const) {
      test(`a process suspends the machine by /sys/power/state, and all processes go on (${preset}, ${asi}, ${cpus} CPUs; ${machine})`, () => {
        const image = buildKernelImage({
          preset,
          processes: [
            { name: "sleeper", puppet: "sleeper" },
            { name: "worker", puppet: "worker" },
          ],
          puppets: new Map([
            ["sleeper", sleeper],
            ["worker", worker],
          ]),
        });
        const { console, events, lines } = runKernel(machine, image, {
          commandLine: asi,
          cpus,
          until: (all) => all.filter(([event]) => event === TRACE_PROCESS_EXIT).length === 2,
        });
        assert.deepEqual(console.split("\n").sort(), ["", "a", "awake", "b", "done"]);
        assert.equal(lines.filter((line) => line === "PM: suspend exit").length, 1);
        assert.deepEqual(
          events.filter(([event]) => event === TRACE_WARN),
          [],
        );
        assert.ok(events.filter(([event, reason]) => event === TRACE_ASI_EXIT && reason === EXIT_SUSPEND).length <= 1);
      });
    }
  }
}
