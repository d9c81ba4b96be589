// A guest under the real kernel on the simulated machine, disturbed as much as can be: an NMI before every step of the kernel, and the
// running path suspended before every one of its steps, nested handlers included (law 3). What the guest does must not change.
import { deepEqual, equal, ok } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { fail, findCpuModel, silentObserver } from "../src/hardware/index.ts";
import { buildKernelImage, TRACE_BOOT_DONE, TRACE_NMI, TRACE_PROCESS_EXIT, TRACE_VM_EXIT, TRACE_WARN } from "../src/kernel/index.ts";
import { type Gear, SimulatedMachine, type StepHook } from "../src/machine/index.ts";
import { encodeVmmArguments, parseElf, VMM_PUPPET, type VmmEnding, vmmPuppet } from "../src/vmm/index.ts";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const GUEST = "guests/built/hello.elf";
const GUEST_BYTES = 16 * 2 ** 20;
const HOST_BYTES = 128 * 2 ** 20;
const LIMIT = 10_000_000_000;

interface Outcome {
  readonly console: string;
  readonly endings: readonly VmmEnding[];
  /** Reasons of the guest's own exits, in order: without those for NMIs and interrupts. */
  readonly exits: readonly number[];
  readonly nmis: number;
  readonly warnings: number;
}

/** `hook`: made when the kernel is up; sees every step from then on. */
function runGuest(gear: Gear, cpus: number, hook?: StepHook): Outcome {
  const endings: VmmEnding[] = [];
  const exits: number[] = [];
  const counts = new Map<number, number>();
  let console = "";
  const image = parseElf(readFileSync(join(root, GUEST)), GUEST, GUEST_BYTES);
  const args = encodeVmmArguments({ image, memoryBytes: GUEST_BYTES, commandLine: "" });
  const machine: SimulatedMachine = new SimulatedMachine({
    model: findCpuModel("skx") ?? fail("no CPU model skx"),
    memoryBytes: HOST_BYTES,
    cpus,
    gear,
    image: buildKernelImage({
      preset: "cordon",
      processes: [{ name: "vmm", puppet: VMM_PUPPET, args }],
      puppets: new Map([[VMM_PUPPET, vmmPuppet((ending) => endings.push(ending))]]),
    }),
    commandLine: "asi=on",
    observer: {
      ...silentObserver,
      trace: (event, reason) => {
        counts.set(event, (counts.get(event) ?? 0) + 1);
        if (event === TRACE_VM_EXIT && reason > 1) exits.push(reason);
        if (event === TRACE_BOOT_DONE) machine.setStepHook(hook);
        if (event === TRACE_PROCESS_EXIT) machine.stop({ kind: "exit", status: 0 });
      },
    },
    console: (byte) => {
      console += String.fromCharCode(byte);
    },
  });
  deepEqual(machine.run(LIMIT), { kind: "exit", status: 0 });
  deepEqual(machine.unimplemented, []);
  return { console, endings, exits, nmis: counts.get(TRACE_NMI) ?? 0, warnings: counts.get(TRACE_WARN) ?? 0 };
}

const calm = runGuest("architectural", 1);

function sameGuest(outcome: Outcome): void {
  equal(outcome.console, calm.console);
  deepEqual(outcome.endings, calm.endings);
  deepEqual(outcome.exits, calm.exits);
  equal(outcome.warnings, 0);
}

test("a guest says hello under the kernel and halts", () => {
  equal(calm.console, "hello from the guest (16 MiB)\n");
  deepEqual(calm.endings, [{ kind: "halt", status: 0, reason: "" }]);
  equal(calm.warnings, 0);
});

test("both gears and any number of CPUs give the same guest", () => {
  sameGuest(runGuest("detailed", 1));
  sameGuest(runGuest("architectural", 4));
});

test("an NMI before every step of the kernel changes nothing for the guest", () => {
  let last = -1;
  const outcome = runGuest("architectural", 1, (cpu) => {
    const { depth, steps } = cpu.path;
    if (depth > 0 || steps === last) return;
    last = steps;
    cpu.apic.send(cpu.now, 2, true);
  });
  sameGuest(outcome);
  ok(outcome.nmis > 10_000, `${outcome.nmis} NMIs`);
});

test("a kernel path suspended before every step, with NMIs nested in it, goes on as if it had not been (law 3)", () => {
  let suspendedAt = "";
  let interruptedAt = -1;
  const outcome = runGuest("architectural", 1, (cpu) => {
    const { depth, steps } = cpu.path;
    if (depth === 0 && steps % 5 === 0 && steps !== interruptedAt) {
      interruptedAt = steps;
      cpu.apic.send(cpu.now, 2, true);
    }
    const here = `${depth} ${steps}`;
    if (here === suspendedAt) return;
    suspendedAt = here;
    cpu.suspendOnce();
  });
  sameGuest(outcome);
});
