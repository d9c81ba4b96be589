// Open files: what a descriptor refers to, and the operations of each kind of file.

import type { Errno } from "../../abi/index.ts";
import { type Ptr, pointer, struct, u32, type View, type VirtAddr, virtual } from "../../hardware/index.ts";

/** Kinds of files; each has its FileOperations (kernel: the f_op pointer). */
export const FILE_CONSOLE = 1;
export const FILE_KVM = 2;
export const FILE_KVM_VM = 3;
export const FILE_KVM_VCPU = 4;
/** Memory that MAP_SHARED | MAP_ANONYMOUS maps (mm/shmem.ts). */
export const FILE_SHMEM = 11;
export type FileKind = typeof FILE_CONSOLE | typeof FILE_KVM | typeof FILE_KVM_VM | typeof FILE_KVM_VCPU | typeof FILE_SHMEM;

/** Kernel: struct file. */
export const File = struct("file", {
  kind: u32,
  count: u32,
  /** Of the kind: for KVM the address of struct kvm or kvm_vcpu. */
  privateData: virtual,
  mm: pointer("mm_struct"),
});
export type File = View<typeof File>;

/** Kernel: struct file_operations. Numbers returned are results (>= 0) or errors. */
export interface FileOperations {
  /** `argument` as the user passed it (sign-extended). */
  readonly ioctl?: (file: Ptr<"file">, command: number, argument: number) => number;
  /** Writes `bytes` bytes from user memory. */
  readonly write?: (file: Ptr<"file">, from: VirtAddr, bytes: number) => number;
  /** Kernel address of the page at page offset `pageOffset`, which user space may map (kernel: vm_ops.fault of the mapping). */
  readonly mapPage?: (file: Ptr<"file">, pageOffset: number) => VirtAddr | Errno;
  /** The page at page offset `pageOffset` with a reference, where the file may lose it at any time; else `mapPage` is enough. */
  readonly faultPage?: (file: Ptr<"file">, pageOffset: number) => Ptr<"page"> | Errno;
  /** Last reference dropped. */
  readonly release: (file: Ptr<"file">) => void;
}
