// Guest exits per second (a hypercall that the kernel handles, ASI on) and the boot of the kernel until the guest's first instruction.
// Exits are counted in this process's CPU time, so that other work on the host counts less. Targets: 100,000 exits a second, 0.3 s of boot.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { fail, findCpuModel, silentObserver } from "../src/hardware/index.ts";
import { buildKernelImage, TRACE_PROCESS_EXIT, TRACE_VM_ENTRY } from "../src/kernel/index.ts";
import { SimulatedMachine } from "../src/machine/index.ts";
import { encodeVmmArguments, parseElf, VMM_PUPPET, vmmPuppet } from "../src/vmm/index.ts";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const GUEST = "guests/built/exits.elf";
const HYPERCALLS = Number(process.argv[2] ?? 300_000);
const GUEST_BYTES = 16 * 2 ** 20;
const HOST_BYTES = 128 * 2 ** 20;
const ROUNDS = 3;

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

interface Measured {
  readonly boot: number;
  /** The same on the wall clock: the host compiles WebAssembly and collects garbage on other cores meanwhile. */
  readonly bootWall: number;
  readonly exitsPerSecond: number;
}

function measure(): Measured {
  const started = cpuSeconds();
  const startedWall = performance.now();
  let firstEntry = 0;
  let firstEntryWall = 0;
  const image = parseElf(readFileSync(join(root, GUEST)), GUEST, GUEST_BYTES);
  const args = encodeVmmArguments({ image, memoryBytes: GUEST_BYTES, commandLine: String(HYPERCALLS) });
  const machine: SimulatedMachine = new SimulatedMachine({
    model: findCpuModel("skx") ?? fail("no CPU model skx"),
    memoryBytes: HOST_BYTES,
    cpus: 1,
    gear: "architectural",
    image: buildKernelImage({
      preset: "cordon",
      processes: [{ name: "vmm", puppet: VMM_PUPPET, args }],
      puppets: new Map([[VMM_PUPPET, vmmPuppet(() => undefined)]]),
    }),
    commandLine: "asi=on",
    observer: {
      ...silentObserver,
      trace: (event) => {
        if (event === TRACE_VM_ENTRY && firstEntry === 0) {
          firstEntry = cpuSeconds();
          firstEntryWall = performance.now();
        }
        if (event === TRACE_PROCESS_EXIT) machine.stop({ kind: "exit", status: 0 });
      },
    },
  });
  machine.run();
  const exits = machine.cpus[0]?.vmxUnit.exits ?? 0;
  return {
    boot: firstEntry - started,
    bootWall: (firstEntryWall - startedWall) / 1000,
    exitsPerSecond: exits / (cpuSeconds() - firstEntry),
  };
}

for (let round = 0; round < ROUNDS; round++) {
  const { boot, bootWall, exitsPerSecond } = measure();
  console.log(
    `boot to the first guest instruction ${bootWall.toFixed(3)} s (CPU ${boot.toFixed(3)} s), ${Math.round(exitsPerSecond)} exits a second`,
  );
}
