// KVM_RUN on the abstract machine: the order of what happens around a guest, hunk by hunk of the seed.
import { deepEqual, equal, match } from "node:assert/strict";
import { test } from "node:test";
import { COM1, count, EXIT_PORT, runScript, transitions } from "../../../test/kvm-script.ts";
import { KVM_RUN, SYS } from "../../abi/index.ts";
import {
  EPT_VIOLATION_ACC_READ,
  EPT_VIOLATION_ACC_WRITE,
  EXIT_REASON,
  isSensitiveOwner,
  PUPPET_STATE,
  type Puppet,
  type PuppetAction,
  VMCS,
} from "../../hardware/index.ts";
import {
  eptViolationExit,
  externalInterruptExit,
  hltExit,
  nmiExit,
  outExit,
  type ResidueMachine,
  vmcallExit,
} from "../../residue/index.ts";
import { LOCAL_TIMER_VECTOR } from "../entry/vectors.ts";
import { TRACE_NMI, TRACE_VM_ENTRY, TRACE_WARN } from "../trace.ts";

/** Where a test keeps a CPU mask in the monitor's state page: at its end, which the monitor leaves free. */
const AFFINITY_MASK_OFFSET = 0xff8;
/** Transitions of KVM alone: processes run unrestricted. */
const KVM_ONLY = { commandLine: "asi=on asi_userspace=off" } as const;

test("a guest that halts with interrupts off ends the monitor with status 0", () => {
  const result = runScript([hltExit()]);
  deepEqual(result.endings, [{ kind: "halt", status: 0, reason: "" }]);
  equal(count(result, TRACE_WARN), 0);
});

test("bytes to COM1 and to port 0xe9 are the console's, a byte to port 0xf4 ends the run with that status", () => {
  const text = [..."Hi\n"].map((c) => outExit(COM1, c.charCodeAt(0)));
  const result = runScript([...text, outExit(0xe9, 0x21), outExit(EXIT_PORT, 42)]);
  equal(result.output, "Hi\n!");
  deepEqual(result.endings, [{ kind: "exit", status: 42, reason: "" }]);
});

test("a triple fault is reported as such", () => {
  deepEqual(runScript([{ reason: EXIT_REASON.TRIPLE_FAULT }]).endings, [{ kind: "triple fault", status: 0, reason: "" }]);
});

