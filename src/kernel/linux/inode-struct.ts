// What the RAM file system consists of: inodes, and the entries of directories that name them. Only declarations.
import { bytes, type Ptr, pointer, struct, u32, type View, virtual, word } from "../../hardware/index.ts";
import { spinlock } from "../spinlock.ts";

export const INODE_FILE = 1;
export const INODE_DIRECTORY = 2;
/** A device node: `device` is the kind of file (FILE_*) that opening it gives. */
export const INODE_DEVICE = 3;
/** Text that the kernel writes when it is opened: `device` is its index in the table of synthetic files. */
export const INODE_SYNTHETIC = 4;
/** /proc/self/exe: opening it opens the program of the process. */
export const INODE_EXE = 5;
export type InodeKind = typeof INODE_FILE | typeof INODE_DIRECTORY | typeof INODE_DEVICE | typeof INODE_SYNTHETIC | typeof INODE_EXE;

/** Kernel: struct inode, with its address_space. */
export const Inode = struct("inode", {
  kind: u32,
  /** Kernel: i_count: open files, directory entries, running programs. Atomic. */
  count: u32,
  number: u32,
  mode: u32,
  nlink: u32,
  device: u32,
  /** Guards size and page cache. */
  lock: spinlock,
  /** Slots of `pages`. */
  pageSlots: u32,
  /** Kernel: i_size. */
  bytes: word,
  /** Page cache: addresses of struct page by page offset, NULL where the file has a hole (kernel: i_pages). */
  pages: virtual,
  /** Of a directory. Under the lock of the whole tree. */
  entries: pointer("dentry"),
  parent: pointer("inode"),
});
export type Inode = View<typeof Inode>;
export type InodePtr = Ptr<"inode">;

export const DENTRY_NAME_OFFSET = 32;

/** Kernel: struct dentry; the name follows. */
export const Dentry = struct("dentry", {
  next: pointer("dentry"),
  inode: pointer("inode"),
  hash: u32,
  nameBytes: u32,
  padding: word,
  name: bytes(4, 4),
});
export type DentryPtr = Ptr<"dentry">;
