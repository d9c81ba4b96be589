// Synthetic files at work: the text is made when the file is opened and kept with it, so that reads of one opening agree (fs/seq_file.c).
import { EFAULT, ENOMEM, type Errno } from "../../abi/index.ts";
import { addVirt, fail, NULL, type VirtAddr } from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { kfree, kmalloc } from "../mm/slab.ts";
import { copyToUser } from "../mm/uaccess.ts";
import { File, type FileOperations, type FilePtr } from "./file-struct.ts";
import { storeText } from "./kernel-text-bytes.ts";
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

export const syntheticOperations: FileOperations = { read, release: (file) => kfree(File.at(file).privateData) };
