// Bad images and bad archives (System V ABI, chapters 4 and 5; cpio(5)): an error that a caller can expect, whatever the bytes are.
import { deepEqual, equal } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { inKernel } from "../../../test/in-kernel.ts";
import { randomIntegers } from "../../../test/mm-fixture.ts";
import { EINVAL, EIO, ENOEXEC, isErr } from "../../abi/index.ts";
import { addVirt, cpu, type VirtAddr } from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { kfree, kmalloc } from "../mm/slab.ts";
import { type ElfImage, readElf } from "./elf.ts";
import { unpackToRootfs } from "./initramfs.ts";
import { INODE_FILE, type InodePtr } from "./inode-struct.ts";
import { createPath, lookupPath } from "./namei.ts";
import { truncatePages, writeKernel } from "./page-cache.ts";
import { iput } from "./ramfs.ts";

const HELLO = new Uint8Array(readFileSync(fileURLToPath(new URL("../../../../programs/built/hello.elf", import.meta.url))));

/** Puts bytes in kernel memory, and calls `use` with their address. */
function withBytes<T>(bytes: Uint8Array, use: (at: VirtAddr) => T): T {
  const at = kmalloc(Math.max(64, Math.ceil(bytes.length / 4) * 4 + 8), GFP_KERNEL);
  for (let i = 0; i < bytes.length; i++) cpu.store(addVirt(at, i), 1, bytes[i] ?? 0);
  const result = use(at);
  kfree(at);
  return result;
}

function fileOf(bytes: Uint8Array): InodePtr {
  const inode = createPath(`/elf-${bytes.length}-${bytes[16]}`, INODE_FILE);
  if (isErr(inode)) throw new Error(`no file: ${inode}`);
  withBytes(bytes, (at) => writeKernel(inode, 0, at, bytes.length));
  return inode;
}

/** The first page of the program with `length` bytes at `at` replaced. */
function patched(at: number, ...values: number[]): Uint8Array {
  const bytes = HELLO.slice(0, 4096);
  bytes.set(values, at);
  return bytes;
}

/** What reading an image gives: its number of segments, or the error. */
function outcome(inode: InodePtr, bytes: Uint8Array): number {
  truncatePages(inode, 0);
  withBytes(bytes, (at) => writeKernel(inode, 0, at, bytes.length));
  const image: ElfImage | number = readElf(inode, HELLO.length);
  return typeof image === "number" ? image : image.segments.length;
}

test("what is wrong with an image is ENOEXEC where it is no such program, EINVAL or EIO where it is damaged", () => {
  const { result } = inKernel(() => {
    const inode = fileOf(HELLO.slice(0, 4096));
    const is = (bytes: Uint8Array): number => outcome(inode, bytes);
    return {
      whole: is(patched(0)) > 0,
      magic: is(patched(0, 0x7e)),
      // A class, a byte order, a kind and a machine that it is not.
      identity: [is(patched(4, 3)), is(patched(5, 2)), is(patched(16, 3)), is(patched(18, 40))],
      // Program headers of another size, none, too many, behind the end.
      headers: [is(patched(54, 57)), is(patched(56, 0)), is(patched(56, 0xff, 0xff)), is(patched(32, 0, 0, 0, 0x7f))],
      // First header: an interpreter; an address that its offset does not fit; one in the kernel; one at 0.
      segments: [is(patched(64, 3)), is(patched(64 + 16, 1)), is(patched(64 + 16 + 7, 0xff)), is(patched(64 + 16, 0, 0, 0, 0))],
      empty: is(new Uint8Array(0)),
    };
  });
  deepEqual(result, {
    whole: true,
    magic: ENOEXEC,
    identity: [ENOEXEC, ENOEXEC, ENOEXEC, ENOEXEC],
    headers: [ENOEXEC, ENOEXEC, ENOEXEC, EIO],
    segments: [ENOEXEC, EINVAL, EINVAL, EINVAL],
    empty: ENOEXEC,
  });
});

test("no random damage to the headers does anything but give an error or an image (seed 1)", () => {
  const { result } = inKernel(() => {
    const random = randomIntegers(1);
    const inode = fileOf(HELLO.slice(0, 4096));
    const seen = new Set<string>();
    for (let i = 0; i < 60; i++) {
      const bytes = HELLO.slice(0, 512);
      for (let j = 0; j < 4; j++) bytes[4 + random(250)] = random(256);
      const got = outcome(inode, bytes);
      seen.add(got > 0 ? "an image" : ([ENOEXEC, EINVAL, EIO] as number[]).includes(got) ? "an error" : `error ${got}`);
    }
    return [...seen].sort();
  });
  deepEqual(
    result.filter((text) => text !== "an image"),
    ["an error"],
  );
});

const HEADER = `070701${"0".repeat(8 * 13)}`;

function archive(...fields: readonly [index: number, value: number][]): Uint8Array {
  let header = HEADER;
  for (const [index, value] of fields) {
    const at = 6 + 8 * index;
    header = header.slice(0, at) + value.toString(16).padStart(8, "0") + header.slice(at + 8);
  }
  return new TextEncoder().encode(`${header}name\0\0\0\0\0\0\0\0\0`);
}

test("a malformed archive gives one message that says what is wrong and where, and what was before it is there", () => {
  const { result } = inKernel(() => {
    const say = (bytes: Uint8Array): string | undefined => withBytes(bytes, (at) => unpackToRootfs(at, bytes.length));
    const messages = [
      say(new TextEncoder().encode("nothing like an archive".padEnd(128, "."))),
      say(archive([1, 0o100644])),
      say(archive([1, 0o100644], [11, 5], [6, 1000])),
      say(archive([1, 0o120644], [11, 5])),
      say(archive([1, 0o100644], [11, 4])),
      say(archive([1, 0o100644], [11, 5])),
    ];
    const inode = lookupPath("name");
    if (!isErr(inode)) iput(inode);
    return { messages, isThere: !isErr(inode) };
  });
  deepEqual(result.messages, [
    "no magic 070701 at byte 0",
    "a name of 0 bytes at byte 0",
    "an entry of 1000 bytes does not fit at byte 0",
    "name: neither a file nor a directory",
    "a name that does not end where it says at byte 0",
    "the archive ends before its trailer at byte 116",
  ]);
  equal(result.isThere, true);
});
