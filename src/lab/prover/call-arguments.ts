// The arguments of system calls that are bytes in memory, each at its place in the state page: written once, when a process begins.
import { DEV_KVM, KERNEL_SIGACTION_BYTES, SA_RESTORER } from "../../abi/index.ts";
import { PAGE_SIZE, PUPPET_HANDLER_OFFSET, PUPPET_RESTORER_OFFSET, PUPPET_TEXT } from "../../hardware/index.ts";
import { GUEST_PAGES, guestRegion, guestSregs, guestStartRegisters } from "../check/index.ts";
import { placeArguments } from "./process-memory.ts";

/** Most VMs of a process, vCPUs of a VM, CPUs. */
export const MAX_VMS = 2;
export const MAX_VCPUS = 2;
export const MAX_CPUS = 4;

export const GUEST_BYTES = GUEST_PAGES * PAGE_SIZE;
const GUEST_MEMORY = 0x20000000;
const GUEST_SPACING = 0x200000;

/** Where a process maps the memory of VM number `vm`. */
export function guestMemoryAddress(vm: number): number {
  return GUEST_MEMORY + vm * GUEST_SPACING;
}

const text = (line: string): Uint8Array => new TextEncoder().encode(`${line}\0`);

function cpuMasks(): Uint8Array {
  const bytes = new Uint8Array(8 * MAX_CPUS);
  for (let cpu = 0; cpu < MAX_CPUS; cpu++) bytes[8 * cpu] = 1 << cpu;
  return bytes;
}

/** struct sigaction as the kernel takes it. */
function signalHandler(): Uint8Array {
  const bytes = new Uint8Array(KERNEL_SIGACTION_BYTES);
  const view = new DataView(bytes.buffer);
  [PUPPET_TEXT + PUPPET_HANDLER_OFFSET, SA_RESTORER, PUPPET_TEXT + PUPPET_RESTORER_OFFSET].forEach((word, i) => {
    view.setUint32(8 * i, word, true);
  });
  return bytes;
}

export const FILE_BYTES = 16;

export const ARGUMENTS = placeArguments({
  kvm: text(DEV_KVM),
  file: text("/prover"),
  content: new Uint8Array(FILE_BYTES).fill(0x61),
  masks: cpuMasks(),
  handler: signalHandler(),
  region0: guestRegion(guestMemoryAddress(0)),
  region1: guestRegion(guestMemoryAddress(1)),
  sregs: guestSregs(),
  regs: guestStartRegisters(),
});
