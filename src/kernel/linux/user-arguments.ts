// What system calls are given: user addresses, text, and small values in user memory.
import { EFAULT, ENAMETOOLONG, type Errno, isErr, PATH_MAX } from "../../abi/index.ts";
import { addVirt, cpu, PAGE_SIZE, type VirtAddr, virtAddr } from "../../hardware/index.ts";
import { accessOk } from "../mm/layout.ts";
import { copyFromUser, copyToUser } from "../mm/uaccess.ts";
import { kernelBuffer } from "./kernel-buffer.ts";
import { loadString, loadText } from "./kernel-text-bytes.ts";

/** A user address from a register, or EFAULT: what is not canonical, or of the kernel, is nobody's. */
export function userAddress(value: number): VirtAddr | Errno {
  return accessOk(value, 0) ? virtAddr(value) : EFAULT;
}

/** A user address of `bytes` bytes, or EFAULT (kernel: `access_ok()`). */
export function userRange(value: number, bytes: number): VirtAddr | Errno {
  return accessOk(value, bytes) ? virtAddr(value) : EFAULT;
}

/** Bytes of text that are read at once. */
const PIECE = 256;

/** NUL-terminated text at a user address, at most `limit` bytes with the NUL (kernel: `strncpy_from_user()`). @returns EFAULT; ENAMETOOLONG; ENOMEM. */
export function userText(address: number, limit: number = PATH_MAX): string | Errno {
  const from = userAddress(address);
  if (isErr(from)) return from;
  return kernelBuffer(PIECE, (buffer) => textThrough(buffer, from, limit));
}

function textThrough(buffer: VirtAddr, from: VirtAddr, limit: number): string | Errno {
  let text = "";
  while (text.length < limit) {
    const at = addVirt(from, text.length);
    // Not beyond the end of a page: what follows may not be there.
    const piece = Math.min(PIECE, PAGE_SIZE - (at % PAGE_SIZE));
    if (copyFromUser(buffer, at, piece) !== 0) return EFAULT;
    // Pieces end where a word does, but for the first of an odd address: what lies behind it in the buffer is zeroed first.
    const whole = Math.ceil(piece / 4) * 4;
    if (whole > piece) cpu.fill(addVirt(buffer, piece), 0xff, whole - piece);
    const found = loadString(buffer, whole);
    if (found !== undefined) return text + found;
    text += loadText(buffer, piece);
  }
  return ENAMETOOLONG;
}

/** Calls `use` with a kernel copy of `bytes` bytes of user memory. @returns EFAULT; ENOMEM; what `use` returns. */
export function withUserBytes<T>(address: number, bytes: number, use: (buffer: VirtAddr) => T): T | Errno {
  const from = userRange(address, bytes);
  if (isErr(from)) return from;
  return kernelBuffer(bytes, (buffer) => (copyFromUser(buffer, from, bytes) !== 0 ? EFAULT : use(buffer)));
}

/** Fills `bytes` bytes of kernel memory by `fill` and copies them to user memory. @returns 0; EFAULT; ENOMEM. */
export function giveUserBytes(address: number, bytes: number, fill: (buffer: VirtAddr) => void): 0 | Errno {
  const to = userRange(address, bytes);
  if (isErr(to)) return to;
  return kernelBuffer<0 | Errno>(bytes, (buffer) => {
    fill(buffer);
    return copyToUser(to, buffer, bytes) === 0 ? 0 : EFAULT;
  });
}
