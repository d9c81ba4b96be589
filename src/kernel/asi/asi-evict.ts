// Making every CPU leave a domain: before its tables are freed, and when its policy becomes stricter, since a CPU that rests in a domain
// enters it again without looking at the policy.
import { addVirt, assert, cpu, NULL, type Ptr, pointer, struct, u32 } from "../../hardware/index.ts";
import { sendIpi } from "../entry/ipi.ts";
import { CALL_FUNCTION_VECTOR } from "../entry/vectors.ts";
import { onlineCpus, perCpuBase } from "../mm/percpu.ts";
import { irqsDisabled, spinLock, spinlock, spinUnlock } from "../spinlock.ts";
import { staticStruct } from "../static-data.ts";
import { EXIT_DESTROY } from "../trace.ts";
import { currAsi } from "./asi-state.ts";
import { asiExit } from "./asi-transition.ts";

/** The one eviction that is under way. */
const Eviction = struct("asi_eviction", {
  /** Who evicts. Taken with interrupts on: whoever waits for it is itself evicted meanwhile. */
  lock: spinlock,
  /** CPUs that have not answered. */
  waiting: u32,
  domain: pointer("asi"),
});
const eviction = staticStruct("asi_eviction", Eviction);

/** No CPU is in `domain` afterwards, and no task has it as its target. Interrupts on, unless no other CPU can be in it. */
export function asiEvict(domain: Ptr<"asi">): void {
  if (currAsi.get() === domain) asiExit(EXIT_DESTROY);
  const others = cpusIn(domain);
  if (others === 0) return;
  assert(!irqsDisabled(), () => "CPUs rest in a domain that goes, and cannot be told with interrupts off");
  const view = Eviction.at(eviction);
  spinLock(view.lock);
  view.domain = domain;
  view.waiting = others;
  for (let id = 0; id < 32; id++) if ((others & (1 << id)) !== 0) sendIpi(id, CALL_FUNCTION_VECTOR);
  while (view.waiting !== 0) cpu.pause();
  view.domain = NULL;
  spinUnlock(view.lock);
}

/** Other CPUs whose curr_asi is the domain: once nobody can enter it any more, none is added. */
function cpusIn(domain: Ptr<"asi">): number {
  const candidates = onlineCpus() & ~(1 << cpu.id);
  let found = 0;
  for (let id = 0; id < 32; id++) {
    if ((candidates & (1 << id)) !== 0 && cpu.loadWord(currAsi.at(perCpuBase(id))) === domain) found |= 1 << id;
  }
  return found >>> 0;
}

/** Part of CALL_FUNCTION_VECTOR's handler. Interrupts off. */
export function asiEvictInterrupt(): void {
  const view = Eviction.at(eviction);
  const mine = 1 << cpu.id;
  if ((view.waiting & mine) === 0) return;
  if (currAsi.get() === view.domain) asiExit(EXIT_DESTROY);
  cpu.rmw("and", addVirt(eviction, Eviction.offset.waiting), 4, ~mine >>> 0);
}
