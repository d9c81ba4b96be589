// The tree of the RAM file system: inodes by name (fs/ramfs, fs/libfs.c). One lock guards all directories; nothing allocates under it.
import { EEXIST, EISDIR, ENOENT, ENOMEM, type Errno, S_IFCHR, S_IFDIR, S_IFREG } from "../../abi/index.ts";
import { addVirt, assert, cpu, NULL, pointer } from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { staticBytes } from "../static-data.ts";
import {
  DENTRY_NAME_OFFSET,
  Dentry,
  type DentryPtr,
  INODE_DIRECTORY,
  INODE_FILE,
  Inode,
  type InodeKind,
  type InodePtr,
} from "./inode-struct.ts";
import { hashOf, isStored, storeText } from "./kernel-text-bytes.ts";
import { truncatePages } from "./page-cache.ts";

const inodePointer = pointer("inode");
const rootDirectory = staticBytes("ramfs_root", 8, 8);
const treeLock = staticBytes("ramfs_lock", 4, 4);
const lastNumber = staticBytes("ramfs_last_ino", 4, 4);

const FILE_MODE = S_IFREG | 0o755;
const DIRECTORY_MODE = S_IFDIR | 0o755;
const DEVICE_MODE = S_IFCHR | 0o666;

/** The root directory. */
export function ramfsRoot(): InodePtr {
  return inodePointer.get(rootDirectory);
}

/** Makes the root directory (kernel: `init_rootfs()`). */
export function initRootfs(): void {
  const root = allocInode(INODE_DIRECTORY);
  assert(root !== NULL, () => "out of memory at boot: root directory");
  Inode.at(root).parent = root;
  inodePointer.set(rootDirectory, root);
}

function modeOf(kind: InodeKind): number {
  if (kind === INODE_DIRECTORY) return DIRECTORY_MODE;
  return kind === INODE_FILE ? FILE_MODE : DEVICE_MODE;
}

/** An inode with one reference and no name, or NULL (kernel: `ramfs_get_inode()`). */
export function allocInode(kind: InodeKind): InodePtr {
  const inode = kzalloc(Inode.bytes, GFP_KERNEL) as InodePtr; // just allocated
  if (inode === NULL) return NULL;
  const view = Inode.at(inode);
  view.kind = kind;
  view.count = 1;
  view.nlink = 1;
  view.mode = modeOf(kind);
  view.number = cpu.rmw("add", lastNumber, 4, 1) + 1;
  return inode;
}

/** Kernel: `ihold()`. */
export function ihold(inode: InodePtr): void {
  cpu.rmw("add", addVirt(inode, Inode.offset.count), 4, 1);
}

/** Drops a reference; the last one frees the inode with its pages (kernel: `iput()`, `evict()`). */
export function iput(inode: InodePtr): void {
  const before = cpu.rmw("add", addVirt(inode, Inode.offset.count), 4, 0xffffffff);
  assert(before > 0 && before < 0x80000000, () => `iput() of a freed inode: count ${before | 0}`);
  if (before !== 1) return;
  truncatePages(inode, 0);
  kfree(inode);
}

function find(directory: InodePtr, name: string): DentryPtr {
  const hash = hashOf(name);
  let entry = Inode.at(directory).entries;
  while (entry !== NULL) {
    const view = Dentry.at(entry);
    if (view.hash === hash && view.nameBytes === name.length && isStored(addVirt(entry, DENTRY_NAME_OFFSET), name)) return entry;
    entry = view.next;
  }
  return NULL;
}

/** The inode that `name` has in `directory`, with a reference, or NULL (kernel: `d_lookup()`). */
export function lookup(directory: InodePtr, name: string): InodePtr {
  spinLock(treeLock);
  const entry = find(directory, name);
  const inode = entry === NULL ? NULL : Dentry.at(entry).inode;
  if (inode !== NULL) ihold(inode);
  spinUnlock(treeLock);
  return inode;
}

/** Names `inode` in `directory`, which takes a reference of its own (kernel: `d_instantiate()`). @returns 0; EEXIST; ENOMEM. */
export function addEntry(directory: InodePtr, name: string, inode: InodePtr): 0 | Errno {
  const entry = kzalloc(DENTRY_NAME_OFFSET + name.length, GFP_KERNEL) as DentryPtr; // just allocated
  if (entry === NULL) return ENOMEM;
  const view = Dentry.at(entry);
  view.inode = inode;
  view.hash = hashOf(name);
  view.nameBytes = name.length;
  storeText(addVirt(entry, DENTRY_NAME_OFFSET), name);
  spinLock(treeLock);
  const isTaken = find(directory, name) !== NULL;
  if (!isTaken) {
    view.next = Inode.at(directory).entries;
    Inode.at(directory).entries = entry;
    if (Inode.at(inode).kind === INODE_DIRECTORY) Inode.at(inode).parent = directory;
  }
  spinUnlock(treeLock);
  if (isTaken) {
    kfree(entry);
    return EEXIST;
  }
  ihold(inode);
  return 0;
}

/** Takes a name away; the file lives on while it is open (kernel: `simple_unlink()`). @returns 0; ENOENT; EISDIR. */
export function removeEntry(directory: InodePtr, name: string): 0 | Errno {
  spinLock(treeLock);
  const entry = find(directory, name);
  const isDirectory = entry !== NULL && Inode.at(Dentry.at(entry).inode).kind === INODE_DIRECTORY;
  if (entry !== NULL && !isDirectory) unlinkEntry(directory, entry);
  spinUnlock(treeLock);
  if (entry === NULL) return ENOENT;
  if (isDirectory) return EISDIR;
  const { inode } = Dentry.at(entry);
  Inode.at(inode).nlink -= 1;
  kfree(entry);
  iput(inode);
  return 0;
}

function unlinkEntry(directory: InodePtr, entry: DentryPtr): void {
  const { next } = Dentry.at(entry);
  let at = Inode.at(directory).entries;
  if (at === entry) {
    Inode.at(directory).entries = next;
    return;
  }
  while (at !== NULL && Dentry.at(at).next !== entry) at = Dentry.at(at).next;
  if (at !== NULL) Dentry.at(at).next = next;
}

/** The `index`th entry of a directory, the newest first, or NULL. For getdents(). */
export function entryAt(directory: InodePtr, index: number): DentryPtr {
  spinLock(treeLock);
  let entry = Inode.at(directory).entries;
  for (let i = 0; i < index && entry !== NULL; i++) entry = Dentry.at(entry).next;
  spinUnlock(treeLock);
  return entry;
}
