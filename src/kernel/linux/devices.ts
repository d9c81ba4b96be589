// /dev/null and /dev/zero (drivers/char/mem.c), and zeroes for user memory.
import { EFAULT } from "../../abi/index.ts";
import { addVirt, PAGE_SIZE, type VirtAddr } from "../../hardware/index.ts";
import { copyToUser } from "../mm/uaccess.ts";
import { staticBytes } from "../static-data.ts";
import type { FileOperations } from "./file-struct.ts";

/** Never written. */
const zeroes = staticBytes("empty_zero_page", PAGE_SIZE, PAGE_SIZE);

/** Writes zeroes to user memory. @returns bytes that could not be written (kernel: `clear_user()`). */
export function clearUser(to: VirtAddr, bytes: number): number {
  for (let done = 0; done < bytes; ) {
    const piece = Math.min(PAGE_SIZE, bytes - done);
    const left = copyToUser(addVirt(to, done), zeroes, piece);
    if (left > 0) return bytes - done - (piece - left);
    done += piece;
  }
  return 0;
}

function readZero(_file: unknown, to: VirtAddr, bytes: number): number {
  const done = bytes - clearUser(to, bytes);
  return done > 0 || bytes === 0 ? done : EFAULT;
}

/** Takes everything without looking at it. */
function writeNull(_file: unknown, _from: VirtAddr, bytes: number): number {
  return bytes;
}

export const nullOperations: FileOperations = { read: () => 0, write: writeNull, release: () => undefined };
export const zeroOperations: FileOperations = { read: readZero, write: writeNull, release: () => undefined };
