// Two threads of a core on the abstract machine, in turns of any length: which one goes on, where the other stops and what comes in between
// is drawn from a seed at every step. Option core_sched keeps S1 to S10 there, what it guards against does happen without it, and everybody
// gets on.
import assert from "node:assert/strict";
import { test } from "node:test";
import { CLONE_FILES, CLONE_FS, CLONE_SIGHAND, CLONE_THREAD, CLONE_VM, SYS } from "../../abi/index.ts";
import {
  cpu,
  fail,
  findCpuModel,
  isSensitiveOwner,
  PAGE_SIZE,
  type PhysAddr,
  PUPPET_STATE,
  type Puppet,
  silentObserver,
  type VirtAddr,
} from "../../hardware/index.ts";
import { coreStuns, coreWaits } from "../../kernel/asi/siblings.ts";
import {
  buildKernelImage,
  IRQ_WORK_VECTOR,
  PAGE_OFFSET,
  type Preset,
  staticBytes,
  TRACE_BOOT_DONE,
  TRACE_VM_ENTRY,
  TRACE_WARN,
} from "../../kernel/index.ts";
import { hltExit, type ResidueCpu, ResidueMachine, vmcallExit } from "../../residue/index.ts";
import { PropertyViolation } from "../properties/index.ts";
import { Random } from "../random.ts";
import { bystanderPuppet, checkedObserver, monitorPuppet, ResidueCheck } from "./index.ts";

const BASE = "asi=on kvm-intel.vmentry_l1d_flush=never";
const ON = `${BASE} cordon.core_sched=on`;
const THREAD = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
const BOOT_TURNS = 20_000;
/** What handlers of injected interrupts read, or 0. */
const HANDLER_SECRET = staticBytes("siblings_handler_secret", 8, 8);

/** In the state page. */
const MASK = 0x100;

/** Two threads of one process, which touch their memory and give the CPU away. */
const threadsPuppet: Puppet = ({ state }) => {
  const at = state.getUint32(0);
  state.setUint32(0, at + 1);
  if (at === 0) return { kind: "syscall", number: SYS.clone, args: [THREAD, 0, 0, 0, 0] };
  if (at === 1) {
    // Whichever of them comes first here moves to the other CPU.
    state.setUint8(MASK, 1 << 1);
    return { kind: "syscall", number: SYS.sched_setaffinity, args: [0, 8, PUPPET_STATE + MASK] };
  }
  if (at % 3 !== 0) return { kind: "touch", address: PUPPET_STATE, count: 4 };
  return { kind: "syscall", number: SYS.sched_yield, args: [] };
};

const PROCESSES = [
  { name: "monitor", puppet: "monitor", cpu: 0 },
  { name: "other monitor", puppet: "monitor", cpu: 1 },
  { name: "threads", puppet: "threads", cpu: 0 },
  { name: "bystander", puppet: "bystander", cpu: 1 },
];

interface Run {
  readonly violation: PropertyViolation | undefined;
  readonly occurred: ReadonlyMap<string, number>;
  readonly stuns: number;
  readonly waits: number;
  /** Entries to user code, by process name's place, and of guests. */
  readonly users: ReadonlyMap<number, number>;
  readonly guests: number;
}

interface Options {
  readonly commandLine: string;
  readonly preset?: Preset;
  readonly model?: string;
  readonly turns: number;
  /** A path is suspended before one of so many of its steps; 10 when left out. */
  readonly suspendsOneOf?: number;
  /** Only the process with two threads. */
  readonly hasThreadsOnly?: boolean;
}

