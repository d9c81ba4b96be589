// KVM from the file /dev/kvm to the guest and back, on the abstract machine: a monitor process runs a guest whose exits are a script.
import { deepEqual, equal, match } from "node:assert/strict";
import { test } from "node:test";
import {
  EPT_VIOLATION_ACC_READ,
  EPT_VIOLATION_ACC_WRITE,
  EXIT_REASON,
  fail,
  findCpuModel,
  isSensitiveOwner,
  type Observer,
  VMCS,
} from "../../hardware/index.ts";
import {
  eptViolationExit,
  externalInterruptExit,
  type GuestExit,
  hltExit,
  nmiExit,
  outExit,
  ResidueMachine,
  scriptedGuest,
  vmcallExit,
} from "../../residue/index.ts";
import { encodeVmmArguments, VMM_PUPPET, type VmmEnding, vmmPuppet } from "../../vmm/index.ts";
import { buildKernelImage, type Preset } from "../boot/kernel-image.ts";
import { LOCAL_TIMER_VECTOR } from "../entry/vectors.ts";
import {
  EXIT_PAGE_FAULT,
  EXIT_VCPU_RUN,
  FLUSH_CONTROL,
  FLUSH_DATA,
  TRACE_ASI_ENTER,
  TRACE_ASI_ENTER_NOOP,
  TRACE_ASI_EXIT,
  TRACE_FLUSH,
  TRACE_NMI,
  TRACE_PROCESS_EXIT,
  TRACE_VM_ENTRY,
  TRACE_VM_EXIT,
  TRACE_WARN,
} from "../trace.ts";

/** A guest image of one page: what its bytes are, the abstract machine never looks at. */
const IMAGE = {
  entry: 0x100000,
  segments: [{ address: 0x100000, bytes: new Uint8Array(64).fill(0xf4), memoryBytes: 4096 }],
  symbols: new Map<string, number>(),
};
const GUEST_BYTES = 2 * 2 ** 20;

/** Exit port of the monitor; the status is AL. */
const EXIT_PORT = 0xf4;
const COM1 = 0x3f8;

interface Run {
  readonly endings: readonly VmmEnding[];
  readonly output: string;
  /** Kernel trace. */
  readonly events: readonly (readonly number[])[];
  readonly log: readonly string[];
}

interface RunOptions {
  readonly commandLine?: string;
  readonly preset?: Preset;
  /** Monitors, all on CPU 0; their guests take their exits from the one script in turn. */
  readonly monitors?: number;
  readonly beforeStep?: (machine: ResidueMachine, events: readonly (readonly number[])[]) => void;
  /** Called before each VM entry, with the state that the guest would find. */
  readonly beforeEntry?: (machine: ResidueMachine) => void;
}

/** OUT to the exit port with whatever RAX holds: the status is the result of the hypercall before. */
const exitWithRax: GuestExit = { reason: EXIT_REASON.IO_INSTRUCTION, qualification: (1 << 6) | (EXIT_PORT << 16), instructionLength: 2 };

function run(exits: readonly GuestExit[], options: RunOptions = {}): Run {
  const endings: VmmEnding[] = [];
  const events: number[][] = [];
  const log: string[] = [];
  const observer: Observer = {
    trace: (event, a, b, c) => {
      events.push([event, a, b, c]);
    },
    frameOwner: () => undefined,
    context: () => undefined,
    print: (text) => {
      log.push(text);
    },
  };
  const monitors = options.monitors ?? 1;
  const args = encodeVmmArguments({ image: IMAGE, memoryBytes: GUEST_BYTES, commandLine: "" });
  const image = buildKernelImage({
    preset: options.preset ?? "cordon",
    processes: Array.from({ length: monitors }, () => ({ name: "vmm", puppet: VMM_PUPPET, args })),
    puppets: new Map([[VMM_PUPPET, vmmPuppet((ending) => endings.push(ending))]]),
  });
  let output = "";
  const machine = new ResidueMachine({
    model: findCpuModel("skx") ?? fail("no CPU model skx"),
    memoryBytes: 64 * 2 ** 20,
    cpus: 1,
    image,
    commandLine: options.commandLine ?? "asi=on",
    observer,
    console: (byte) => {
      output += String.fromCharCode(byte);
    },
  });
  machine.guest = scriptedGuest(exits);
  machine.cpu(0).setHook({
    beforeStep: () => {
      options.beforeStep?.(machine, events);
    },
    beforeEntry: (_cpu, kind) => {
      if (kind === "guest") options.beforeEntry?.(machine);
    },
  });
  machine.run(() => events.filter(([event]) => event === TRACE_PROCESS_EXIT).length === monitors, 1_000_000);
  return { endings, output, events, log };
}

