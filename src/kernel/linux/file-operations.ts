// Which operations each kind of file has (kernel: the f_op pointers).
import { fail } from "../../hardware/index.ts";
import { kvmChardevOps, kvmVcpuFops, kvmVmFops } from "../kvm/file-operations.ts";
import { shmemOperations } from "../mm/shmem.ts";
import { consoleOperations } from "./console.ts";
import { nullOperations, zeroOperations } from "./devices.ts";
import {
  FILE_CONSOLE,
  FILE_DIRECTORY,
  FILE_KVM,
  FILE_KVM_VCPU,
  FILE_KVM_VM,
  FILE_NULL,
  FILE_PIPE,
  FILE_RAM,
  FILE_SHMEM,
  FILE_SYNTHETIC,
  FILE_ZERO,
  type FileOperations,
} from "./file-struct.ts";
import { pipeOperations } from "./pipe.ts";
import { directoryOperations, ramFileOperations } from "./ram-file.ts";
import { syntheticOperations } from "./synthetic.ts";

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
    case FILE_NULL:
      return nullOperations;
    case FILE_ZERO:
      return zeroOperations;
    case FILE_RAM:
      return ramFileOperations;
    case FILE_DIRECTORY:
      return directoryOperations;
    case FILE_SYNTHETIC:
      return syntheticOperations;
    case FILE_PIPE:
      return pipeOperations;
    default:
      return fail(`a file of kind ${kind}`);
  }
}
