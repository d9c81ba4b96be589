// Which operations each kind of file has (kernel: the f_op pointers).
import { fail } from "../../hardware/index.ts";
import { kvmChardevOps, kvmVcpuFops, kvmVmFops } from "../kvm/file-operations.ts";
import { shmemOperations } from "../mm/shmem.ts";
import { consoleOperations } from "./console.ts";
import { FILE_CONSOLE, FILE_KVM, FILE_KVM_VCPU, FILE_KVM_VM, FILE_SHMEM, type FileOperations } from "./file-struct.ts";

/** Operations of a kind: FILE_*. */
export function fileOperations(kind: number): FileOperations {
  switch (kind) {
    case FILE_CONSOLE:
      return consoleOperations;
    case FILE_KVM:
      return kvmChardevOps;
    case FILE_KVM_VM:
      return kvmVmFops;
    case FILE_KVM_VCPU:
      return kvmVcpuFops;
    case FILE_SHMEM:
      return shmemOperations;
    default:
      return fail(`a file of kind ${kind}`);
  }
}
