// Another kernel takes the machine, in an orderly way, at a crash, or for a while: spec 2.11.
import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { MACHINES, type MachineName, runKernel } from "../../../test/kernel-machines.ts";
import { EADDRNOTAVAIL, EINVAL, ENOMEM } from "../../abi/index.ts";
import { type Assembler, al, assemble, assembler, dx, eax, mem, rbx } from "../../assembler/index.ts";
import { addVirt, cpu, PAGE_SIZE, type Ptr, physAddr } from "../../hardware/index.ts";
import { asiInit } from "../asi/asi-domain.ts";
import { asiRfcV2, currAsi } from "../asi/asi-state.ts";
import { ASI_CLASS_KVM } from "../asi/asi-struct.ts";
import { asiEnter, asiRelax } from "../asi/asi-transition.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { FAIL_ONCE, failAlloc } from "../mm/fail-alloc.ts";
import { va } from "../mm/layout.ts";
import { mmAlloc } from "../mm/mm.ts";
import { nrFreePages } from "../mm/page-alloc.ts";
import { TRACE_ASI_EXIT, TRACE_WARN } from "../trace.ts";
import { crashKexec, kernelKexec } from "./kexec.ts";
import { crashRange, imageFor, isLoaded, type KexecLoad, kexecLoad } from "./kexec-image.ts";

/** Where the other kernel wants to be: RAM that this one may be using. */
const DESTINATION = 0x5000000;
const PORT_CONSOLE = 0xe9;
const PORT_EXIT = 0xf4;
const MARK = 0x12345678;

function say(a: Assembler, letter: string): void {
  a.mov(eax, letter.charCodeAt(0)).mov(dx, PORT_CONSOLE).out(dx, al);
}

function flat(program: (a: Assembler) => void): Uint8Array {
  const a = assembler();
  program(a);
  return assemble(a.program(), { origin: DESTINATION, symbols: new Map() }).bytes;
}

const NEVER_RETURNS = flat((a) => {
  say(a, "K");
  a.xor(eax, eax).mov(dx, PORT_EXIT).out(dx, al).label("ended").jmp("ended");
});
/** Writes into its own second page, which is this kernel's again afterwards. */
const RETURNS = flat((a) => {
  say(a, "J");
  a.mov(rbx, DESTINATION + PAGE_SIZE)
    .mov(eax, MARK)
    .mov(mem(rbx), eax)
    .ret();
});

function loadOf(code: Uint8Array, more: Partial<KexecLoad> = {}, memory = DESTINATION): KexecLoad {
  return {
    entry: memory,
    segments: [{ bytes: code.length, memory, memoryBytes: 2 * PAGE_SIZE }],
    preserveContext: false,
    onCrash: false,
    read: (_segment, offset, to, bytes) => {
      for (let i = 0; i < bytes; i++) cpu.store(addVirt(to, i), 1, code[offset + i] ?? 0);
      return 0;
    },
    ...more,
  };
}

function run(machine: MachineName, preset: "cordon" | "rfc-v2", commandLine: string, body: () => void, cpus = 1) {
  const image = buildKernelImage({ preset, processes: [], puppets: new Map(), lateInitcall: body });
  return runKernel(machine, image, { commandLine, cpus });
}

/** Into a domain, relaxed: where a CPU rests after an exit. */
function restrict(): void {
  const mm = mmAlloc();
  const asi = asiInit(mm, ASI_CLASS_KVM);
  assert.ok(asi > 0 || asi < -4095);
  asiEnter(asi as Ptr<"asi">);
  asiRelax();
}

const SIMULATED = MACHINES.filter((machine) => machine !== "residue");