function count(result: Run, event: number): number {
  return result.events.filter(([number]) => number === event).length;
}

/** Transitions and flushes, as text. */
function transitions(result: Run): readonly string[] {
  const names = new Map([
    [TRACE_ASI_ENTER, () => "enter"],
    [TRACE_ASI_ENTER_NOOP, () => "enter (there already)"],
    [
      TRACE_ASI_EXIT,
      (reason: number) => (reason === EXIT_VCPU_RUN ? "exit (end of KVM_RUN)" : `exit (${reason === EXIT_PAGE_FAULT ? "fault" : reason})`),
    ],
    [TRACE_FLUSH, (kind: number) => (kind === FLUSH_DATA ? "data flush" : kind === FLUSH_CONTROL ? "control flush" : "?")],
    [TRACE_VM_EXIT, (reason: number) => `VM exit ${reason}`],
  ]);
  return result.events.flatMap(([event, a]) => {
    const name = names.get(event ?? 0);
    return name === undefined ? [] : [name(a ?? 0)];
  });
}

test("a guest that halts with interrupts off ends the monitor with status 0", () => {
  const result = run([hltExit()]);
  deepEqual(result.endings, [{ kind: "halt", status: 0, reason: "" }]);
  equal(count(result, TRACE_WARN), 0);
});

test("bytes to COM1 and to port 0xe9 are the console's, a byte to port 0xf4 ends the run with that status", () => {
  const text = [..."Hi\n"].map((c) => outExit(COM1, c.charCodeAt(0)));
  const result = run([...text, outExit(0xe9, 0x21), outExit(EXIT_PORT, 42)]);
  equal(result.output, "Hi\n!");
  deepEqual(result.endings, [{ kind: "exit", status: 42, reason: "" }]);
});

test("a triple fault is reported as such", () => {
  deepEqual(run([{ reason: EXIT_REASON.TRIPLE_FAULT }]).endings, [{ kind: "triple fault", status: 0, reason: "" }]);
});

test("hypercalls: KVM_HC_VAPIC_POLL_IRQ gives 0, an unknown one -KVM_ENOSYS (-1000), in RAX", () => {
  equal(run([vmcallExit(1), exitWithRax]).endings[0]?.status, 0);
  equal(run([vmcallExit(0x77), exitWithRax]).endings[0]?.status, -1000 & 0xff);
});

test("the table lookup answers inside its bounds and refuses outside them", () => {
  equal(run([vmcallExit(0x100, 15, 0), exitWithRax]).endings[0]?.status, 0);
  equal(run([vmcallExit(0x100, 16, 0), exitWithRax]).endings[0]?.status, 0xff);
  equal(run([vmcallExit(0x100, -(2 ** 46), 0), exitWithRax]).endings[0]?.status, 0xff);
});

test("the first enter after an unrestricted stretch flushes data; hypercalls are handled restricted; the end of KVM_RUN exits (spec 2.12)", () => {
  const result = run([vmcallExit(1), vmcallExit(1), hltExit()]);
  deepEqual(transitions(result), [
    "data flush",
    "enter",
    "VM exit 18",
    "enter (there already)",
    "VM exit 18",
    "enter (there already)",
    "VM exit 12",
    "control flush",
    "exit (end of KVM_RUN)",
  ]);
});

test("an EPT violation is handled restricted: a fresh frame is zero already, so nobody touches it", () => {
  const result = run([eptViolationExit(0x180000, EPT_VIOLATION_ACC_READ), hltExit()]);
  deepEqual(transitions(result), [
    "data flush",
    "enter",
    "VM exit 48",
    "enter (there already)",
    "VM exit 12",
    "control flush",
    "exit (end of KVM_RUN)",
  ]);
  deepEqual(result.endings[0]?.kind, "halt");
});

test("an access outside guest memory is told to the monitor, which names it", () => {
  const result = run([eptViolationExit(0xfee00000, EPT_VIOLATION_ACC_WRITE)]);
  equal(result.endings[0]?.kind, "error");
  match(result.endings[0]?.reason ?? "", /guest-physical 0xfee00000/);
});

test("host interrupts and NMIs that cause exits are handled restricted", () => {
  const result = run([externalInterruptExit(LOCAL_TIMER_VECTOR), nmiExit(), hltExit()]);
  deepEqual(transitions(result), [
    "data flush",
    "enter",
    "VM exit 1",
    "enter (there already)",
    "VM exit 0",
    "enter (there already)",
    "VM exit 12",
    "control flush",
    "exit (end of KVM_RUN)",
  ]);
  equal(count(result, TRACE_NMI), 1);
  equal(count(result, TRACE_WARN), 0);
});

