// Where a new task begins: on the CPU that has least to do (kernel: select_task_rq()).
import { cpu, NULL } from "../../hardware/index.ts";
import { onlineCpus, perCpuBase } from "../mm/percpu.ts";
import { currentTask } from "./current.ts";
import { runQueueAt } from "./run-queue.ts";

/** The online CPU of `allowed` with the fewest runnable tasks, the lowest of equals; where all are offline any that is online. */
export function selectCpu(allowed: number): number {
  const online = onlineCpus();
  const mask = (allowed & online) !== 0 ? allowed & online : online;
  let best = -1;
  let bestLoad = Number.POSITIVE_INFINITY;
  for (let id = 0; id < 32; id++) {
    if ((mask & (1 << id)) === 0) continue;
    const load = loadOf(id);
    if (load >= bestLoad) continue;
    best = id;
    bestLoad = load;
  }
  return best;
}

/** Runnable tasks of a CPU, the running one too unless it idles. */
function loadOf(id: number): number {
  const base = perCpuBase(id);
  const rq = runQueueAt(base);
  const isBusy = cpu.loadWord(currentTask.at(base)) !== rq.idle && rq.idle !== NULL;
  return rq.nrQueued + (isBusy ? 1 : 0);
}
