// From a path to an inode (fs/namei.c). Relative paths begin at the root: there is no chdir(), so every process stays there. No symbolic
// links.
import { EEXIST, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, type Errno, isErr, NAME_MAX } from "../../abi/index.ts";
import { NULL } from "../../hardware/index.ts";
import { INODE_DIRECTORY, INODE_FILE, Inode, type InodeKind, type InodePtr } from "./inode-struct.ts";
import { addEntry, allocInode, ihold, iput, lookup, ramfsRoot, removeEntry } from "./ramfs.ts";

interface Parent {
  /** With a reference. */
  readonly directory: InodePtr;
  /** Last component; "" when the path is the directory itself. */
  readonly name: string;
  /** The path ends in a slash: what it names must be a directory. */
  readonly mustBeDirectory: boolean;
}

function components(path: string): readonly string[] {
  return path.split("/").filter((part) => part !== "" && part !== ".");
}

/** One step down (or up); takes over the reference to `directory`. */
function step(directory: InodePtr, name: string): InodePtr | Errno {
  if (Inode.at(directory).kind !== INODE_DIRECTORY) {
    iput(directory);
    return ENOTDIR;
  }
  const next = name === ".." ? Inode.at(directory).parent : lookup(directory, name);
  if (name === "..") ihold(next);
  iput(directory);
  return next === NULL ? ENOENT : next;
}

function parentOf(path: string): Parent | Errno {
  if (path === "") return ENOENT;
  const parts = components(path);
  if (parts.some((part) => part.length > NAME_MAX)) return ENAMETOOLONG;
  let directory = ramfsRoot();
  ihold(directory);
  // A path that ends in ".." names a directory that exists.
  const last = parts.at(-1);
  const walked = last === ".." ? parts : parts.slice(0, -1);
  for (const part of walked) {
    const next = step(directory, part);
    if (isErr(next)) return next;
    directory = next;
  }
  if (Inode.at(directory).kind !== INODE_DIRECTORY) {
    iput(directory);
    return ENOTDIR;
  }
  return { directory, name: last === undefined || last === ".." ? "" : last, mustBeDirectory: path.endsWith("/") };
}

/** The inode of `path`, with a reference (kernel: `filename_lookup()`). @returns ENOENT; ENOTDIR; ENAMETOOLONG. */
export function lookupPath(path: string): InodePtr | Errno {
  const parent = parentOf(path);
  if (typeof parent === "number") return parent;
  if (parent.name === "") return parent.directory;
  const inode = step(parent.directory, parent.name);
  if (isErr(inode) || !parent.mustBeDirectory || Inode.at(inode).kind === INODE_DIRECTORY) return inode;
  iput(inode);
  return ENOTDIR;
}

/** Makes `path` (kernel: `vfs_create()`, `vfs_mkdir()`). The new inode has a reference for the caller. @returns EEXIST; as `lookupPath`; ENOMEM. */
export function createPath(path: string, kind: InodeKind, device = 0): InodePtr | Errno {
  const parent = parentOf(path);
  if (typeof parent === "number") return parent;
  if (parent.name === "" || (parent.mustBeDirectory && kind !== INODE_DIRECTORY)) {
    iput(parent.directory);
    return parent.name === "" ? EEXIST : ENOTDIR;
  }
  const inode = allocInode(kind);
  if (inode === NULL) {
    iput(parent.directory);
    return ENOMEM;
  }
  Inode.at(inode).device = device;
  const error = addEntry(parent.directory, parent.name, inode);
  iput(parent.directory);
  if (error === 0) return inode;
  iput(inode);
  return error;
}

/** Kernel: `do_unlinkat()`. @returns 0; EISDIR; as `lookupPath`. */
export function unlinkPath(path: string): 0 | Errno {
  const parent = parentOf(path);
  if (typeof parent === "number") return parent;
  const error = parent.name === "" ? ENOENT : removeEntry(parent.directory, parent.name);
  iput(parent.directory);
  return error;
}

/** Makes the directories of a path that are missing: for what the kernel puts there itself. @returns 0; ENOMEM; ENOTDIR. */
export function makeParents(path: string): 0 | Errno {
  const parts = components(path).slice(0, -1);
  for (let i = 1; i <= parts.length; i++) {
    const made = createPath(parts.slice(0, i).join("/"), INODE_DIRECTORY);
    if (isErr(made)) {
      if (made !== EEXIST) return made;
    } else {
      iput(made);
    }
  }
  return 0;
}

/** True for a kind whose contents are the page cache's. */
export function hasPages(kind: number): boolean {
  return kind === INODE_FILE;
}
