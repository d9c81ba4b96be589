// The files of a host folder for the RAM file system: every regular file by its path below the folder. Anything else is refused by name:
// what the simulated file system cannot hold must not look as if it were there.
import { lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { UsageError } from "../hardware/index.ts";
import { readBytes } from "./files.ts";

/** More than any host here has RAM for. */
const MAX_BYTES = 256 * 2 ** 20;

/** Contents by absolute path, in order of path. UsageError names the file or folder that is wrong. */
export function readRoot(folder: string): ReadonlyMap<string, Uint8Array> {
  const stat = lstatSync(folder, { throwIfNoEntry: false });
  if (stat?.isDirectory() !== true) throw new UsageError(`${folder}: a folder is accepted`);
  const files = new Map<string, Uint8Array>();
  let total = 0;
  const read = (path: string, inside: string): void => {
    for (const name of readdirSync(path).sort()) {
      const at = join(path, name);
      const here = `${inside}/${name}`;
      const entry = lstatSync(at);
      if (entry.isDirectory()) read(at, here);
      else if (entry.isFile()) {
        total += entry.size;
        if (total > MAX_BYTES) throw new UsageError(`${folder}: more than ${MAX_BYTES / 2 ** 20} MiB of files`);
        files.set(here, readBytes(at));
      } else throw new UsageError(`${at}: only regular files and folders are accepted below ${folder}`);
    }
  };
  read(folder, "");
  return files;
}
