// What exits come to: hypercalls, CPUID, MSRs, on the abstract machine.
import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import { exitWithRax, runScript } from "../../../test/kvm-script.ts";
import { EXIT_REASON, VMCS } from "../../hardware/index.ts";
import { type GuestExit, hltExit, vmcallExit } from "../../residue/index.ts";

test("hypercalls: KVM_HC_VAPIC_POLL_IRQ gives 0, an unknown one -KVM_ENOSYS (-1000), in RAX", () => {
  equal(runScript([vmcallExit(1), exitWithRax]).endings[0]?.status, 0);
  equal(runScript([vmcallExit(0x77), exitWithRax]).endings[0]?.status, -1000 & 0xff);
});

test("the table lookup answers inside its bounds and refuses outside them", () => {
  equal(runScript([vmcallExit(0x100, 15, 0), exitWithRax]).endings[0]?.status, 0);
  equal(runScript([vmcallExit(0x100, 16, 0), exitWithRax]).endings[0]?.status, 0xff);
  equal(runScript([vmcallExit(0x100, -(2 ** 46), 0), exitWithRax]).endings[0]?.status, 0xff);
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
  equal(runScript([cpuidExit(0), exitWithRax]).endings[0]?.status, 7);
  equal(runScript([cpuidExit(0x40000000), exitWithRax]).endings[0]?.status, 1);
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
  equal(runScript([write, read, exitWithRax]).endings[0]?.status, 0x5a);
});

test("an unknown MSR raises #GP(0) in the guest: vector 13, hardware exception, with error code", () => {
  const read: GuestExit = { reason: EXIT_REASON.MSR_READ, instructionLength: RDMSR_BYTES, registers: [[RCX, 0x12345]] };
  const injected: number[] = [];
  runScript([read, hltExit()], {
    beforeEntry: (machine) => {
      injected.push(machine.cpu(0).virtualization.field(VMCS.VM_ENTRY_INTR_INFO_FIELD));
    },
  });
  deepEqual(injected, [0, 0x80000b0d]);
});
