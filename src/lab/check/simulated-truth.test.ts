import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fail, findCpuModel, silentObserver } from "../../hardware/index.ts";
import { buildKernelImage, TRACE_PROCESS_EXIT } from "../../kernel/index.ts";
import { SimulatedMachine } from "../../machine/index.ts";
import { encodeVmmArguments, parseElf, VICTIM_PUPPET, VMM_PUPPET, victim, vmmPuppet } from "../../vmm/index.ts";
import { checkedObserver, SimulatedCheck } from "./index.ts";

const skx = findCpuModel("skx") ?? fail("no CPU model skx");
const GUEST_MEMORY = 32 * 2 ** 20;
const LIMIT = 40_000_000;

/** Runs the guest `hello` beside a victim process on one CPU of the simulated machine, judged at every step. */
function checkedHello(preset: "cordon" | "rfc-v2"): SimulatedCheck {
  const guest = parseElf(readFileSync(new URL("../../../../guests/built/hello.elf", import.meta.url)), "hello.elf", GUEST_MEMORY);
  const holder: { machine?: SimulatedMachine } = {};
  const observer = checkedObserver({
    ...silentObserver,
    trace: (event, a, b) => {
      if (event === TRACE_PROCESS_EXIT && a === 1) holder.machine?.stop({ kind: "exit", status: b });
    },
  });
  const image = buildKernelImage({
    preset,
    processes: [
      { name: "vmm", puppet: VMM_PUPPET, args: encodeVmmArguments({ image: guest, memoryBytes: GUEST_MEMORY, commandLine: "" }) },
      { name: "victim", puppet: VICTIM_PUPPET, args: new Uint8Array(32).fill(7) },
    ],
    puppets: new Map([
      [VMM_PUPPET, vmmPuppet(() => undefined)],
      [VICTIM_PUPPET, victim],
    ]),
  });
  const machine = new SimulatedMachine({
    model: skx,
    memoryBytes: 128 * 2 ** 20,
    cpus: 1,
    gear: "detailed",
    image,
    commandLine: "asi=on mitigations=off kvm-intel.vmentry_l1d_flush=never",
    observer,
    console: () => undefined,
  });
  holder.machine = machine;
  const check = new SimulatedCheck(machine, observer, { isCollecting: true });
  assert.equal(machine.run(LIMIT).kind, "exit");
  return check;
}

test("a guest beside a victim process on the simulated machine: S1 to S10 at every step and entry (detailed gear, preset cordon)", () => {
  const { checker } = checkedHello("cordon");
  assert.deepEqual(checker.violations.slice(0, 3), []);
  for (const situation of [
    "S3: a guest was entered",
    "S3: user code was entered",
    "S2: a guest was entered with data in L1D that it may see",
  ] as const) {
    assert.ok((checker.occurred.get(situation) ?? 0) > 0, situation);
  }
});
