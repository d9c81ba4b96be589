// Blocks that wait to be taken out of the restricted address spaces: a list per CPU, because a page may be freed where the TLBs of the
// other CPUs cannot be flushed (interrupts off, a lock held). Kernel: struct asi_async_free_cpu_state. Any CPU may take a whole list, so
// that memory which waits on one CPU is no out-of-memory on another; a list is only ever detached whole, so a head is never mistaken.
import { cpu, high32, low32, NULL, type Ptr, perCpu, pointer, u32, type VirtAddr } from "../../hardware/index.ts";
import { wakeUpProcess } from "../sched/wake-up.ts";
import { staticBytes } from "../static-data.ts";
import { countQueued, queuedPages } from "./buddy.ts";
import { orderPages, Page, type PagePtr } from "./page-struct.ts";
import { nrCpuIds, perCpuBase } from "./percpu.ts";

/** Not 0: the worker was woken and has not begun yet. */
const isWorkPending = staticBytes("asi_async_free.pending", 4, 4);
const asyncFreeWorker = staticBytes("asi_async_free.worker", 8, 8);
const taskPointer = pointer("task_struct");
const asyncFreeHead = perCpu("asi_async_free.to_free", pointer("page"));

/** Links `first` .. `last` in front of the list at `head`. */
function push(head: VirtAddr, first: PagePtr, last: PagePtr): void {
  const view = Page.at(last);
  for (;;) {
    const old = cpu.loadWord(head) as PagePtr;
    view.next = old;
    if (cpu.compareExchange64(head, low32(old), high32(old), low32(first), high32(first))) return;
  }
}

/** Queues a block on this CPU and the work that frees it (kernel: `asi_async_free_enqueue()`). Any context but NMI, no run queue's lock. */
export function asyncFreeEnqueue(page: PagePtr): void {
  countQueued(orderPages(Page.at(page).order));
  push(asyncFreeHead.here(), page, page);
  if (u32.get(isWorkPending) !== 0) return;
  u32.set(isWorkPending, 1);
  const worker = taskPointer.get(asyncFreeWorker);
  if (worker !== NULL) wakeUpProcess(worker);
}

/** The thread to wake from now on. */
export function setAsyncFreeWorker(task: Ptr<"task_struct">): void {
  taskPointer.set(asyncFreeWorker, task);
}

/** What is queued from here on asks for the worker again. @returns true: something was asked for (kernel: WORK_STRUCT_PENDING). */
export function takeAsyncFreeWork(): boolean {
  return cpu.rmw("exchange", isWorkPending, 4, 0) !== 0;
}

/** Detaches every block that waits on any CPU. They are linked by `next`. */
export function asyncFreeTakeAll(): PagePtr[] {
  const pages: PagePtr[] = [];
  const cpus = nrCpuIds();
  for (let id = 0; id < cpus; id++) {
    let page = cpu.exchangeWord(asyncFreeHead.at(perCpuBase(id)), NULL) as PagePtr;
    while (page !== 0) {
      const view = Page.at(page);
      pages.push(page);
      const next = view.next;
      view.next = NULL;
      countQueued(-orderPages(view.order));
      page = next;
    }
  }
  return pages;
}

/**
 * Takes one block of exactly `order` back from this CPU's list, or NULL. It is still mapped in the restricted address spaces, which is
 * what a nonsensitive page is to be: no flush is owed. For allocations that may not wait.
 */
export function asyncFreeTakeBack(order: number): PagePtr {
  const head = asyncFreeHead.here();
  let page = cpu.exchangeWord(head, NULL) as PagePtr;
  let found: PagePtr = NULL;
  while (page !== 0) {
    const view = Page.at(page);
    const next = view.next;
    if (found === NULL && view.order === order) found = page;
    else push(head, page, page);
    page = next;
  }
  if (found === NULL) return NULL;
  Page.at(found).next = NULL;
  countQueued(-orderPages(order));
  return found;
}

/** Frames that wait on all CPUs. */
export function asyncFreePending(): number {
  return queuedPages();
}