function run(
  seed: number,
  { commandLine, preset = "cordon", model = "skx", turns, hasThreadsOnly = false, suspendsOneOf = 10 }: Options,
): Run {
  const random = new Random(seed);
  const chance = (oneOf: number): boolean => random.next() % oneOf === 0;
  let isBooted = false;
  let guests = 0;
  const users = new Map<number, number>();
  const touch = (): void => {
    // What the handler does is decided by memory, so that it does the same when it is run again.
    const at = cpu.loadWord(HANDLER_SECRET);
    if (at !== 0) cpu.load(at as VirtAddr, 4); // a direct map address
  };
  const image = buildKernelImage({
    preset,
    processes: hasThreadsOnly ? [{ name: "threads", puppet: "threads" }] : PROCESSES,
    puppets: new Map([
      ["monitor", monitorPuppet],
      ["threads", threadsPuppet],
      ["bystander", bystanderPuppet],
    ]),
    hooks: { nmi: touch, irqWork: touch },
  });
  const observer = checkedObserver({
    ...silentObserver,
    trace: (event, a) => {
      if (event === TRACE_BOOT_DONE) isBooted = true;
      if (event === TRACE_VM_ENTRY) guests++;
      if (event === TRACE_WARN) fail(`the kernel warned: ${a}`);
    },
  });
  const machine = new ResidueMachine({
    model: findCpuModel(model) ?? fail("no such CPU model"),
    memoryBytes: 64 * 2 ** 20,
    cpus: 2,
    threadsPerCore: 2,
    image,
    commandLine,
    observer,
  });
  machine.guest = () => (chance(3) ? undefined : chance(2) ? hltExit() : vmcallExit(1));
  const check = new ResidueCheck(machine, observer);
  check.onEntry = (on, kind) => {
    if (kind === "user") users.set(on.userLabel, (users.get(on.userLabel) ?? 0) + 1);
  };
  let violation: PropertyViolation | undefined;
  const sum = (variable: { readonly offset: number }): number =>
    machine.cpus.reduce((total, { perCpuBase }) => total + check.checker.view.u32(perCpuBase + variable.offset), 0);
  try {
    machine.run(() => isBooted, BOOT_TURNS);
    assert.ok(isBooted);
    check.onStep = (on: ResidueCpu) => {
      if (chance(suspendsOneOf)) on.suspendAtNextStep();
      if (chance(300)) {
        const secret = chance(2) ? secretPage(machine) : 0;
        machine.memory.writeWord(check.checker.view.physical(HANDLER_SECRET) as PhysAddr, secret);
        if (chance(2)) on.raiseNmi();
        else on.raise(IRQ_WORK_VECTOR);
      } else if (chance(900)) on.skipToTimer();
    };
    for (let turn = 0; turn < turns; turn++) {
      const first = random.next() % 2;
      const able = [first, 1 - first].find((id) => machine.cpu(id).canRun);
      if (able === undefined) machine.run(() => true);
      else machine.turn(able);
    }
    check.onStep = undefined;
    check.checker.auditMappings(check.truthOf(0));
  } catch (error) {
    if (!(error instanceof PropertyViolation)) throw error;
    violation = error;
  }
  return { violation, occurred: check.checker.occurred, stuns: sum(coreStuns), waits: sum(coreWaits), users, guests };
}

function secretPage(machine: ResidueMachine): number {
  const { memory } = machine;
  for (let pfn = memory.size / PAGE_SIZE - 1; pfn > 0; pfn--)
    if (isSensitiveOwner(memory.frameOwner(pfn))) return PAGE_OFFSET + pfn * PAGE_SIZE;
  return fail("no frame is sensitive");
}

const IN_KERNEL = "S2: a CPU was in the kernel while its sibling ran code in a domain";
const TOGETHER = "S2: siblings ran code of one domain at the same time";

for (const [seed, preset, model] of [
  [13, "cordon", "skx"],
  [2, "cordon", "clx"],
] as const) {
  test(`with core_sched siblings keep S1 to S10, and all get on (preset ${preset}, ${model}, seed ${seed})`, () => {
    const { violation, stuns, waits, users, guests, occurred } = run(seed, { commandLine: ON, preset, model, turns: 20_000 });
    assert.equal(violation?.message, undefined);
    assert.ok(stuns > 10, `stopped ${stuns} times`);
    assert.ok(waits > 50, `waited ${waits} times`);
    assert.ok(guests > 10, `${guests} guests`);
    assert.ok(users.size === 4 && [...users.values()].every((count) => count > 30), [...users].join("; "));
    assert.ok((occurred.get(IN_KERNEL) ?? 0) > 100);
  });
}

test("two threads of one process run beside one another, which no domain forbids", () => {
  const { violation, occurred } = run(1, { commandLine: ON, turns: 6000, hasThreadsOnly: true });
  assert.equal(violation?.message, undefined);
  assert.ok((occurred.get(TOGETHER) ?? 0) > 10, `${occurred.get(TOGETHER)}`);
});

test("without core_sched siblings see what is protected from them: training, and with STIBP everywhere still data", () => {
  assert.match(run(2, { commandLine: BASE, turns: 4000 }).violation?.message ?? "", /^S1 .*branch target buffer|^S2 /);
  const found = [1, 2, 3, 4, 5, 6, 7, 8].map(
    (seed) => run(seed, { commandLine: `${BASE} spectre_v2_user=on`, turns: 4000, suspendsOneOf: 200 }).violation?.message ?? "",
  );
  for (const message of found) assert.match(message, /^S2 /);
  // Not only what is there at an entry: what comes in while the code runs. Long turns let an entry follow its flush undisturbed.
  assert.ok(
    found.some((message) => message.includes("while its sibling brings in data")),
    found.join("\n"),
  );
});
