// S9: every allocation of the user side of memory management is made to fail, one after the other: what was begun is undone, nothing is
// leaked, and the same call succeeds afterwards.
import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import { type Errno, isErr, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import { addVirt, NULL, type VirtAddr } from "../../hardware/index.ts";
import { dupMm } from "./dup-mm.ts";
import { FAIL_NEVER, failAlloc } from "./fail-alloc.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { Mm, type MmPtr, VmArea } from "./mm-struct.ts";
import { doBrk, doMmap, doMunmap } from "./mmap.ts";
import { doMprotect } from "./mprotect.ts";
import { asiAsyncFreeWork, nrFreePages } from "./page-alloc.ts";
import { getUserPage, handleMmFault, putUserPage } from "./user-memory.ts";

const RW = PROT_READ | PROT_WRITE;
const PAGE = 4096;
const BASE = 0x10000000 as VirtAddr;

function page(i: number): VirtAddr {
  return addVirt(BASE, i * PAGE);
}

/** An mm with six pages of memory, of which the first four were touched, a shared area and a heap. */
function somebody(): MmPtr {
  const mm = mmAlloc();
  assert.notEqual(mm, NULL);
  doMmap(mm, BASE, 6 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0);
  for (let i = 0; i < 4; i++) assert.equal(handleMmFault(mm, page(i), "write"), 0);
  doMmap(mm, page(16), PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, NULL, 0);
  Mm.at(mm).startBrk = page(32);
  Mm.at(mm).brk = page(32);
  return mm;
}

function areas(mm: MmPtr): string {
  const parts: string[] = [];
  for (let vma = Mm.at(mm).mmap; vma !== NULL; vma = VmArea.at(vma).next) {
    const { start, end, flags } = VmArea.at(vma);
    parts.push(`${(start - BASE) / PAGE}..${(end - BASE) / PAGE}:${flags & 15}`);
  }
  return parts.join(" ");
}

interface Call {
  readonly name: string;
  readonly run: (mm: MmPtr) => number;
  /** Whether the result is that of a failure; by default an error number. */
  readonly hasFailed?: (result: number, mm: MmPtr) => boolean;
  /** What the areas may be after a failure: by default what they were. */
  readonly isDivided?: boolean;
}

function put(frame: number | Errno): number {
  if (!isErr(frame)) putUserPage(frame as Parameters<typeof putUserPage>[0]);
  return frame;
}

const CALLS: readonly Call[] = [
  { name: "mmap of private memory", run: (mm) => doMmap(mm, page(40), PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0) },
  { name: "mmap of shared memory", run: (mm) => doMmap(mm, page(40), 3 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, NULL, 0) },
  {
    name: "mmap over the middle of an area",
    run: (mm) => doMmap(mm, page(2), PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0),
    isDivided: true,
  },
  { name: "munmap in the middle of an area", run: (mm) => doMunmap(mm, page(2), PAGE), isDivided: true },
  { name: "mprotect in the middle of an area", run: (mm) => doMprotect(mm, page(1), PAGE, PROT_NONE), isDivided: true },
  { name: "brk", run: (mm) => doBrk(mm, page(34)), hasFailed: (result) => result === page(32) },
  { name: "a write to untouched memory", run: (mm) => handleMmFault(mm, page(5), "write") },
  { name: "a first write to shared memory", run: (mm) => handleMmFault(mm, page(16), "write") },
  { name: "a read where there are no tables", run: (mm) => put(getUserPage(mm, far(mm), false)), isDivided: true },
  { name: "a copy on write", run: copyOnWrite },
];

function far(mm: MmPtr): VirtAddr {
  const address = 0x5000_0000_0000 as VirtAddr;
  const mapped = doMmap(mm, address, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0);
  return isErr(mapped) ? BASE : mapped;
}

/** The child writes first. */
function copyOnWrite(mm: MmPtr): number {
  const child = dupMm(mm);
  if (isErr(child)) return child;
  const error = handleMmFault(child, page(1), "write");
  mmput(child);
  return error;
}

for (const asi of [false, true]) {
  for (const pti of asi ? [false] : [false, true]) {
    test(`each allocation of ${CALLS.length} calls fails once: undone, nothing leaked, and the next call succeeds (ASI ${asi}, PTI ${pti})`, () => {
      withMm(
        () => {
          const warm = somebody();
          for (const { run } of CALLS) run(warm);
          mmput(warm);
          asiAsyncFreeWork();
          const before = nrFreePages();
          for (const call of CALLS) everyFailure(call, before);
        },
        { asi, pti },
      );
    });
  }
}

/** Allocations that the call makes when none fails. */
function attemptsOf({ run }: Call): number {
  const mm = somebody();
  failAlloc.arm(FAIL_NEVER);
  run(mm);
  failAlloc.disarm();
  const attempts = failAlloc.attempts();
  mmput(mm);
  return attempts;
}

function everyFailure(call: Call, before: number): void {
  const { name, run, hasFailed = isErr, isDivided = false } = call;
  const attempts = attemptsOf(call);
  assert.ok(attempts > 0, name);
  for (let nth = 1; nth <= attempts; nth++) {
    const mm = somebody();
    const was = areas(mm);
    failAlloc.arm(nth);
    const result = run(mm);
    failAlloc.disarm();
    const what = `${name}: allocation ${nth} of ${attempts}`;
    // What failed need not have been needed: a table is mapped in the restricted tables only as far as that succeeds.
    if (hasFailed(result, mm)) {
      if (!isDivided) assert.equal(areas(mm), was, what);
      assert.equal(hasFailed(run(mm), mm), false, `${what}: again`);
    }
    mmput(mm);
    asiAsyncFreeWork();
    assert.equal(nrFreePages(), before, what);
  }
}
