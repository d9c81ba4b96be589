// Pages that wait to be taken out of the restricted address spaces: a list per CPU, because a page may be freed where the TLBs of the
// other CPUs cannot be flushed (interrupts off, a lock held). Kernel: struct asi_async_free_cpu_state.
import { NULL, perCpu, perCpuInteger, pointer } from "../../hardware/index.ts";
import { localIrqRestore, localIrqSave } from "../spinlock.ts";
import { Page, type PagePtr } from "./page-struct.ts";

const asyncFreeHead = perCpu("asi_async_free.to_free", pointer("page"));
const asyncFreeCount = perCpuInteger("asi_async_free.count", 4);

/** Queues a page on this CPU (kernel: `asi_async_free_enqueue()`). */
export function asyncFreeEnqueue(page: PagePtr): void {
  const flags = localIrqSave();
  Page.at(page).next = asyncFreeHead.get();
  asyncFreeHead.set(page);
  asyncFreeCount.add(1);
  localIrqRestore(flags);
}

/** Takes one queued page of this CPU, or NULL. */
export function asyncFreeTake(): PagePtr {
  const flags = localIrqSave();
  const page = asyncFreeHead.get();
  if (page !== 0) {
    const view = Page.at(page);
    asyncFreeHead.set(view.next);
    view.next = NULL;
    asyncFreeCount.add(-1);
  }
  localIrqRestore(flags);
  return page;
}

/** Pages that wait on this CPU. */
export function asyncFreePending(): number {
  return asyncFreeCount.get();
}
