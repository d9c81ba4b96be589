// Port accesses of a guest: there is no device in the kernel, so each goes to the monitor through struct kvm_run and the page of port
// data behind it; what remains to be done is done at the next KVM_RUN (kernel: kvm_fast_pio()).
import { KVM_EXIT, KVM_EXIT_IO_IN, KVM_EXIT_IO_OUT, KVM_PIO_PAGE_OFFSET, KVM_RUN_OFFSET } from "../../abi/index.ts";
import { addVirt, cpu, PAGE_SIZE, type Ptr, type VirtAddr, VMCS } from "../../hardware/index.ts";
import { kvmSkipEmulatedInstruction } from "./events.ts";
import { COMPLETE_FAST_PIO_IN, COMPLETE_FAST_PIO_OUT, COMPLETE_NONE, COMPLETE_SKIP, KvmVcpu, VCPU_REGS } from "./kvm-struct.ts";
import { kvmRegisterRead, readGprLow, registerAddress } from "./regs.ts";

// Qualification of an I/O exit. SDM vol. 3, table 29-5.
const IO_QUAL_SIZE = 7;
const IO_QUAL_IN = 1 << 3;
const IO_QUAL_STRING = 1 << 4;

/** Writes a field of struct kvm_run. */
export function setRun(run: VirtAddr, offset: number, width: 1 | 2 | 4, value: number): void {
  cpu.store(addVirt(run, offset), width, value);
}

/** Kernel: `handle_io()`. @returns 0 (to the monitor); -1: a string instruction, which is not emulated. */
export function handleIo(vcpu: Ptr<"kvm_vcpu">): 0 | -1 {
  const qualification = cpu.vmread(VMCS.EXIT_QUALIFICATION);
  if ((qualification & IO_QUAL_STRING) !== 0) return -1;
  const view = KvmVcpu.at(vcpu);
  const size = (qualification & IO_QUAL_SIZE) + 1;
  const port = qualification >>> 16;
  const isIn = (qualification & IO_QUAL_IN) !== 0;
  const { run } = view;
  setRun(run, KVM_RUN_OFFSET.exit_reason, 4, KVM_EXIT.IO);
  setRun(run, KVM_RUN_OFFSET.io_direction, 1, isIn ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT);
  setRun(run, KVM_RUN_OFFSET.io_size, 1, size);
  setRun(run, KVM_RUN_OFFSET.io_port, 2, port);
  setRun(run, KVM_RUN_OFFSET.io_count, 4, 1);
  cpu.storeWord(addVirt(run, KVM_RUN_OFFSET.io_data_offset), KVM_PIO_PAGE_OFFSET * PAGE_SIZE);
  if (!isIn) cpu.store(view.pioData, 4, readGprLow(vcpu, VCPU_REGS.RAX));
  view.pioSize = size;
  view.pioPort = port;
  const rip = kvmRegisterRead(vcpu, VCPU_REGS.RIP);
  cpu.store64(view.pioLinearRip, rip, cpu.high);
  view.completeUserspaceIo = isIn ? COMPLETE_FAST_PIO_IN : COMPLETE_FAST_PIO_OUT;
  return 0;
}

/** The monitor may have moved RIP meanwhile (KVM_SET_REGS): then the access is over. */
function isStillAtAccess(vcpu: Ptr<"kvm_vcpu">, view: KvmVcpu): boolean {
  const rip = kvmRegisterRead(vcpu, VCPU_REGS.RIP);
  const ripHigh = cpu.high;
  const expected = cpu.load64(view.pioLinearRip);
  return rip === expected && ripHigh === cpu.high;
}

/** What the last exit to the monitor left to do (kernel: vcpu->arch.complete_userspace_io). @returns 1: the guest goes on. */
export function completeUserspaceIo(vcpu: Ptr<"kvm_vcpu">): 1 {
  const view = KvmVcpu.at(vcpu);
  const pending = view.completeUserspaceIo;
  if (pending === COMPLETE_NONE) return 1;
  view.completeUserspaceIo = COMPLETE_NONE;
  if (pending === COMPLETE_SKIP) return kvmSkipEmulatedInstruction(vcpu);
  if (!isStillAtAccess(vcpu, view)) return 1;
  if (pending === COMPLETE_FAST_PIO_IN) {
    const data = cpu.load(view.pioData, 4);
    const rax = registerAddress(vcpu, VCPU_REGS.RAX);
    const { pioSize } = view;
    // AL and AX keep the rest of RAX; EAX clears the high half.
    if (pioSize === 4) cpu.store64(rax, data, 0);
    else cpu.store(rax, pioSize === 2 ? 2 : 1, data & (pioSize === 2 ? 0xffff : 0xff));
  }
  return kvmSkipEmulatedInstruction(vcpu);
}
