// The console that every process starts with as descriptors 0, 1 and 2: bytes go to the machine's debug port, standard error's to the
// serial port, so that whoever runs a program can tell them apart. Nobody types: reading gives the end of the file.
import { EFAULT, ENOMEM } from "../../abi/index.ts";
import { addVirt, cpu, NULL, PAGE_SIZE, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { GFP_USER } from "../mm/gfp.ts";
import { kfree, kmalloc } from "../mm/slab.ts";
import { copyFromUser } from "../mm/uaccess.ts";
import { File, type FileOperations } from "./file-struct.ts";

/** Port of the debug console: what a console file without a port of its own writes to. */
export const CONSOLE_PORT = 0xe9;
/** Transmitter of the first serial port: standard error. */
export const ERROR_PORT = 0x3f8;

/** Writes `bytes` from user memory, in pieces of one buffer. @returns bytes written; EFAULT; ENOMEM. */
function consoleWrite(file: Ptr<"file">, from: VirtAddr, bytes: number): number {
  if (bytes === 0) return 0;
  const size = Math.min(bytes, PAGE_SIZE / 2);
  const port = File.at(file).privateData === NULL ? CONSOLE_PORT : ERROR_PORT;
  const buffer = kmalloc(size, GFP_USER);
  if (buffer === NULL) return ENOMEM;
  let done = 0;
  while (done < bytes) {
    const piece = Math.min(bytes - done, size);
    if (copyFromUser(buffer, addVirt(from, done), piece) !== 0) break;
    for (let i = 0; i < piece; i++) cpu.portOut(port, 1, cpu.load(addVirt(buffer, i), 1));
    done += piece;
  }
  kfree(buffer);
  return done > 0 ? done : EFAULT;
}

export const consoleOperations: FileOperations = { read: () => 0, write: consoleWrite, release: () => undefined };