test("the first enter after an unrestricted stretch flushes data; hypercalls are handled restricted; the end of KVM_RUN exits (spec 2.12)", () => {
  const result = runScript([vmcallExit(1), vmcallExit(1), hltExit()], KVM_ONLY);
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

test("an EPT violation that brings a page leaves the restricted address space: clearing the page touches sensitive memory (spec 2.14)", () => {
  const result = runScript([eptViolationExit(0x180000, EPT_VIOLATION_ACC_READ), hltExit()], KVM_ONLY);
  deepEqual(transitions(result), [
    "data flush",
    "enter",
    "VM exit 48",
    "control flush",
    "exit (fault)",
    "data flush",
    "enter",
    "VM exit 12",
    "control flush",
    "exit (end of KVM_RUN)",
  ]);
  deepEqual(result.endings[0]?.kind, "halt");
});

test("an access outside guest memory is told to the monitor, which names it", () => {
  const result = runScript([eptViolationExit(0xfee00000, EPT_VIOLATION_ACC_WRITE)]);
  equal(result.endings[0]?.kind, "error");
  match(result.endings[0]?.reason ?? "", /guest-physical 0xfee00000/);
});

test("host interrupts and NMIs that cause exits are handled restricted", () => {
  const result = runScript([externalInterruptExit(LOCAL_TIMER_VECTOR), nmiExit(), hltExit()], KVM_ONLY);
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

/** Root and PCID of CR3 now, and what the VM exit will load. */
function cr3AtEntry(machine: ResidueMachine): readonly [now: number, host: number] {
  const cpu = machine.cpu(0);
  return [cpu.state.cr3, cpu.virtualization.field(VMCS.HOST_CR3)];
}

test("the guest is entered from the restricted address space, and its exit comes back to it (S3; seed, HOST_CR3 hunk)", () => {
  const seen: (readonly [number, number])[] = [];
  runScript([vmcallExit(1), outExit(COM1, 0x41), hltExit()], { beforeEntry: (machine) => seen.push(cr3AtEntry(machine)) });
  equal(seen.length, 3);
  for (const [now, host] of seen) {
    equal(host, now);
    // PCID bits 10:9: class + 1 = 1 is the KVM class, 0 unrestricted (spec 2.8).
    equal((now >> 9) & 3, 1);
  }
});

/** VMWRITEs of HOST_CR3 from the first VM entry on, and how many entries there were. */
function hostCr3Writes(exits: Parameters<typeof runScript>[0]): readonly [writes: number, entries: number] {
  let writes = 0;
  let entries = 0;
  runScript(exits, {
    ...KVM_ONLY,
    beforeEntry: (machine) => {
      if (entries++ > 0) return;
      const { virtualization } = machine.cpu(0);
      const write = virtualization.write.bind(virtualization);
      virtualization.write = (field, low, high) => {
        if (field === VMCS.HOST_CR3) writes++;
        return write(field, low, high);
      };
    },
  });
  return [writes, entries];
}

test("HOST_CR3 is written when CR3 is another one than at the last entry, and not else (seed, HOST_CR3 hunk)", () => {
  deepEqual(hostCr3Writes([vmcallExit(1), vmcallExit(1), vmcallExit(1), hltExit()]), [0, 4]);
  // The monitor runs in between, but the domain's tables are where they were.
  deepEqual(hostCr3Writes([outExit(COM1, 0x41), outExit(COM1, 0x41), hltExit()]), [0, 3]);
});

test("a VM entry that is refused ends the critical section like an exit (seed, asi_relax)", () => {
  let entries = 0;
  const result = runScript([vmcallExit(1), hltExit()], {
    ...KVM_ONLY,
    beforeEntry: (machine) => {
      if (entries++ > 0) return;
      // The next one is a VMLAUNCH of a VMCS that is launched: error 4 (SDM vol. 3, 32.4).
      const { virtualization } = machine.cpu(0);
      const check = virtualization.check.bind(virtualization);
      virtualization.check = (isResume) => check(!isResume);
    },
  });
  deepEqual(result.endings, [{ kind: "error", status: 0, reason: "VM entry failed: 0x4" }]);
  // At the end of KVM_RUN asi_exit() would complain of a critical section.
  equal(count(result, TRACE_WARN), 0);
});

test("KVM's own L1D flush comes after asi_enter() (seed, vmx_vcpu_enter_exit)", () => {
  const classes: number[] = [];
  let isWatched = false;
  runScript([vmcallExit(1), hltExit()], {
    commandLine: "asi=on asi_userspace=off kvm-intel.vmentry_l1d_flush=always",
    beforeStep: (machine) => {
      if (isWatched) return;
      isWatched = true;
      const cpu = machine.cpu(0);
      const flush = cpu.labels.flushL1d.bind(cpu.labels);
      cpu.labels.flushL1d = (isMsr) => {
        classes.push((cpu.state.cr3 >> 9) & 3);
        flush(isMsr);
      };
    },
  });
  // One that asi_enter() owes at the first entry, and KVM's at both: all in the restricted address space.
  deepEqual(classes, [1, 1, 1]);
});

test("with asi=off there is no transition and no flush", () => {
  const result = runScript([vmcallExit(1), hltExit()], { commandLine: "asi=off" });
  deepEqual(transitions(result), ["VM exit 18", "VM exit 12"]);
  equal(result.endings[0]?.kind, "halt");
});

test("the preset rfc-v2 runs guests too", () => {
  equal(runScript([vmcallExit(1), hltExit()], { preset: "rfc-v2" }).endings[0]?.kind, "halt");
});

for (const [mode, flushes] of [
  ["never", 0],
  ["always", 4],
  ["cond", 1],
] as const) {
  // cond: the load of the vCPU owes one; the hypercalls touch nothing that would.
  test(`kvm-intel.vmentry_l1d_flush=${mode} flushes L1D at ${flushes} of 4 entries`, () => {
    let seen = 0;
    runScript([vmcallExit(1), vmcallExit(1), vmcallExit(1), hltExit()], {
      commandLine: `asi=off kvm-intel.vmentry_l1d_flush=${mode}`,
      beforeEntry: (machine) => {
        // The guest itself leaves sensitive data: so what is empty was just flushed.
        if (![...machine.cpu(0).labels.of("L1D")].some(isSensitiveOwner)) seen++;
      },
    });
    equal(seen, flushes);
  });
}

test("two monitors share a CPU: the scheduler takes a vCPU off the CPU and puts it back", () => {
  const tick = externalInterruptExit(LOCAL_TIMER_VECTOR);
  const result = runScript([...Array.from({ length: 12 }, () => tick), hltExit(), hltExit()], { monitors: 2 });
  deepEqual(
    result.endings.map(({ kind }) => kind),
    ["halt", "halt"],
  );
  equal(count(result, TRACE_WARN), 0);
});

test("a KVM_RUN that is suspended before every one of its steps ends as one that is not (law 3)", () => {
  const exits = [vmcallExit(1), eptViolationExit(0x180000, EPT_VIOLATION_ACC_READ), nmiExit(), outExit(COM1, 0x41), outExit(EXIT_PORT, 7)];
  const plain = runScript(exits);
  let suspensions = 0;
  let isFresh = false;
  let seen = 0;
  let hasEntered = false;
  const suspended = runScript(exits, {
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

test("a vCPU whose task moves to another CPU is loaded there: its VMCS is written back by the first (law: one CPU at a time)", () => {
  const moved: number[] = [];
  let kvmRun: PuppetAction | undefined;
  let runs = 0;
  // A monitor that moves to CPU 1 before its second KVM_RUN.
  const moving =
    (inner: Puppet): Puppet =>
    (view) => {
      if (kvmRun !== undefined) {
        const action = kvmRun;
        kvmRun = undefined;
        return action;
      }
      const action = inner(view);
      if (action.kind !== "syscall" || action.args[1] !== KVM_RUN || ++runs !== 2) return action;
      kvmRun = action;
      view.state.setUint32(AFFINITY_MASK_OFFSET, 2, true);
      return { kind: "syscall", number: SYS.sched_setaffinity, args: [0, 4, PUPPET_STATE + AFFINITY_MASK_OFFSET] };
    };
  const result = runScript([vmcallExit(1), outExit(COM1, 0x41), vmcallExit(1), outExit(EXIT_PORT, 3)], {
    cpus: 2,
    wrap: moving,
    beforeEntry: (_machine, cpu) => moved.push(cpu),
  });
  deepEqual(result.endings, [{ kind: "exit", status: 3, reason: "" }]);
  deepEqual(moved, [0, 0, 1, 1]);
});
