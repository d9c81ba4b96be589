// The structures of the detailed gear, seen from outside: what an access leaves where, under whose label, and what each operation
// removes. Attacks on them are in detailed-attacks.test.ts.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Assembler,
  assemble,
  assembler,
  eax,
  mem,
  memIndexed,
  qword,
  r8,
  r9,
  r10,
  r10d,
  r11,
  r12d,
  rax,
  rcx,
  rdx,
} from "../assembler/index.ts";
import { skx } from "../hardware/models/skx.ts";
import { BareMachine } from "./bare.ts";
import { CPU_CYCLES, CPU_REGS, CPU_RETIRED, CPU_RIP, EXIT_BUDGET, EXIT_TRAP } from "./core/layout.gen.ts";
import { Core, type CoreGear } from "./core.ts";
import { DetailedStructures, detailedExports } from "./detailed.ts";
import type { DetailedModel } from "./detailed-model.ts";
import { detailedModelOf } from "./detailed-model-of.ts";
import { FLAT_PHYSICAL_BYTES } from "./flat.ts";
import { GearedCore } from "./geared-core.ts";
import { AttackBench, CODE, DATA } from "./testing-detailed.ts";

const model = detailedModelOf(skx);
const LINE = 64;
const USER = 1;
const USER_LABEL = 0x2007;
const VICTIM_LABEL = 0xa003;
const R8 = 8;
const MEBIBYTE = 2 ** 20;
const BARE_CODE = 0x100000;
const BARE_DATA = 0x200000;
const BARE_STACK = 0x1f0000;

function load(bench: AttackBench, ...addresses: number[]): void {
  bench.run((a) => addresses.reduce((program, address) => program.mov(r8, address).mov(rax, mem(r8)), a).lfence());
}

/** Cycles that a load of `va` takes. */
function timeOf(bench: AttackBench, va: number): number {
  bench.run((a) => a.mov(r9, va).mfence().rdtscp().mov(r8, rax).mov(rcx, mem(r9)).rdtscp().sub(rax, r8).mov(r8, rax));
  return bench.flat.registers[2 * R8] ?? 0;
}

test("a load fills L1D and L2, not the victim cache L3; CLFLUSH empties all", () => {
  const bench = new AttackBench(model);
  const { structures } = bench;
  load(bench, DATA);
  assert.deepEqual(
    (["l1d", "l2", "l3"] as const).map((cache) => structures.holds(cache, 0, DATA)),
    [true, true, false],
  );
  bench.run((a) => a.mov(r8, DATA).clflush(mem(r8)));
  assert.deepEqual(
    (["l1d", "l2", "l3"] as const).map((cache) => structures.holds(cache, 0, DATA)),
    [false, false, false],
  );
});

test("each level answers in its own time", () => {
  const bench = new AttackBench(model);
  load(bench, DATA + 0x80);
  const l1 = timeOf(bench, DATA + 0x80);
  bench.exports.flushL1d();
  const l2 = timeOf(bench, DATA + 0x80);
  bench.run((a) =>
    a
      .mov(r8, DATA + 0x80)
      .clflush(mem(r8))
      .mfence(),
  );
  const memory = timeOf(bench, DATA + 0x80);
  assert.ok(l1 < l2 && l2 < memory, `${l1} ${l2} ${memory}`);
  assert.ok(Math.abs(l2 - l1 - (model.l2.latency - model.l1d.latency)) <= 2, `L2 ${l2}, L1D ${l1}`);
  assert.ok(Math.abs(memory - l1 - (model.memoryLatency - model.l1d.latency)) <= 2, `memory ${memory}, L1D ${l1}`);
});

test("a set keeps the lines used last: as many as it has ways", () => {
  const bench = new AttackBench(model);
  const stride = model.l1d.sets * LINE;
  const lines = Array.from({ length: model.l1d.ways }, (_, n) => DATA + 0x7c0 + n * stride);
  const extra = DATA + 0x7c0 + model.l1d.ways * stride;
  load(bench, ...lines, lines[0] ?? 0, extra);
  const held = [...lines, extra].map((address) => bench.structures.holds("l1d", 0, address));
  // The first was used again, so the second is the oldest.
  assert.deepEqual(held, [true, false, ...lines.slice(2).map(() => true), true]);
});

