// /dev/kvm, VM files and vCPU files: the requests of each (kernel: kvm_dev_ioctl(), kvm_vm_ioctl(), kvm_vcpu_ioctl()).
import {
  EFAULT,
  EINVAL,
  EIO,
  ENOTTY,
  type Errno,
  isErr,
  KVM_API_VERSION,
  KVM_CAP_ASI_PROTECT_USER_DATA,
  KVM_CAP_EXT_CPUID,
  KVM_CAP_IMMEDIATE_EXIT,
  KVM_CAP_MAX_VCPUS,
  KVM_CAP_NR_MEMSLOTS,
  KVM_CAP_NR_VCPUS,
  KVM_CAP_USER_MEMORY,
  KVM_CHECK_EXTENSION,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_ENABLE_CAP,
  KVM_ENABLE_CAP_ARGS,
  KVM_ENABLE_CAP_BYTES,
  KVM_GET_API_VERSION,
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_GET_SUPPORTED_CPUID,
  KVM_GET_VCPU_MMAP_SIZE,
  KVM_PIO_PAGE_OFFSET,
  KVM_RUN,
  KVM_SET_CPUID2,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KVM_SET_USER_MEMORY_REGION,
  KVM_USERSPACE_MEMORY_REGION_BYTES,
  KVM_VCPU_MMAP_BYTES,
  KVM_X86_DEFAULT_VM,
} from "../../abi/index.ts";
import { addVirt, cpu, type Ptr, ptr, type VirtAddr, virtAddr } from "../../hardware/index.ts";
import { asiEnabled } from "../asi/asi-state.ts";
import { anonInodeGetfd } from "../linux/file.ts";
import { FILE_KVM_VM, File, type FileOperations } from "../linux/file-struct.ts";
import { kernelBuffer } from "../linux/kernel-buffer.ts";
import { accessOk } from "../mm/layout.ts";
import { copyFromUser } from "../mm/uaccess.ts";
import { current } from "../sched/current.ts";
import { mutexLock, mutexUnlock } from "../sched/mutex.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { kvmDevIoctlGetCpuid, kvmVcpuIoctlSetCpuid2 } from "./cpuid.ts";
import { KVM_MAX_VCPUS, KVM_USER_MEM_SLOTS, Kvm, KvmVcpu } from "./kvm-struct.ts";
import { kvmSetMemoryRegion } from "./memslots.ts";
import { kvmArchVcpuIoctlRun } from "./run.ts";
import { kvmArchVcpuIoctlGetRegs, kvmArchVcpuIoctlGetSregs, kvmArchVcpuIoctlSetRegs, kvmArchVcpuIoctlSetSregs } from "./uapi-regs.ts";
import { kvmVcpuRelease, kvmVmIoctlCreateVcpu } from "./vcpu.ts";
import { vcpuLoad, vcpuPut } from "./vcpu-load.ts";
import { kvmCreateVm, kvmPutKvm } from "./vm.ts";
import { kvmSetProtectUserData } from "./vm-domain.ts";

function kvmOf(file: Ptr<"file">): Ptr<"kvm"> {
  return ptr<"kvm">(File.at(file).privateData);
}

function vcpuOf(file: Ptr<"file">): Ptr<"kvm_vcpu"> {
  return ptr<"kvm_vcpu">(File.at(file).privateData);
}

/** A user address, or EFAULT. */
function userAddress(argument: number): VirtAddr | Errno {
  return accessOk(argument, 0) ? virtAddr(argument) : EFAULT;
}

/** Kernel: `kvm_vm_ioctl_check_extension()`. 0: not there. */
function checkExtension(capability: number): number {
  switch (capability) {
    case KVM_CAP_USER_MEMORY:
    case KVM_CAP_EXT_CPUID:
    case KVM_CAP_IMMEDIATE_EXIT:
      return 1;
    case KVM_CAP_ASI_PROTECT_USER_DATA:
      return asiEnabled() ? 1 : 0;
    case KVM_CAP_NR_VCPUS:
    case KVM_CAP_MAX_VCPUS:
      return KVM_MAX_VCPUS;
    case KVM_CAP_NR_MEMSLOTS:
      return KVM_USER_MEM_SLOTS;
    default:
      return 0;
  }
}

/** Kernel: `kvm_dev_ioctl_create_vm()`. */
function createVm(type: number): number {
  if (type !== KVM_X86_DEFAULT_VM) return EINVAL;
  const kvm = kvmCreateVm(TaskStruct.at(current()).mm);
  if (isErr(kvm)) return kvm;
  const fd = anonInodeGetfd(FILE_KVM_VM, kvm);
  if (fd < 0) kvmPutKvm(kvm);
  return fd;
}

function kvmDevIoctl(_file: Ptr<"file">, command: number, argument: number): number {
  switch (command) {
    case KVM_GET_API_VERSION:
      return argument === 0 ? KVM_API_VERSION : EINVAL;
    case KVM_CREATE_VM:
      return createVm(argument);
    case KVM_CHECK_EXTENSION:
      return checkExtension(argument);
    case KVM_GET_VCPU_MMAP_SIZE:
      return argument === 0 ? KVM_VCPU_MMAP_BYTES : EINVAL;
    case KVM_GET_SUPPORTED_CPUID: {
      const user = userAddress(argument);
      return isErr(user) ? user : kvmDevIoctlGetCpuid(user);
    }
    default:
      return ENOTTY;
  }
}

