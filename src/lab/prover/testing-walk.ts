// A walk through a system with NMIs and interrupts at random steps: what tests need that want something to happen. Only tests import it.
import { fail } from "../../hardware/index.ts";
import { Random } from "../random.ts";
import { raiseInterrupt } from "./deliveries.ts";
import type { EventChoice, System } from "./system.ts";

/** Injections are made within this many steps of an event's beginning. */
const FURTHEST_STEP = 300;

/**
 * Walks for `events` events, or until every operation was done: what was not done yet first, then at random. Stops where nobody can go on.
 * @returns the operations that were done
 */
export function walk(
  system: System,
  events: number,
  isInterrupted: boolean,
  visit?: (choice: EventChoice, end: string) => void,
): ReadonlySet<string> {
  const random = new Random(1);
  const done = new Set<string>();
  for (let event = 0; event < events; event++) {
    const choices = system.choices();
    if (choices.length === 0) break;
    const choice = choices.find(({ operation }) => !done.has(operation)) ?? choices[random.next() % choices.length] ?? fail("no choice");
    if (isInterrupted) {
      const at = random.next() % FURTHEST_STEP;
      const isNmi = random.next() % 2 === 0;
      let step = 0;
      system.check.onStep = (cpu) => {
        if (step++ !== at) return;
        if (isNmi) cpu.raiseNmi();
        else raiseInterrupt(cpu);
      };
    }
    system.begin(choice);
    const end = system.runEvent(choice);
    system.check.onStep = undefined;
    visit?.(choice, end);
    done.add(choice.operation);
    if (visit !== undefined && done.size === system.names.length) break;
  }
  return done;
}