test("a dirty line is written back: L1D to L2, L2 to L3", () => {
  const bench = new AttackBench(model);
  const { structures } = bench;
  const isDirty = (cache: "l1d" | "l2"): boolean =>
    [...structures.lines(cache, 0)].some((line) => line.address === DATA + 0x100 && line.dirty);
  bench.run((a) =>
    a
      .mov(r8, DATA + 0x100)
      .mov(qword(mem(r8)), 1)
      .lfence(),
  );
  assert.deepEqual([isDirty("l1d"), isDirty("l2")], [true, false]);
  bench.exports.flushL1d();
  assert.deepEqual([isDirty("l1d"), isDirty("l2")], [false, true]);
});

test("an inclusive L3 takes a line from the cores when it loses it", () => {
  const small: DetailedModel = { ...model, l3: { sets: 1, ways: 2, latency: 60, inclusive: true } };
  const bench = new AttackBench(small);
  load(bench, DATA, DATA + 0x1040, DATA + 0x2080);
  assert.equal(bench.structures.holds("l1d", 0, DATA), false);
  assert.ok([...bench.structures.lines("l1d", 0)].length <= 2);
});

test("WBINVD empties every cache, the L1D flush command L1D alone", () => {
  const bench = new AttackBench(model);
  load(bench, DATA);
  bench.exports.flushL1d();
  assert.equal([...bench.structures.lines("l1d", 0)].length, 0);
  assert.ok(bench.structures.holds("l2", 0, DATA));
  bench.exports.writeBackInvalidate();
  for (const cache of ["l1d", "l1i", "l2", "l3"] as const) assert.equal([...bench.structures.lines(cache, 0)].length, 0, cache);
});

test("lines, fill buffers and the store buffer carry the label of the frame; a frame that changes hands takes its lines along", () => {
  const bench = new AttackBench(model);
  const { structures } = bench;
  const ownerIn = (cache: "l1d" | "l2"): number | undefined => [...structures.lines(cache, 0)].find((line) => line.address === DATA)?.owner;
  structures.setFrameOwner(DATA / 4096, VICTIM_LABEL);
  bench.run((a) =>
    a
      .mov(r8, DATA)
      .mov(rax, mem(r8))
      .mov(qword(mem(r8, 8)), 1)
      .lfence(),
  );
  assert.deepEqual([ownerIn("l1d"), ownerIn("l2")], [VICTIM_LABEL, VICTIM_LABEL]);
  assert.ok([...structures.fillBuffers(0)].some((line) => line.address === DATA && line.owner === VICTIM_LABEL));
  assert.ok([...structures.storeBuffer(0)].some((store) => store.address === DATA + 8 && store.owner === VICTIM_LABEL));
  structures.setFrameOwner(DATA / 4096, 0);
  assert.deepEqual([ownerIn("l1d"), ownerIn("l2")], [0, 0]);
  // A fill buffer keeps the data it brought, hence the label.
  assert.ok([...structures.fillBuffers(0)].some((line) => line.address === DATA && line.owner === VICTIM_LABEL));
});

test("VERW with MD_CLEAR empties fill buffers and store buffer", () => {
  const bench = new AttackBench(model);
  load(bench, DATA);
  bench.exports.clearBuffers();
  assert.equal([...bench.structures.fillBuffers(0)].length, 0);
  assert.equal([...bench.structures.storeBuffer(0)].length, 0);
});

function callsAndReturns(a: Assembler): Assembler {
  a.mov(r12d, 8).mov(r10, "leaf");
  a.label("again").call(r10).dec(r12d).jne("again").jmp("end");
  return a.label("leaf").ret().label("end").nop();
}

test("indirect targets and return addresses are labelled with who trained them, in which mode; so is the history", () => {
  const bench = new AttackBench(model);
  const { structures } = bench;
  structures.setContextLabel(0, USER, USER_LABEL);
  bench.run(callsAndReturns);
  const inCode = [...structures.targets(0)].filter((entry) => entry.target >= CODE && entry.target < CODE + 0x1000);
  assert.ok(inCode.length > 0);
  assert.ok(inCode.every((entry) => entry.trainer === USER_LABEL && entry.mode === USER));
  const returns = [...structures.returnStack(0)];
  assert.ok(returns.some((entry) => entry.trainer === USER_LABEL && entry.mode === USER));
  const { trainers } = structures.history(0);
  assert.equal(trainers[0]?.trainer, USER_LABEL);
  const branches = trainers.reduce((sum, trainer) => sum + trainer.branches, 0);
  assert.ok(branches <= model.historyLength, `${branches} of ${model.historyLength}`);
});