function setUserMemoryRegion(kvm: Ptr<"kvm">, argument: number): number {
  const user = userAddress(argument);
  if (isErr(user)) return user;
  const bytes = KVM_USERSPACE_MEMORY_REGION_BYTES;
  return kernelBuffer(bytes, (buffer) => (copyFromUser(buffer, user, bytes) !== 0 ? EFAULT : kvmSetMemoryRegion(kvm, buffer)));
}

/** Kernel: `kvm_vm_ioctl_enable_cap()`. */
function enableCap(kvm: Ptr<"kvm">, argument: number): number {
  const user = userAddress(argument);
  if (isErr(user)) return user;
  const bytes = KVM_ENABLE_CAP_BYTES;
  return kernelBuffer(bytes, (buffer) => {
    if (copyFromUser(buffer, user, bytes) !== 0) return EFAULT;
    const capability = cpu.load(buffer, 4);
    const flags = cpu.load(addVirt(buffer, 4), 4);
    const value = cpu.loadWord(addVirt(buffer, KVM_ENABLE_CAP_ARGS));
    if (capability !== KVM_CAP_ASI_PROTECT_USER_DATA || flags !== 0) return EINVAL;
    const lock = addVirt(kvm, Kvm.offset.lock);
    mutexLock(lock);
    const result = kvmSetProtectUserData(kvm, value);
    mutexUnlock(lock);
    return result;
  });
}

function kvmVmIoctl(file: Ptr<"file">, command: number, argument: number): number {
  const kvm = kvmOf(file);
  // Only the process that made it may use it: its memory is that one's.
  if (Kvm.at(kvm).mm !== TaskStruct.at(current()).mm) return EIO;
  switch (command) {
    case KVM_CREATE_VCPU:
      return kvmVmIoctlCreateVcpu(kvm, argument);
    case KVM_SET_USER_MEMORY_REGION:
      return setUserMemoryRegion(kvm, argument);
    case KVM_ENABLE_CAP:
      return enableCap(kvm, argument);
    case KVM_CHECK_EXTENSION:
      return checkExtension(argument);
    default:
      return ENOTTY;
  }
}

/** Requests that read or write registers, with the vCPU loaded. */
function kvmVcpuAccess(vcpu: Ptr<"kvm_vcpu">, command: number, user: VirtAddr): number {
  switch (command) {
    case KVM_GET_REGS:
      return kvmArchVcpuIoctlGetRegs(vcpu, user);
    case KVM_SET_REGS:
      return kvmArchVcpuIoctlSetRegs(vcpu, user);
    case KVM_GET_SREGS:
      return kvmArchVcpuIoctlGetSregs(vcpu, user);
    case KVM_SET_SREGS:
      return kvmArchVcpuIoctlSetSregs(vcpu, user);
    case KVM_SET_CPUID2:
      return kvmVcpuIoctlSetCpuid2(vcpu, user);
    default:
      return ENOTTY;
  }
}

function kvmVcpuIoctl(file: Ptr<"file">, command: number, argument: number): number {
  const vcpu = vcpuOf(file);
  const view = KvmVcpu.at(vcpu);
  if (Kvm.at(view.kvm).mm !== TaskStruct.at(current()).mm) return EIO;
  const isRun = command === KVM_RUN;
  if (isRun && argument !== 0) return EINVAL;
  const user = userAddress(argument);
  if (isErr(user)) return user;
  const mutex = addVirt(vcpu, KvmVcpu.offset.mutex);
  mutexLock(mutex);
  const error = vcpuLoad(vcpu);
  if (error !== 0) {
    mutexUnlock(mutex);
    return error;
  }
  // Gives vCPU and mutex back itself: a suspended KVM_RUN does not come back here.
  if (isRun) return kvmArchVcpuIoctlRun(vcpu);
  const result = kvmVcpuAccess(vcpu, command, user);
  vcpuPut(vcpu);
  mutexUnlock(mutex);
  return result;
}

/** Kernel: `kvm_vcpu_fault()`. */
function kvmVcpuMapPage(file: Ptr<"file">, pageOffset: number): VirtAddr | Errno {
  const view = KvmVcpu.at(vcpuOf(file));
  if (pageOffset === 0) return view.run;
  return pageOffset === KVM_PIO_PAGE_OFFSET ? view.pioData : EINVAL;
}

export const kvmChardevOps: FileOperations = { ioctl: kvmDevIoctl, release: () => undefined };
export const kvmVmFops: FileOperations = { ioctl: kvmVmIoctl, release: (file) => kvmPutKvm(kvmOf(file)) };
export const kvmVcpuFops: FileOperations = {
  ioctl: kvmVcpuIoctl,
  mapPage: kvmVcpuMapPage,
  release: (file) => kvmVcpuRelease(vcpuOf(file)),
};