test("with asi=off there is no transition and no flush", () => {
  const result = run([vmcallExit(1), hltExit()], { commandLine: "asi=off" });
  deepEqual(transitions(result), ["VM exit 18", "VM exit 12"]);
  equal(result.endings[0]?.kind, "halt");
});

test("the preset rfc-v2 runs guests too", () => {
  equal(run([vmcallExit(1), hltExit()], { preset: "rfc-v2" }).endings[0]?.kind, "halt");
});

for (const [mode, flushes] of [
  ["never", 0],
  ["always", 4],
  ["cond", 1],
] as const) {
  // cond: the load of the vCPU owes one; the hypercalls touch nothing that would.
  test(`kvm-intel.vmentry_l1d_flush=${mode} flushes L1D at ${flushes} of 4 entries`, () => {
    let seen = 0;
    run([vmcallExit(1), vmcallExit(1), vmcallExit(1), hltExit()], {
      commandLine: `asi=off kvm-intel.vmentry_l1d_flush=${mode}`,
      beforeEntry: (machine) => {
        // The guest itself leaves sensitive data: so what is empty was just flushed.
        if (![...machine.cpu(0).labels.l1d].some(isSensitiveOwner)) seen++;
      },
    });
    equal(seen, flushes);
  });
}

test("two monitors share a CPU: the scheduler takes a vCPU off the CPU and puts it back", () => {
  const tick = externalInterruptExit(LOCAL_TIMER_VECTOR);
  const result = run([...Array.from({ length: 12 }, () => tick), hltExit(), hltExit()], { monitors: 2 });
  deepEqual(
    result.endings.map(({ kind }) => kind),
    ["halt", "halt"],
  );
  equal(count(result, TRACE_WARN), 0);
});

test("a KVM_RUN that is suspended before every one of its steps ends as one that is not (law 3)", () => {
  const exits = [vmcallExit(1), eptViolationExit(0x180000, EPT_VIOLATION_ACC_READ), nmiExit(), outExit(COM1, 0x41), outExit(EXIT_PORT, 7)];
  const plain = run(exits);
  let suspensions = 0;
  let isFresh = false;
  let seen = 0;
  let hasEntered = false;
  const suspended = run(exits, {
    beforeStep: (machine, events) => {
      // From the first VM entry on; every other look, since the step before which the path was suspended must be made.
      for (; seen < events.length; seen++) hasEntered ||= events[seen]?.[0] === TRACE_VM_ENTRY;
      isFresh = !isFresh;
      if (!hasEntered || !isFresh) return;
      suspensions++;
      machine.cpu(0).suspendAtNextStep();
    },
  });
  equal(suspended.output, plain.output);
  deepEqual(suspended.endings, plain.endings);
  equal(suspensions > 1000, true);
});

const CPUID_BYTES = 2;
const RDMSR_BYTES = 2;
const RAX = 0;
const RCX = 1;
const RDX = 2;
const TSC_AUX = 0xc0000103;

function cpuidExit(leaf: number): GuestExit {
  return {
    reason: EXIT_REASON.CPUID,
    instructionLength: CPUID_BYTES,
    registers: [
      [RAX, leaf],
      [RCX, 0],
    ],
  };
}

test("CPUID answers from the monitor's table: highest leaf 7, KVM's signature leaf says 0x40000001", () => {
  equal(run([cpuidExit(0), exitWithRax]).endings[0]?.status, 7);
  equal(run([cpuidExit(0x40000000), exitWithRax]).endings[0]?.status, 1);
});

test("a guest's TSC_AUX holds what is written to it", () => {
  const write: GuestExit = {
    reason: EXIT_REASON.MSR_WRITE,
    instructionLength: RDMSR_BYTES,
    registers: [
      [RCX, TSC_AUX],
      [RAX, 0x5a],
      [RDX, 0],
    ],
  };
  const read: GuestExit = {
    reason: EXIT_REASON.MSR_READ,
    instructionLength: RDMSR_BYTES,
    registers: [
      [RCX, TSC_AUX],
      [RAX, 0],
    ],
  };
  equal(run([write, read, exitWithRax]).endings[0]?.status, 0x5a);
});

test("an unknown MSR raises #GP(0) in the guest: vector 13, hardware exception, with error code", () => {
  const read: GuestExit = { reason: EXIT_REASON.MSR_READ, instructionLength: RDMSR_BYTES, registers: [[RCX, 0x12345]] };
  const injected: number[] = [];
  run([read, hltExit()], {
    beforeEntry: (machine) => {
      injected.push(machine.cpu(0).virtualization.field(VMCS.VM_ENTRY_INTR_INFO_FIELD));
    },
  });
  deepEqual(injected, [0, 0x80000b0d]);
});
