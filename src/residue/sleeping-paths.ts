// Kernel paths that sleep, by the address of their task. Which there are goes back with the machine, and their hashes are part of its.
import type { VirtAddr } from "../hardware/index.ts";
import type { ResiduePath } from "./residue-path.ts";
import { combine, type StateHash, wordOf } from "./state-hash.ts";
import type { TrackedMemory } from "./tracked-memory.ts";
import type { Undoable } from "./undo-log.ts";

export class SleepingPaths implements Undoable {
  private readonly paths = new Map<VirtAddr, ResiduePath>();
  private readonly memory: TrackedMemory;

  constructor(memory: TrackedMemory) {
    this.memory = memory;
  }

  set(task: VirtAddr, path: ResiduePath): void {
    this.take(task);
    this.paths.set(task, path);
    if (!this.memory.isTracking) return;
    this.memory.log.object(this, task, undefined);
    toggle(this.memory.stateHash, task, path);
  }

  /** The path of `task`, which sleeps no more. */
  take(task: VirtAddr): ResiduePath | undefined {
    const found = this.paths.get(task);
    if (found === undefined) return undefined;
    this.paths.delete(task);
    if (this.memory.isTracking) {
      this.memory.log.object(this, task, found);
      toggle(this.memory.stateHash, task, found);
    }
    return found;
  }

  undo(key: number, old: unknown): void {
    const task = key as VirtAddr; // as set() and take() told it
    if (old === undefined) this.paths.delete(task);
    else this.paths.set(task, old as ResiduePath); // as take() told it
  }

  addTo(hash: StateHash): void {
    for (const [task, path] of this.paths) toggle(hash, task, path);
  }
}

function toggle(hash: StateHash, task: VirtAddr, path: ResiduePath): void {
  const place = wordOf(task);
  hash.toggleDigests(combine(place, path.low), combine(path.high, place));
}
