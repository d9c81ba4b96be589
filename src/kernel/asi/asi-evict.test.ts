// A domain goes while another CPU rests in it: that CPU leaves first.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TraceRecord } from "../../../test/in-kernel.ts";
import { MACHINES, type MachineName, runKernel } from "../../../test/kernel-machines.ts";
import { isErr } from "../../abi/index.ts";
import { cpu, NULL, type Ptr } from "../../hardware/index.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { sendIpi } from "../entry/ipi.ts";
import { IRQ_WORK_VECTOR } from "../entry/vectors.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import type { MmPtr } from "../mm/mm-struct.ts";
import { perCpuBase } from "../mm/percpu.ts";
import { kthreadUnuseMm, kthreadUseMm } from "../sched/kthread-use-mm.ts";
import { EXIT_DESTROY, TRACE_ASI_EXIT, TRACE_WARN } from "../trace.ts";
import { asiDestroy, asiInit } from "./asi-domain.ts";
import { asiEvict } from "./asi-evict.ts";
import { currAsi } from "./asi-state.ts";
import { ASI_CLASS_KVM } from "./asi-struct.ts";
import { asiEnter, asiRelax } from "./asi-transition.ts";

function restingIn(): number {
  return cpu.loadWord(currAsi.at(perCpuBase(1)));
}

function waitFor(condition: () => boolean): void {
  for (let i = 0; i < 100_000; i++) {
    if (condition()) return;
    cpu.pause();
  }
  assert.fail("the other CPU does not answer");
}

/** Runs `body` on CPU 0 while CPU 1 rests, relaxed, in the KVM domain of an mm. */
function withRestingCpu(machine: MachineName, body: (domain: Ptr<"asi">) => void): readonly TraceRecord[] {
  let domain: Ptr<"asi"> = NULL as Ptr<"asi">;
  let mm: MmPtr = NULL as MmPtr;
  let isUsing = false;
  const image = buildKernelImage({
    preset: "cordon",
    processes: [],
    puppets: new Map(),
    hooks: {
      irqWork: () => {
        if (isUsing) {
          kthreadUnuseMm();
          return;
        }
        isUsing = true;
        kthreadUseMm(mm);
        asiEnter(domain);
        asiRelax();
      },
    },
    lateInitcall: () => {
      mm = mmAlloc();
      const made = asiInit(mm, ASI_CLASS_KVM);
      assert.ok(!isErr(made));
      domain = made;
      sendIpi(1, IRQ_WORK_VECTOR);
      waitFor(() => restingIn() === domain);
      body(domain);
      sendIpi(1, IRQ_WORK_VECTOR);
      mmput(mm);
    },
  });
  return runKernel(machine, image, { commandLine: "asi=on", cpus: 2 }).events;
}

for (const machine of MACHINES) {
  test(`asi_destroy(): a CPU that rests in the domain leaves before its tables go (S9; ${machine})`, () => {
    const events = withRestingCpu(machine, (domain) => {
      asiDestroy(domain);
      assert.equal(restingIn(), NULL);
    });
    assert.equal(events.filter(([event, reason]) => event === TRACE_ASI_EXIT && reason === EXIT_DESTROY).length, 1);
    assert.deepEqual(
      events.filter(([event]) => event === TRACE_WARN),
      [],
    );
  });
}

test("asi_destroy() with another user left evicts nobody; asi_evict() can be asked for by itself", () => {
  withRestingCpu("residue", (domain) => {
    asiEvict(domain);
    assert.equal(restingIn(), NULL);
    asiDestroy(domain);
  });
});