test("IBPB removes indirect targets and, where the model says so, return addresses", () => {
  const bench = new AttackBench(model);
  bench.run(callsAndReturns);
  bench.exports.indirectBranchPredictorBarrier();
  assert.equal([...bench.structures.targets(0)].length, 0);
  assert.equal([...bench.structures.returnStack(0)].length, 0);
  const keeps = new AttackBench({ ...model, ibpbClearsReturns: false });
  keeps.run(callsAndReturns);
  keeps.exports.indirectBranchPredictorBarrier();
  assert.equal([...keeps.structures.targets(0)].length, 0);
  assert.ok([...keeps.structures.returnStack(0)].length > 0);
});

test("a loop is predicted after it was seen, also by its history", () => {
  const bench = new AttackBench(model);
  const before = bench.structures.counters();
  // 400 rounds of an inner loop of 5: without history one in five exits would be mispredicted.
  bench.run((a) => {
    a.mov(r10d, 400).label("outer").mov(r12d, 5).label("inner").dec(r12d).jne("inner").dec(r10d);
    return a.jne("outer");
  });
  const after = bench.structures.counters();
  assert.ok(after.branches - before.branches >= 2400);
  assert.ok(after.mispredicted - before.mispredicted < 120, `${after.mispredicted - before.mispredicted} mispredicted`);
});

test("independent loads overlap, dependent ones do not", () => {
  const bench = new AttackBench(model);
  const cycles = (write: (a: Assembler) => Assembler): number => {
    bench.run((a) => {
      a.mov(r8, DATA + 0x1000)
        .clflush(mem(r8))
        .clflush(mem(r8, 64))
        .clflush(mem(r8, 128))
        .clflush(mem(r8, 192))
        .mfence();
      a.rdtscp().mov(r9, rax);
      return write(a).rdtscp().sub(rax, r9).mov(r8, rax);
    });
    return bench.flat.registers[2 * R8] ?? 0;
  };
  const overlapping = cycles((a) => a.mov(r10, mem(r8)).mov(r11, mem(r8, 64)).mov(rcx, mem(r8, 128)).mov(rdx, mem(r8, 192)));
  const chained = cycles((a) => {
    for (const at of [0, 64, 128, 192]) a.mov(r10, mem(r8, at)).and(r10, 0).add(r8, r10);
    return a;
  });
  assert.ok(overlapping < 1.2 * model.memoryLatency, `${overlapping} cycles`);
  assert.ok(chained > 3.8 * model.memoryLatency, `${chained} cycles`);
});

test("RDTSC does not wait for an older load, RDTSCP does", () => {
  const bench = new AttackBench(model);
  const measured = (readTime: (a: Assembler) => Assembler): number => {
    bench.run((a) => {
      a.mov(r9, DATA + 0x2000)
        .clflush(mem(r9))
        .mfence()
        .rdtscp()
        .mov(r8, rax)
        .mov(r10, mem(r9));
      return readTime(a).sub(rax, r8).mov(r8, rax);
    });
    return bench.flat.registers[2 * R8] ?? 0;
  };
  assert.ok(measured((a) => a.rdtsc()) < 50);
  assert.ok(measured((a) => a.rdtscp()) > model.memoryLatency);
  assert.ok(measured((a) => a.lfence().rdtsc()) > model.memoryLatency);
});

test("an access of the kernel's own fills lines and takes time", () => {
  const bench = new AttackBench(model);
  bench.run((a) =>
    a
      .mov(r8, DATA + 0x3000)
      .clflush(mem(r8))
      .mfence(),
  );
  bench.core.functions.load32(DATA + 0x3000);
  assert.ok(bench.structures.holds("l1d", 0, DATA + 0x3000));
});

test("touching a range leaves its footprint", () => {
  const bench = new AttackBench(model);
  bench.exports.writeBackInvalidate();
  bench.exports.touchPhysical(DATA + 0x10, 4 * LINE, 0);
  const lines = [...bench.structures.lines("l1d", 0)].map((line) => line.address).sort((a, b) => a - b);
  assert.deepEqual(
    lines,
    [0, 1, 2, 3, 4].map((n) => DATA + n * LINE),
  );
});

