// A file that has no contents but what a function makes of it when it is read, and does when it is written (kernel: kobj_attribute,
// seq_file). Who offers such files lists them by path; the file system opens them.
import type { Errno } from "../abi/index.ts";

export interface SyntheticFile {
  /** What reading gives, in kernel context. */
  readonly show: () => string;
  /** What writing does. Without it the file is read-only. @returns 0 or an error. */
  readonly store?: (text: string) => 0 | Errno;
}

/** Files by their absolute path. */
export type SyntheticFiles = ReadonlyMap<string, SyntheticFile>;
