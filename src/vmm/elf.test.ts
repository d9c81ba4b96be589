// What the monitor loads and what it refuses, with the built guests and with headers made wrong byte by byte.
import { deepEqual, ok, throws } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { UsageError } from "../hardware/index.ts";
import { parseElf } from "./elf.ts";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");
const MEMORY = 16 * 2 ** 20;

function hello(): Uint8Array {
  return new Uint8Array(readFileSync(join(root, "guests", "built", "hello.elf")));
}

function refusal(change: (file: Uint8Array) => Uint8Array, memoryBytes = MEMORY): string {
  let message = "";
  throws(
    () => parseElf(change(hello()), "guest.elf", memoryBytes),
    (error) => {
      ok(error instanceof UsageError);
      message = error.message;
      return true;
    },
  );
  ok(!message.includes("\n"), "one line");
  ok(message.startsWith("guest.elf: "));
  ok(message.includes("accepted: a static ELF64 executable for x86-64"));
  return message;
}

function withByte(at: number, value: number): (file: Uint8Array) => Uint8Array {
  return (file) => {
    file[at] = value;
    return file;
  };
}

test("a built guest is read: the entry lies in a segment, all segments at 1 MiB or above", () => {
  const image = parseElf(hello(), "hello.elf", MEMORY);
  ok(image.segments.length > 0);
  for (const segment of image.segments) {
    ok(segment.address >= 0x100000);
    ok(segment.bytes.length <= segment.memoryBytes);
  }
  ok(image.segments.some((s) => image.entry >= s.address && image.entry < s.address + s.bytes.length));
});

test("functions of the benchmark guest are found by name", () => {
  const file = new Uint8Array(readFileSync(join(root, "guests", "built", "bench.elf")));
  const { symbols, segments } = parseElf(file, "bench.elf", MEMORY);
  for (const name of ["k_sort", "k_crc"]) {
    const address = symbols.get(name) ?? 0;
    ok(
      segments.some((s) => address >= s.address && address < s.address + s.bytes.length),
      name,
    );
  }
});

test("what is refused is named (System V ABI, ELF header)", () => {
  ok(refusal(() => new TextEncoder().encode("#!/bin/sh\n")).includes("not an ELF file"));
  ok(refusal((file) => file.subarray(0, 40)).includes("not an ELF file"));
  ok(refusal(withByte(4, 1)).includes("ELF class 1, not 64-bit"));
  ok(refusal(withByte(5, 2)).includes("not little endian"));
  ok(refusal(withByte(16, 3)).includes("ELF type 3"));
  ok(refusal(withByte(18, 183)).includes("ELF machine 183, not x86-64"));
  ok(refusal((file) => file.subarray(0, 200)).includes("outside the file"));
  ok(refusal(withByte(56, 0)).includes("nothing to load"));
});

test("segments outside guest memory are refused with both ranges", () => {
  const message = refusal((file) => file, 0x100000 + 64);
  ok(/a segment at 0x1[0-9a-f]+-0x[0-9a-f]+ lies outside guest memory \(0x100000-0x10003f\)/.test(message), message);
});

test("an entry in no segment is refused", () => {
  ok(refusal(withByte(27, 0x7f)).includes("the entry is in no segment"));
});

test("segments are views of the file, not copies", () => {
  const file = hello();
  const image = parseElf(file, "hello.elf", MEMORY);
  deepEqual(
    image.segments.map((s) => s.bytes.buffer === file.buffer),
    image.segments.map(() => true),
  );
});
