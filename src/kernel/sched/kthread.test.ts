// Kernel threads, and the one that gives back what the page allocator frees asynchronously (kernel: kernel/kthread.c, patch 8).
import assert from "node:assert/strict";
import { test } from "node:test";
import { MACHINES, type MachineName, runKernel } from "../../../test/kernel-machines.ts";
import { EINTR, isErr } from "../../abi/index.ts";
import { cpu, fail, NULL, type Ptr } from "../../hardware/index.ts";
import { asiIsRestricted } from "../asi/asi-transition.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { asyncFreePending } from "../mm/async-free.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import { allocPages, drainAllFrees, freePages, nrFreePages } from "../mm/page-alloc.ts";
import { TRACE_WARN } from "../trace.ts";
import { current } from "./current.ts";
import { kthreadCreate, kthreadFunction, kthreadRun, kthreadShouldStop, kthreadStop } from "./kthread.ts";
import { kthreadUnuseMm, kthreadUseMm } from "./kthread-use-mm.ts";
import { schedule, setCurrentState } from "./schedule.ts";
import { findTask, reapDeadTasks } from "./task.ts";
import { PF_KTHREAD, TASK_INTERRUPTIBLE, TASK_RUNNING, TaskStruct } from "./task-struct.ts";

/** What the driver thread of the running test does. */
let body: () => void = () => undefined;
const driver = kthreadFunction(() => {
  body();
  return 0;
});
/** Sleeps until it is to end; says its data. */
const sleeper = kthreadFunction((data) => {
  for (;;) {
    setCurrentState(TASK_INTERRUPTIBLE);
    if (kthreadShouldStop()) break;
    schedule();
  }
  setCurrentState(TASK_RUNNING);
  return data + 1;
});

/** Lets others run, here and on other CPUs. */
function waitUntil(condition: () => boolean, turns = 2000): void {
  for (let turn = 0; turn < turns && !condition(); turn++) {
    schedule();
    cpu.pause();
  }
}

function started(task: Ptr<"task_struct"> | number): Ptr<"task_struct"> {
  if (isErr(task)) fail(`no thread: ${task}`);
  return task as Ptr<"task_struct">; // no error
}

/** Runs `run` in a kernel thread of the boot CPU. */
function inThread(machine: MachineName, cpus: number, run: () => void, commandLine = "asi=on"): void {
  let isDone = false;
  body = () => {
    run();
    isDone = true;
  };
  const image = buildKernelImage({
    preset: "cordon",
    processes: [],
    puppets: new Map(),
    lateInitcall: () => {
      started(kthreadRun(driver, 0, "driver"));
    },
  });
  const { events } = runKernel(machine, image, { commandLine, cpus });
  assert.equal(isDone, true, "the thread came to its end");
  assert.equal(events.filter(([event]) => event === TRACE_WARN).length, 0);
}

for (const machine of MACHINES) {
  test(`a kernel thread has no address space of its own, runs unrestricted, and gives its result to who stops it (${machine})`, () => {
    for (const cpus of [1, 2]) {
      inThread(machine, cpus, () => {
        const self = TaskStruct.at(current());
        assert.deepEqual([self.flags & PF_KTHREAD, self.mm, self.thread.asiState.intrNestDepth], [PF_KTHREAD, NULL, 0]);
        assert.equal(self.thread.asiState.target, NULL);
        assert.equal(asiIsRestricted(), false);
        assert.notEqual(self.activeMm, NULL);
        drainAllFrees();
        const before = nrFreePages();
        for (let round = 0; round < 3; round++) {
          const thread = started(kthreadRun(sleeper, 41, "sleeper"));
          const { pid } = TaskStruct.at(thread);
          waitUntil(() => TaskStruct.at(thread).state === TASK_INTERRUPTIBLE);
          assert.equal(kthreadStop(thread), 42);
          assert.equal(findTask(pid), NULL);
        }
        assert.equal(kthreadStop(started(kthreadCreate(sleeper, 41, "never"))), EINTR);
        waitUntil(() => false, 20);
        reapDeadTasks();
        drainAllFrees();
        // A slab page for the new sizes may stay with its cache.
        assert.ok(before - nrFreePages() <= 1, `${before - nrFreePages()} pages are gone`);
      });
    }
  });

  test(`a kernel thread uses a user address space for a while (${machine})`, () => {
    inThread(machine, 1, () => {
      const mm = mmAlloc();
      if (isErr(mm)) fail("no mm");
      const self = TaskStruct.at(current());
      kthreadUseMm(mm);
      assert.deepEqual([self.mm, self.activeMm], [mm, mm]);
      schedule();
      assert.deepEqual([self.mm, self.activeMm], [mm, mm]);
      kthreadUnuseMm();
      assert.equal(self.mm, NULL);
      mmput(mm);
    });
  });

  test(`pages that restricted address spaces map are given back though nobody allocates (${machine})`, () => {
    for (const cpus of [1, 2]) {
      inThread(machine, cpus, () => {
        drainAllFrees();
        // The worker does what was asked of it before.
        waitUntil(() => false, 20);
        const page = allocPages(GFP_KERNEL, 3);
        const before = nrFreePages();
        assert.equal(asyncFreePending(), 0);
        freePages(page, 3);
        assert.equal(asyncFreePending(), 8);
        waitUntil(() => asyncFreePending() === 0);
        assert.equal(asyncFreePending(), 0);
        waitUntil(() => nrFreePages() >= before + 8);
        assert.equal(nrFreePages(), before + 8);
      });
    }
  });
}
