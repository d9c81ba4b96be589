// The differences between the presets that no other test shows.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type InKernelOptions, inKernel } from "../../../test/in-kernel.ts";
import { isErr } from "../../abi/index.ts";
import { fail, findCpuModel, PF_PROT, PF_RSVD, PF_WRITE, type VirtAddr } from "../../hardware/index.ts";
import { bootKernel } from "../../residue/index.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { readCr3Raw } from "../mm/cr3.ts";
import { kernelAccessOk } from "../mm/fault.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import { getFreePages, nrFreePages } from "../mm/page-alloc.ts";
import { asiDestroy, asiInit } from "./asi-domain.ts";
import type { Preset } from "./asi-options.ts";
import { doCpuBufferClear, doL1tfFlush } from "./asi-state.ts";
import { ASI_CLASS_KVM } from "./asi-struct.ts";
import { PRESET_DIFFERENCES } from "./preset-differences.ts";

const POSTED: InKernelOptions = { preset: "rfc-v2" };

test("each difference is told once and whole", () => {
  assert.equal(new Set(PRESET_DIFFERENCES.map(({ id }) => id)).size, PRESET_DIFFERENCES.length);
  for (const difference of PRESET_DIFFERENCES) {
    assert.ok(difference.patch >= 1 && difference.patch <= 29, difference.id);
    for (const text of Object.values(difference)) assert.notEqual(text, "", difference.id);
  }
});

test("second-root: a domain costs two pages as posted, one in preset cordon", () => {
  const cost = (): number => {
    const mm = mmAlloc();
    const before = nrFreePages();
    const domain = asiInit(mm, ASI_CLASS_KVM);
    assert.ok(!isErr(domain));
    const pages = before - nrFreePages();
    asiDestroy(domain);
    mmput(mm);
    return pages;
  };
  assert.equal(inKernel(cost).result, 1);
  assert.equal(inKernel(cost, POSTED).result, 2);
});

/** What `body` returns at the end of a boot on Skylake-SP without IA32_FLUSH_CMD, as its first microcode was. */
function withoutFlushCommand<T>(preset: Preset, body: () => T): T {
  const skx = findCpuModel("skx") ?? fail("no CPU model skx");
  let result: { readonly value: T } | undefined;
  const image = buildKernelImage({
    preset,
    processes: [],
    puppets: new Map(),
    lateInitcall: () => {
      result = { value: body() };
    },
  });
  bootKernel(image, { commandLine: "asi=on", model: { ...skx, features: skx.features.filter((name) => name !== "FLUSH_L1D") } });
  return result?.value ?? fail("the kernel did not boot");
}

test("no-verw: where L1D is not flushed by MSR, a data flush overwrites the buffers too; as posted it does not", () => {
  const flushes = (): readonly boolean[] => [doL1tfFlush.isEnabled(), doCpuBufferClear.isEnabled()];
  assert.deepEqual(withoutFlushCommand("cordon", flushes), [true, true]);
  assert.deepEqual(withoutFlushCommand("rfc-v2", flushes), [true, false]);
});

test("fault-retry: what the tables cannot allow is not tried again; as posted it is (S6)", () => {
  const retries = (): readonly boolean[] => {
    const page = getFreePages(GFP_KERNEL, 0) as VirtAddr; // not 0
    const cr3 = readCr3Raw();
    return [PF_PROT | PF_RSVD, PF_PROT, PF_PROT | PF_WRITE].map((errorCode) => kernelAccessOk(errorCode, page, cr3));
  };
  assert.deepEqual(inKernel(retries).result, [false, false, true]);
  assert.deepEqual(inKernel(retries, POSTED).result, [true, true, true]);
});
