// Open files: what a descriptor refers to, the operations of each kind of file, and tables of descriptors. Only declarations.
import type { Errno } from "../../abi/index.ts";
import { type Ptr, pointer, struct, u32, type View, type VirtAddr, virtual, word } from "../../hardware/index.ts";
import { spinlock } from "../spinlock.ts";

/** Kinds of files; each has its FileOperations (kernel: the f_op pointer). */
export const FILE_CONSOLE = 1;
export const FILE_KVM = 2;
export const FILE_KVM_VM = 3;
export const FILE_KVM_VCPU = 4;
export const FILE_NULL = 5;
export const FILE_ZERO = 6;
export const FILE_RAM = 7;
export const FILE_DIRECTORY = 8;
export const FILE_SYNTHETIC = 9;
export const FILE_PIPE = 10;
/** Memory that MAP_SHARED | MAP_ANONYMOUS maps (mm/shmem.ts). */
export const FILE_SHMEM = 11;
export type FileKind =
  | typeof FILE_CONSOLE
  | typeof FILE_KVM
  | typeof FILE_KVM_VM
  | typeof FILE_KVM_VCPU
  | typeof FILE_NULL
  | typeof FILE_ZERO
  | typeof FILE_RAM
  | typeof FILE_DIRECTORY
  | typeof FILE_SYNTHETIC
  | typeof FILE_PIPE
  | typeof FILE_SHMEM;

/** Kernel: struct file. */
export const File = struct("file", {
  kind: u32,
  count: u32,
  /** Of the kind: for KVM the address of struct kvm or kvm_vcpu, for a pipe that of the pipe, for the console its port. */
  privateData: virtual,
  mm: pointer("mm_struct"),
  /** Kernel: f_inode, with a reference; NULL for files without a name. */
  inode: pointer("inode"),
  /** Kernel: f_pos. */
  position: word,
  /** O_*: access mode, O_APPEND, O_NONBLOCK. */
  flags: u32,
  /** Synthetic files: length of the text at privateData. */
  textBytes: u32,
});
export type File = View<typeof File>;
export type FilePtr = Ptr<"file">;

/** Kernel: struct file_operations. Numbers returned are results (>= 0) or errors. */
export interface FileOperations {
  /** `argument` as the user passed it (sign-extended). */
  readonly ioctl?: (file: Ptr<"file">, command: number, argument: number) => number;
  /** Reads at most `bytes` bytes to user memory. */
  readonly read?: (file: Ptr<"file">, to: VirtAddr, bytes: number) => number;
  /** Writes `bytes` bytes from user memory. */
  readonly write?: (file: Ptr<"file">, from: VirtAddr, bytes: number) => number;
  /** Kernel address of the page at page offset `pageOffset`, which user space may map (kernel: vm_ops.fault of the mapping). */
  readonly mapPage?: (file: Ptr<"file">, pageOffset: number) => VirtAddr | Errno;
  /** The page at page offset `pageOffset` with a reference, where the file may lose it at any time; else `mapPage` is enough. */
  readonly faultPage?: (file: Ptr<"file">, pageOffset: number) => Ptr<"page"> | Errno;
  /** Last reference dropped. */
  readonly release: (file: Ptr<"file">) => void;
}

/** A descriptor. */
export const FdSlot = struct("fd_slot", {
  file: pointer("file"),
  /** FD_CLOEXEC: 1. */
  closeOnExec: u32,
  padding: u32,
});

/** Kernel: struct files_struct, with its fdtable. */
export const FilesStruct = struct("files_struct", {
  /** Tasks that share it. Atomic. */
  count: u32,
  lock: spinlock,
  /** Slots of `table`. */
  maxFds: u32,
  padding: u32,
  table: virtual,
});
export type FilesStruct = View<typeof FilesStruct>;
export type FilesPtr = Ptr<"files_struct">;

/** Kernel: NR_OPEN_DEFAULT, and the soft RLIMIT_NOFILE. */
export const NR_OPEN_DEFAULT = 16;
export const RLIMIT_NOFILE = 1024;