for (const machine of SIMULATED) {
  for (const preset of ["cordon", "rfc-v2"] as const) {
    test(`a plain kexec runs the other kernel, which stays, from a restricted CPU too (${preset}; ${machine})`, () => {
      const { console, events } = run(machine, preset, "asi=on", () => {
        assert.equal(kexecLoad(loadOf(NEVER_RETURNS)), 0);
        restrict();
        kernelKexec();
        assert.fail("a plain kexec came back");
      });
      assert.equal(console, "K");
      // The shutdown hook is an option of ours: as posted the address space is simply overwritten.
      const left = events.filter(([event, reason]) => event === TRACE_ASI_EXIT && reason === 10).length;
      assert.equal(left, preset === "cordon" ? 1 : 0);
    });
  }

  test(`at a crash the other CPUs stop and the kernel that was set aside runs (${machine})`, () => {
    const { console, events } = run(
      machine,
      "cordon",
      "asi=on crashkernel=64K",
      () => {
        const { start } = crashRange();
        assert.equal(kexecLoad(loadOf(NEVER_RETURNS, { onCrash: true }, start)), 0);
        restrict();
        crashKexec();
      },
      2,
    );
    assert.equal(console, "K");
    assert.deepEqual(
      events.filter(([event]) => event === TRACE_WARN),
      [],
    );
  });
}

for (const machine of MACHINES) {
  for (const preset of ["cordon", "rfc-v2"] as const) {
    test(`with preserved context this kernel goes on, unrestricted, its memory as it was (${preset}; ${machine})`, () => {
      let seen: readonly unknown[] = [];
      const { console, events } = run(machine, preset, "asi=on", () => {
        const kept = addVirt(va(physAddr(DESTINATION)), PAGE_SIZE);
        cpu.store(kept, 4, 77);
        assert.equal(kexecLoad(loadOf(RETURNS, { preserveContext: true })), 0);
        const before = [cpu.readCr4(), cpu.readFlags() & 0x200];
        restrict();
        const result = kernelKexec();
        const after = [cpu.readCr4(), cpu.readFlags() & 0x200];
        seen = [result, cpu.load(kept, 4), currAsi.get(), after.join() === before.join(), asiRfcV2.isEnabled()];
        // Once more: the image is still there.
        assert.equal(kernelKexec(), 0);
      });
      assert.deepEqual(seen, [0, 77, 0, true, preset === "rfc-v2"]);
      assert.equal(console, machine === "residue" ? "" : "JJ");
      assert.deepEqual(
        events.filter(([event]) => event === TRACE_WARN),
        [],
      );
    });
  }
}

test("what cannot be loaded is refused, as kexec_load(2) says", () => {
  const { result } = inKernel(() => {
    const load = (more: Partial<KexecLoad>): number => kexecLoad(loadOf(RETURNS, more));
    const segment = (memory: number, memoryBytes: number, bytes = 1): KexecLoad["segments"][number] => ({ memory, memoryBytes, bytes });
    return [
      kernelKexec(),
      load({ segments: [segment(DESTINATION + 1, PAGE_SIZE)] }),
      load({ segments: [segment(2 ** 40, PAGE_SIZE)] }),
      load({ segments: [segment(DESTINATION, PAGE_SIZE, 2 * PAGE_SIZE)] }),
      load({ segments: [segment(DESTINATION, 2 * PAGE_SIZE), segment(DESTINATION + PAGE_SIZE, PAGE_SIZE)] }),
      load({ entry: 0x1000 }),
      load({ onCrash: true }),
      isLoaded(imageFor(false)),
    ];
  });
  assert.deepEqual(result, [EINVAL, EADDRNOTAVAIL, EINVAL, EINVAL, EINVAL, EADDRNOTAVAIL, EADDRNOTAVAIL, false]);
});

test("an image that is unloaded gives all its pages back, and so does one that cannot be loaded, at every allocation (S9)", () => {
  inKernel(
    () => {
      const before = nrFreePages();
      assert.equal(kexecLoad(loadOf(RETURNS)), 0);
      assert.ok(nrFreePages() < before);
      assert.equal(kexecLoad(loadOf(RETURNS, { segments: [] })), 0);
      assert.equal(nrFreePages(), before);
      let failures = 0;
      for (let nth = 1; ; nth++) {
        failAlloc.arm(nth, FAIL_ONCE);
        const error = kexecLoad(loadOf(RETURNS));
        const failed = failAlloc.failed();
        failAlloc.disarm();
        if (failed === 0) break;
        failures++;
        assert.equal(error, ENOMEM);
        assert.equal(isLoaded(imageFor(false)), false);
        assert.equal(nrFreePages(), before);
      }
      // Two tables, the control page, the list, two pages.
      assert.equal(failures, 6);
    },
    { commandLine: "asi=off" },
  );
});
