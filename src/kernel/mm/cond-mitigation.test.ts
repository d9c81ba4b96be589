import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import { cpu, MSR_IA32_PRED_CMD, NULL, type Ptr } from "../../hardware/index.ts";
import { switchMmAlwaysIbpb, switchMmCondIbpb } from "../mitigations/feature-keys.ts";
import { TIF_SPEC_IB } from "../mitigations/spec-ctrl.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { mmAlloc } from "./mm.ts";
import { initMm, type MmPtr } from "./mm-struct.ts";
import { kzalloc } from "./slab.ts";
import { enterLazyTlb, switchMmIrqsOff } from "./switch-mm.ts";

type TaskPtr = Ptr<"task_struct">;

function taskOf(mm: MmPtr, wantsIbpb: boolean): TaskPtr {
  const task = kzalloc(TaskStruct.bytes, GFP_KERNEL) as TaskPtr;
  TaskStruct.at(task).mm = mm;
  TaskStruct.at(task).thread.specFlags = wantsIbpb ? TIF_SPEC_IB : 0;
  return task;
}

/** IBPBs that the kernel issues while `body` runs. */
function ibpbs(body: () => void): number {
  let count = 0;
  const write = cpu.writeMsr.bind(cpu);
  cpu.writeMsr = (msr, low, high) => {
    if (msr === MSR_IA32_PRED_CMD) count++;
    write(msr, low, high);
  };
  body();
  cpu.writeMsr = write;
  return count;
}

function switchTo(task: TaskPtr): void {
  switchMmIrqsOff(NULL, TaskStruct.at(task).mm, task);
}

/** A kernel thread comes and goes: borrowed tables, then, after a shootdown, the kernel's own. */
function kernelThread(): void {
  enterLazyTlb();
  switchMmIrqsOff(NULL, initMm, NULL);
}

test("always: one IBPB for every change of the user mm, none for threads of one mm or kernel threads in between (spec 5.1, invariant 7)", () => {
  withMm(() => {
    switchMmAlwaysIbpb.set(1);
    const [a, b] = [taskOf(mmAlloc(), false), taskOf(mmAlloc(), false)];
    switchTo(a);
    assert.equal(
      ibpbs(() => switchTo(b)),
      1,
    );
    assert.equal(
      ibpbs(() => {
        kernelThread();
        switchTo(b);
        switchTo(taskOf(TaskStruct.at(b).mm, false));
      }),
      0,
    );
    assert.equal(
      ibpbs(() => {
        kernelThread();
        switchTo(a);
      }),
      1,
    );
  });
});

test("conditional: an IBPB where the one that ran or the one that comes asked for it (TIF_SPEC_IB)", () => {
  withMm(() => {
    switchMmCondIbpb.set(1);
    const [a, b, careful] = [taskOf(mmAlloc(), false), taskOf(mmAlloc(), false), taskOf(mmAlloc(), true)];
    switchTo(a);
    const each = [b, careful, a, b].map((task) => ibpbs(() => switchTo(task)));
    assert.deepEqual(each, [0, 1, 1, 0]);
    switchTo(careful);
    assert.equal(
      ibpbs(() => {
        kernelThread();
        switchTo(careful);
      }),
      0,
    );
  });
});

test("neither selected: no IBPB", () => {
  withMm(() => {
    const [a, b] = [taskOf(mmAlloc(), true), taskOf(mmAlloc(), true)];
    switchTo(a);
    assert.equal(
      ibpbs(() => switchTo(b)),
      0,
    );
  });
});
