// Calls of the firmware: in its own address space, with the restricted one left, and with nothing of it reachable from elsewhere.
import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { MACHINES, runKernel } from "../../../test/kernel-machines.ts";
import { ENOMEM } from "../../abi/index.ts";
import { cpu, type Ptr, virtAddr } from "../../hardware/index.ts";
import { asiInit } from "../asi/asi-domain.ts";
import { currAsi } from "../asi/asi-state.ts";
import { ASI_CLASS_KVM, Asi } from "../asi/asi-struct.ts";
import { asiEnter, asiRelax } from "../asi/asi-transition.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { FAIL_ONCE, failAlloc } from "../mm/fail-alloc.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import { Mm } from "../mm/mm-struct.ts";
import { nrFreePages } from "../mm/page-alloc.ts";
import { isPresent, lookupAddress } from "../mm/page-table.ts";
import { loadedMm } from "../mm/tlb-struct.ts";
import { TRACE_SWITCH_MM, TRACE_WARN } from "../trace.ts";
import { efiCallVirt, efiGetVariable, efiNextHighMonoCount, efiRuntimeBase } from "./efi.ts";
import { EFI_OUT_OF_RESOURCES, EFI_SUCCESS } from "./efi-stub.ts";

for (const machine of MACHINES) {
  for (const preset of ["cordon", "rfc-v2"] as const) {
    test(`variables are kept, the counter counts, and the CPU is back where it was, unrestricted (${preset}; ${machine})`, () => {
      let seen: readonly unknown[] = [];
      const image = buildKernelImage({
        preset,
        processes: [],
        puppets: new Map(),
        lateInitcall: () => {
          const mm = mmAlloc();
          const asi = asiInit(mm, ASI_CLASS_KVM);
          asiEnter(asi as Ptr<"asi">); // memory is there
          asiRelax();
          const before = loadedMm.get();
          const set = efiCallVirt("SET_VARIABLE", 0x424f4f54, 1234);
          const base = efiRuntimeBase();
          seen = [
            set,
            efiGetVariable(0x424f4f54),
            efiGetVariable(0x99),
            efiNextHighMonoCount(),
            efiNextHighMonoCount(),
            currAsi.get(),
            loadedMm.get() === before,
            // Neither the kernel's own tables nor a domain's have the firmware.
            isPresent(lookupAddress(Mm.at(before).pgd, virtAddr(base))),
            isPresent(lookupAddress(Asi.at(asi as Ptr<"asi">).pgd, virtAddr(base))),
            cpu.readFlags() & 0x200,
          ];
        },
      });
      const { events } = runKernel(machine, image, { commandLine: "asi=on" });
      assert.deepEqual(seen, [EFI_SUCCESS, 1234, undefined, 1, 2, 0, true, false, false, 0x200]);
      assert.equal(events.filter(([event]) => event === TRACE_WARN).length, 0);
      // Five calls, to efi_mm and back.
      assert.equal(events.filter(([event]) => event === TRACE_SWITCH_MM).length, 10);
    });
  }
}

test("the store is full after eight variables", () => {
  const { result } = inKernel(() => Array.from({ length: 9 }, (_, i) => efiCallVirt("SET_VARIABLE", i + 1, i)));
  assert.deepEqual(result, [...Array(8).fill(EFI_SUCCESS), EFI_OUT_OF_RESOURCES]);
});

test("every allocation of the first call can fail, and nothing is left behind (S9)", () => {
  inKernel(
    () => {
      // The slab of mm_struct keeps its page.
      mmput(mmAlloc());
      const before = nrFreePages();
      let failures = 0;
      for (let nth = 1; ; nth++) {
        failAlloc.arm(nth, FAIL_ONCE);
        const status = efiCallVirt("SET_VARIABLE", 1, 1);
        const failed = failAlloc.failed();
        failAlloc.disarm();
        if (failed === 0) break;
        failures++;
        assert.equal(status, ENOMEM);
        assert.equal(nrFreePages(), before);
      }
      // The mm and its root; the firmware's memory; three levels of tables, once.
      assert.ok(failures >= 6);
    },
    { commandLine: "asi=off" },
  );
});
