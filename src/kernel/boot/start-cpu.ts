// Starting a CPU that the firmware holds: at boot, and again after it was taken offline.
import { addVirt, BOOT_WAKEUP_MAILBOX, cpu, NULL, type PhysAddr } from "../../hardware/index.ts";
import { siblingsBeforeStart } from "../asi/siblings.ts";
import { va } from "../mm/layout.ts";
import { onlineCpus, perCpuBase } from "../mm/percpu.ts";
import { runQueueAt } from "../sched/run-queue.ts";
import { TaskStruct, THREAD_SIZE } from "../sched/task-struct.ts";
import { initialStack, SECONDARY_STARTUP_SYMBOL } from "./boot-stubs.ts";
import { symbolAddress } from "./kernel-text.ts";

/** ACPI multiprocessor wakeup: command and offsets in the mailbox. */
const WAKEUP = 1;
const MAILBOX_APIC_ID = 4;
const MAILBOX_VECTOR = 8;

/** Starts CPU `id`, whose idle task is there, and waits until it is online (kernel: `acpi_wakeup_cpu()`, `native_kick_ap()`). */
export function startCpu(id: number): void {
  const mailbox = va(BOOT_WAKEUP_MAILBOX as PhysAddr);
  const { idle } = runQueueAt(perCpuBase(id));
  siblingsBeforeStart(id);
  TaskStruct.at(idle).thread.asiState.target = NULL;
  cpu.storeWord(initialStack, addVirt(TaskStruct.at(idle).stack, THREAD_SIZE));
  cpu.store(addVirt(mailbox, MAILBOX_APIC_ID), 4, id);
  cpu.storeWord(addVirt(mailbox, MAILBOX_VECTOR), symbolAddress(SECONDARY_STARTUP_SYMBOL));
  cpu.store(mailbox, 2, WAKEUP);
  while ((onlineCpus() & (1 << id)) === 0) cpu.pause();
}
