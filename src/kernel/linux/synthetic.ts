// Synthetic files at work: the text is made when the file is opened and kept with it, so that reads of one opening agree (fs/seq_file.c).
import { EFAULT, EINVAL, EIO, ENOMEM, type Errno } from "../../abi/index.ts";
import { addVirt, fail, NULL, type VirtAddr } from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { kfree, kmalloc } from "../mm/slab.ts";
import { copyFromUser, copyToUser } from "../mm/uaccess.ts";
import { File, type FileOperations, type FilePtr } from "./file-struct.ts";
import { Inode } from "./inode-struct.ts";
import { kernelBuffer } from "./kernel-buffer.ts";
import { loadText, storeText } from "./kernel-text-bytes.ts";
import { SYNTHETIC_FILES } from "./synthetic-table.ts";

/** Makes the text of synthetic file `index` and gives it to an open file. @returns 0; ENOMEM. */
export function openSynthetic(file: FilePtr, index: number): 0 | Errno {
  const entry = SYNTHETIC_FILES[index] ?? fail(`synthetic file ${index}`);
  const text = entry.text();
  const buffer = kmalloc(Math.max(4, text.length + 3), GFP_KERNEL);
  if (buffer === NULL) return ENOMEM;
  storeText(buffer, text);
  const view = File.at(file);
  view.privateData = buffer;
  view.textBytes = text.length;
  return 0;
}

function read(file: FilePtr, to: VirtAddr, bytes: number): number {
  const view = File.at(file);
  const { position } = view;
  const count = Math.min(bytes, view.textBytes - position);
  if (count <= 0) return 0;
  const done = count - copyToUser(to, addVirt(view.privateData, position), count);
  view.position = position + done;
  return done > 0 ? done : EFAULT;
}

/** Longest text that is written to such a file at once. */
const MAX_WRITE = 64;

/** One write is one request to the kernel, whole (kernel: `kernfs_fop_write_iter()`). */
function write(file: FilePtr, from: VirtAddr, bytes: number): number {
  const entry = SYNTHETIC_FILES[Inode.at(File.at(file).inode).device] ?? fail("a synthetic file without an entry");
  const { store } = entry;
  if (store === undefined) return EIO;
  if (bytes > MAX_WRITE) return EINVAL;
  const text = kernelBuffer(MAX_WRITE + 4, (buffer) => (copyFromUser(buffer, from, bytes) !== 0 ? EFAULT : loadText(buffer, bytes)));
  if (typeof text !== "string") return text;
  const error = store(text);
  return error !== 0 ? error : bytes;
}

export const syntheticOperations: FileOperations = { read, write, release: (file) => kfree(File.at(file).privateData) };