test("two runs of the same program take the same cycles", () => {
  const cycles = [0, 1].map(() => {
    const bench = new AttackBench(model);
    bench.run(callsAndReturns);
    bench.flushProbe();
    return [...bench.times()];
  });
  assert.deepEqual(cycles[0], cycles[1]);
});

/** Runs `write` at CPL 0 in slices of `budget` cycles; RAX, retired instructions and cycles after it. */
function inSlices(budget: number, gear: CoreGear, write: (a: Assembler) => Assembler): readonly number[] {
  const core = new GearedCore(skx, 4 * MEBIBYTE, 1, gear).core;
  const machine = new BareMachine(core);
  const program = assemble(write(assembler()).trap("end").program(), { origin: BARE_CODE });
  machine.load(BARE_CODE, program.bytes);
  for (const address of program.traps.keys()) core.functions.registerTrap(address);
  core.fields.setWord(CPU_RIP, BARE_CODE);
  machine.setRegister(4, BARE_STACK);
  let exit: number = EXIT_BUDGET;
  while (exit === EXIT_BUDGET) exit = core.functions.run(budget);
  assert.equal(exit, EXIT_TRAP);
  return [core.fields.word(CPU_REGS), core.fields.word(CPU_RETIRED), core.fields.word(CPU_CYCLES)];
}

/** Branches that depend on data, calls, loads with and without reuse, stores. */
function workload(a: Assembler): Assembler {
  a.mov(r12d, 3000).mov(r10, BARE_DATA).xor(eax, eax).mov(r9, 12345);
  a.label("next").imul(r9, r9, 1103515245).add(r9, 12345).mov(rcx, r9).shr(rcx, 16).and(rcx, 0xfff8);
  a.add(rax, memIndexed(r10, rcx, 1))
    .mov(memIndexed(r10, rcx, 1), rax)
    .test(r9, 0x40000)
    .je("even")
    .call("odd");
  a.label("even").dec(r12d).jne("next").jmp("end").align(16).label("odd").xor(rax, r9).ret();
  return a.label("end");
}

test("slices change nothing: not the results, not the cycles", () => {
  const whole = inSlices(1_000_000_000, "detailed", workload);
  assert.deepEqual(inSlices(977, "detailed", workload), whole);
  assert.deepEqual(inSlices(1, "detailed", workload), whole);
});

test("both gears compute the same", () => {
  const [rax0, retired0] = inSlices(1_000_000_000, "architectural", workload);
  const [rax1, retired1] = inSlices(1_000_000_000, "detailed", workload);
  assert.deepEqual([rax1, retired1], [rax0, retired0]);
});

/** Two logical CPUs at reset, paging off, supervisor: physical addresses are what the host's accesses name. */
function twoCpus(threadsPerCore: number): { core: Core; structures: DetailedStructures } {
  const core = new Core({ physicalBytes: FLAT_PHYSICAL_BYTES, cpus: 2, gear: "detailed" });
  const exports = detailedExports(core.functions);
  const structures = new DetailedStructures(core.view.buffer, exports, 2, { ...model, threadsPerCore }, (cpu) => core.blockOf(cpu));
  exports.selectCore(0);
  return { core, structures };
}

test("cores have their own L1D, and a store takes the line from the others; threads of one core share it", () => {
  const { core, structures } = twoCpus(1);
  core.functions.load32(DATA);
  core.functions.selectCpu(1);
  assert.deepEqual([structures.holds("l1d", 0, DATA), structures.holds("l1d", 1, DATA)], [true, false]);
  core.functions.load32(DATA);
  assert.deepEqual([structures.holds("l1d", 0, DATA), structures.holds("l1d", 1, DATA)], [true, true]);
  core.functions.store32(DATA, 1);
  assert.deepEqual([structures.holds("l1d", 0, DATA), structures.holds("l1d", 1, DATA)], [false, true]);
  const siblings = twoCpus(2);
  assert.equal(siblings.structures.cores, 1);
  siblings.core.functions.load32(DATA);
  siblings.core.functions.selectCpu(1);
  const before = siblings.structures.counters().l1dMisses;
  siblings.core.functions.load32(DATA);
  assert.equal(siblings.structures.counters().l1dMisses, before);
});
