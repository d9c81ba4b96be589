// Cases of the suite "asi" that other branches of the series carry under their own names: the transition hooks of v1, as far as they became
// the flushes of v2, and the page allocator's of September 2025.
import { addVirt, assert, NULL, PAGE_SIZE } from "../../hardware/index.ts";
import { GFP_HIGHUSER_MOVABLE, GFP_KERNEL } from "../mm/gfp.ts";
import { initMm, Mm } from "../mm/mm-struct.ts";
import { allocPages, freePages } from "../mm/page-alloc.ts";
import { pageAddress } from "../mm/page-struct.ts";
import { EXIT_REQUESTED, FLUSH_CONTROL, FLUSH_DATA } from "../trace.ts";
import { isMappedIn } from "./asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE } from "./asi-state.ts";
import { Asi } from "./asi-struct.ts";
import { asiEnter, asiExit, asiRelax } from "./asi-transition.ts";
import { type KunitCase, type KunitContext, withTestDomain } from "./kunit.ts";

/** v1's hook after an enter and the one before an exit are v2's data flush and control flush: once per transition, not on a repeated one. */
function testAsiHooks({ expect, flushes }: KunitContext): void {
  withTestDomain((domain) => {
    const during = (act: () => void): readonly [data: number, control: number] => {
      const [data, control] = [flushes(FLUSH_DATA), flushes(FLUSH_CONTROL)];
      act();
      return [flushes(FLUSH_DATA) - data, flushes(FLUSH_CONTROL) - control];
    };
    const expectHooks = (act: () => void, data: number, control: number, when: string): void => {
      const [dataFlushes, controlFlushes] = during(act);
      expect(
        dataFlushes === data && controlFlushes === control,
        `${when}: ${dataFlushes} after an enter, ${controlFlushes} before an exit`,
      );
    };
    const enter = (): void => {
      asiEnter(domain);
      asiRelax();
    };
    expectHooks(enter, 1, 0, "enter");
    expectHooks(enter, 0, 0, "enter again");
    expectHooks(() => asiExit(EXIT_REQUESTED), 0, 1, "exit");
    expectHooks(() => asiExit(EXIT_REQUESTED), 0, 0, "exit again");
    expectHooks(enter, 1, 0, "enter after the exit");
  });
}

/** Blocks of several orders: every page of one is as the block was asked for. */
function testAllocSensitiveNonsensitive({ expect }: KunitContext): void {
  const restricted = Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd;
  const unrestricted = Mm.at(initMm).pgd;
  for (const order of [0, 1, 3]) {
    for (const [gfp, isSensitive] of [
      [GFP_HIGHUSER_MOVABLE, true],
      [GFP_KERNEL, false],
    ] as const) {
      const block = allocPages(gfp, order);
      assert(block !== NULL, () => "no memory for the test's block");
      for (let i = 0; i < 1 << order; i++) {
        const page = addVirt(pageAddress(block), i * PAGE_SIZE);
        const what = `page ${i} of a ${isSensitive ? "sensitive" : "nonsensitive"} block of order ${order}`;
        expect(isMappedIn(unrestricted, page), `${what}: in the direct map`);
        expect(isMappedIn(restricted, page) !== isSensitive, `${what}: in the restricted direct map or not`);
      }
      freePages(block, order);
    }
  }
}

export const kunitBranchCases: readonly KunitCase[] = [
  { name: "test_asi_hooks", run: testAsiHooks },
  { name: "test_alloc_sensitive_nonsensitive", run: testAllocSensitiveNonsensitive },
];
