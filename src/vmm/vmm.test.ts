// Real guests under the real kernel on the simulated machine, through the monitor: what they print and how they end.
import { deepEqual, equal, match } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { al, assemble, assembler, eax, ecx, edx, rbx } from "../assembler/index.ts";
import { fail, findCpuModel, silentObserver } from "../hardware/index.ts";
import { buildKernelImage, TRACE_PROCESS_EXIT } from "../kernel/index.ts";
import { rsbVmexit, switchVcpuIbpb } from "../kernel/kvm/kvm-struct.ts";
import { SimulatedMachine } from "../machine/index.ts";
import { type GuestImage, parseElf } from "./elf.ts";
import { VMM_PUPPET, type VmmEnding, vmmPuppet } from "./vmm.ts";
import { encodeVmmArguments } from "./vmm-arguments.ts";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");
const GUEST_BYTES = 16 * 2 ** 20;
const HOST_BYTES = 128 * 2 ** 20;
const CYCLES = 200_000_000;

function built(name: string): GuestImage {
  return parseElf(new Uint8Array(readFileSync(join(root, "guests", "built", name))), name, GUEST_BYTES);
}

interface Outcome {
  readonly output: string;
  readonly ending: VmmEnding | undefined;
}

function runGuest(image: GuestImage, commandLine = "", host = "asi=on", lateInitcall?: () => void): Outcome {
  let ending: VmmEnding | undefined;
  let output = "";
  const args = encodeVmmArguments({ image, memoryBytes: GUEST_BYTES, commandLine });
  const machine: SimulatedMachine = new SimulatedMachine({
    model: findCpuModel("skx") ?? fail("no CPU model skx"),
    memoryBytes: HOST_BYTES + GUEST_BYTES,
    cpus: 1,
    gear: "architectural",
    image: buildKernelImage({
      preset: "cordon",
      processes: [{ name: "vmm", puppet: VMM_PUPPET, args }],
      ...(lateInitcall === undefined ? {} : { lateInitcall }),
      puppets: new Map([
        [
          VMM_PUPPET,
          vmmPuppet((found) => {
            ending = found;
          }),
        ],
      ]),
    }),
    commandLine: host,
    observer: {
      ...silentObserver,
      trace: (event, _pid, status) => {
        if (event === TRACE_PROCESS_EXIT) machine.stop({ kind: "exit", status });
      },
    },
    console: (byte) => {
      output += String.fromCharCode(byte);
    },
  });
  machine.run(CYCLES);
  return { output, ending };
}

for (const host of ["asi=on", "asi=off"]) {
  test(`the guest hello prints its line and halts (${host})`, () => {
    const { output, ending } = runGuest(built("hello.elf"), "", host);
    equal(output, "hello from the guest (16 MiB)\n");
    deepEqual(ending, { kind: "halt", status: 0, reason: "" });
  });
}

test("the guest's command line reaches it: 500 hypercalls are made, none fails", () => {
  equal(runGuest(built("exits.elf"), "500").output, "500 hypercalls, 0 failed\n");
});

test("CPUID, as the guest sees it, is Skylake-SP's under a hypervisor", () => {
  match(runGuest(built("cpuid.elf")).output, /vendor GenuineIntel\nfamily 6 model 85 stepping 4\nhypervisor 1\n/);
});

test("MSRs hold what the guest writes", () => {
  equal(runGuest(built("msr.elf")).output, "msr: all as written\n");
});

test("faults reach the guest's own handlers: vectors, error codes, CR2", () => {
  const { output, ending } = runGuest(built("exception.elf"));
  match(output, /undefined vector 6 error 0000\n/);
  match(output, /write beyond the map vector 14 error 0002 cr2 0000004000000008\n/);
  match(output, /unknown MSR vector 13 error 0000\n/);
  equal(ending?.kind, "exit");
});

const ENTRY = 0x100000;
const HC_TABLE = 0x100;
const EXIT_PORT = 0xf4;

/** A guest that makes one table lookup and ends with AL of its result. */
function lookup(index: bigint, shift: number, first: number): GuestImage {
  const a = assembler();
  a.mov(eax, HC_TABLE).mov(rbx, index).mov(ecx, shift).mov(edx, first).vmcall().out(EXIT_PORT, al);
  const { bytes } = assemble(a.program(), { origin: ENTRY });
  return { entry: ENTRY, segments: [{ address: ENTRY, bytes, memoryBytes: 4096 }], symbols: new Map() };
}

test("the table lookup in machine code: 0 inside its bounds, -1 outside, whatever the index", () => {
  equal(runGuest(lookup(15n, 2, 63)).ending?.status, 0);
  equal(runGuest(lookup(16n, 0, 0)).ending?.status, 0xff);
  // The direct map, seen from the table: the 64-bit sum wraps. The check is unsigned.
  equal(runGuest(lookup(0xffff_8880_0000_0000n, 0, 0)).ending?.status, 0xff);
});

test("exits arrive at the version that fills the return stack when X86_FEATURE_RSB_VMEXIT is on, and guests run the same", () => {
  const { output } = runGuest(built("exits.elf"), "50", "asi=on", () => {
    rsbVmexit.set(1);
    switchVcpuIbpb.set(1);
  });
  equal(output, "50 hypercalls, 0 failed\n");
});

test("a guest without a handler for its fault ends in a triple fault", () => {
  const a = assembler();
  a.ud2();
  const { bytes } = assemble(a.program(), { origin: ENTRY });
  const image = { entry: ENTRY, segments: [{ address: ENTRY, bytes, memoryBytes: 4096 }], symbols: new Map<string, number>() };
  deepEqual(runGuest(image).ending, { kind: "triple fault", status: 0, reason: "" });
});
