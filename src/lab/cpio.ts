// Packs files as a cpio archive in the "newc" format, which the kernel takes as its initial RAM disk (cpio(5), "New ASCII Format").

const encoder = new TextEncoder();
const FILE_MODE = 0o100755;

function header(name: Uint8Array, mode: number, bytes: number, inode: number): Uint8Array {
  // Inode, mode, owner, group, links, time, size, device, device of a node, length of the name with its NUL, check.
  const fields = [inode, mode, 0, 0, 1, 0, bytes, 0, 0, 0, 0, name.length + 1, 0];
  return encoder.encode(`070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`);
}

function padded(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = parts.reduce((sum, part) => sum + part.length, 0);
  const out = new Uint8Array(Math.ceil(bytes / 4) * 4);
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function entry(path: string, mode: number, content: Uint8Array, inode: number): readonly Uint8Array[] {
  const name = encoder.encode(path);
  return [padded([header(name, mode, content.length, inode), name, new Uint8Array(1)]), padded([content])];
}

/** The archive of `files`: contents by path, with or without a leading slash; folders are made by who unpacks it. */
export function packCpio(files: ReadonlyMap<string, Uint8Array>): Uint8Array {
  const parts: Uint8Array[] = [];
  let inode = 1;
  for (const [path, content] of files) parts.push(...entry(path.replace(/^\/+/, ""), FILE_MODE, content, inode++));
  parts.push(...entry("TRAILER!!!", 0, new Uint8Array(0), 0));
  return padded(parts);
}
