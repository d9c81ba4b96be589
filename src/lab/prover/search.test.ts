// The search on a system whose states can be listed by hand: two processes that enter a critical section by a flawed protocol, each event a step.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { loadSearch, saveSearch } from "./checkpoint.ts";
import { searchDeepening } from "./deepening.ts";
import { decodeStart, type EventCode, encodeInjection, encodeStart } from "./event-code.ts";
import { Expander } from "./expander.ts";
import type { Explorable, Finding, Visitor } from "./explorable.ts";
import { type Expanders, Search, type SearchResult } from "./search.ts";
import { collisionProbability, Visited } from "./visited.ts";

/**
 * `flags[i]` and program counters of two processes: 0 looks at the other's flag, 1 raises its own, 2 is inside, then lowers it. An injection
 * makes the look blind. Mutual exclusion fails in four events without an injection: both look, both raise.
 */
class Toy implements Explorable {
  private state: readonly [pc0: number, pc1: number, flag0: number, flag1: number] = [0, 0, 0, 0];
  private readonly saved: (typeof this.state)[] = [];

  get stateLow(): number {
    const [a, b, c, d] = this.state;
    return a + 4 * b + 16 * c + 32 * d + 1;
  }
  readonly stateHigh = 7;
  mark(): number {
    return this.saved.push(this.state) - 1;
  }
  rewind(mark: number): void {
    this.state = this.saved[mark] ?? this.state;
    this.saved.length = mark + 1;
  }
  starts(): readonly number[] {
    return [encodeStart(0, 0), encodeStart(1, 0)];
  }
  explore(start: number, visit: Visitor): number {
    const before = this.mark();
    const codes: EventCode[] = [[start], [start, encodeInjection(0, 1)]];
    for (const code of codes) {
      visit(code, this.run(code));
      this.rewind(before);
    }
    return codes.length;
  }
  readonly isInexact = false;
  takeLearnt(): readonly number[] {
    return [];
  }
  occurred(): Iterable<string> {
    return this.state[0] === 1 ? ["the first looked"] : [];
  }
  run(code: EventCode): Finding | undefined {
    const { cpu } = decodeStart(code[0] ?? 0);
    const next: [number, number, number, number] = [...this.state];
    const pc = next[cpu] ?? 0;
    if (pc === 0) {
      if (next[3 - cpu] === 0 || code.length > 1) next[cpu] = 1;
    } else if (pc === 1) {
      next[2 + cpu] = 1;
      next[cpu] = 2;
    } else {
      next[2 + cpu] = 0;
      next[cpu] = 0;
    }
    this.state = next;
    return next[0] === 2 && next[1] === 2 ? { signature: "mutual exclusion", message: "both are inside" } : undefined;
  }
}

function inline(width: number): Expanders {
  const expanders = Array.from({ length: width }, () => new Expander(new Toy()));
  let next = 0;
  return {
    width,
    expand: (paths) => {
      const expander = expanders[next++ % width] ?? new Expander(new Toy());
      return Promise.resolve(expander.expand(paths));
    },
  };
}

const root = { low: new Toy().stateLow, high: 7 };
const whole = { depth: 0, bytes: 1e9, findsAll: true };

function summary({ end, states, layers, found, depth }: SearchResult): unknown {
  return { end, states, layers, depth, found: found.map(({ path }) => path) };
}

test("breadth first finds the shortest counterexample, the same with any number of expanders", async () => {
  const one = await new Search(inline(1), { ...whole, findsAll: false }, root).run();
  assert.equal(one.end, "found");
  const [found] = one.found;
  assert.equal(found?.path.length, 4);
  assert.ok(found.path.every((event) => event.length === 1));
  for (const width of [2, 3]) {
    assert.deepEqual(summary(await new Search(inline(width), { ...whole, findsAll: false }, root).run()), summary(one));
  }
});

test("the whole space, counted by hand: 9 pairs of places less the one that is wrong", async () => {
  const result = await new Search(inline(1), whole, root).run();
  assert.equal(result.end, "closed");
  assert.equal(result.states, 8);
  assert.equal(
    result.layers.reduce((sum, count) => sum + count, 0),
    8,
  );
});

test("depth first with a growing bound agrees with breadth first", async () => {
  for (const limits of [whole, { ...whole, findsAll: false }, { ...whole, depth: 3 }, { ...whole, depth: 2 }]) {
    const wide = await new Search(inline(1), limits, root).run();
    const deep = searchDeepening(new Toy(), limits);
    assert.equal(deep.end, wide.end);
    assert.equal(deep.states, wide.states);
    assert.deepEqual(
      deep.found.map(({ path }) => path.length),
      wide.found.map(({ path }) => path.length),
    );
  }
});

test("too little memory is said, with what was covered", async () => {
  const result = await new Search(inline(1), { ...whole, bytes: 1000 }, root).run();
  assert.equal(result.end, "memory");
  assert.deepEqual(result.partly, [1, 1]);
  assert.equal(searchDeepening(new Toy(), { ...whole, bytes: 100 }).end, "memory");
});

test("a search that was stopped goes on from its file to the same end, from every place", async () => {
  const folder = mkdtempSync(join(tmpdir(), "cordon-"));
  const file = join(folder, "search");
  const expected = summary(await new Search(inline(1), whole, root).run());
  let pieces = 0;
  await new Search(inline(1), whole, root).run({
    progress: () => {
      pieces++;
      return false;
    },
  });
  for (let stopAfter = 1; stopAfter < pieces; stopAfter++) {
    let seen = 0;
    const stopped = await new Search(inline(1), whole, root).run({
      progress: (_progress, state) => {
        seen++;
        if (seen === stopAfter) saveSearch(file, "toy", { ...state(), given: [] });
        return seen === stopAfter;
      },
    });
    assert.equal(stopped.end, "stopped");
    assert.deepEqual(summary(await new Search(inline(1), whole, loadSearch(file, "toy")).run()), expected);
  }
  assert.throws(() => loadSearch(file, "another"), /another configuration/);
  const bytes = readFileSync(file);
  writeFileSync(file, bytes.subarray(0, bytes.length - 3));
  assert.throws(() => loadSearch(file, "toy"), /tree is not whole/);
  writeFileSync(file, "{}\n");
  assert.throws(() => loadSearch(file, "toy"), /does not say/);
  rmSync(folder, { recursive: true });
});

test("visited states: every one is found again, zero too, and the probability of a collision is stated", () => {
  const visited = new Visited();
  for (let i = 0; i < 20_000; i++) assert.equal(visited.add(Math.imul(i, 0x9e3779b1), i % 7), true);
  for (let i = 0; i < 20_000; i++) assert.equal(visited.has(Math.imul(i, 0x9e3779b1), i % 7), true);
  assert.equal(visited.add(0, 0), false);
  assert.equal(visited.has(1, 1), false);
  assert.equal(visited.size, 20_000);
  assert.equal(collisionProbability(2 ** 33), 1);
  assert.ok(collisionProbability(1e6) < 1e-7);
});
