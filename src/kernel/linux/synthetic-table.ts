// The files whose text the kernel writes when they are opened: statistics and vulnerabilities (sysfs, procfs, debugfs). A line here is
// all that such a file needs: its path, and a function that says what it holds now.
import type { Errno } from "../../abi/index.ts";
import { asiExitsText } from "../asi/asi-stats.ts";
import { MITIGATION_FILES } from "../mitigations/report-files.ts";
import { nrFreePages } from "../mm/page-alloc.ts";
import { onlineCpus } from "../mm/percpu.ts";
import { EFI_FILES } from "../power/efi.ts";
import { POWER_FILES } from "../power/suspend.ts";
import type { SyntheticFiles } from "../synthetic-file.ts";

interface SyntheticEntry {
  readonly path: string;
  /** Kernel code in process context; may take steps. */
  readonly text: () => string;
  /** What writing does; without it the file cannot be written. */
  readonly store?: (text: string) => 0 | Errno;
}

/** Files that other folders offer by path. */
function offered(files: SyntheticFiles): readonly SyntheticEntry[] {
  return [...files].map(([path, { show, store }]) => (store === undefined ? { path, text: show } : { path, text: show, store }));
}

/** CPUs as ranges, as sysfs prints them (kernel: `cpumap_print_list_to_buf()`). */
function cpuList(mask: number): string {
  const ranges: string[] = [];
  for (let id = 0; id < 32; id++) {
    if ((mask & (1 << id)) === 0) continue;
    const first = id;
    while (id < 31 && (mask & (1 << (id + 1))) !== 0) id++;
    ranges.push(first === id ? `${id}` : `${first}-${id}`);
  }
  return `${ranges.join(",")}\n`;
}

export const SYNTHETIC_FILES: readonly SyntheticEntry[] = [
  ...offered(MITIGATION_FILES),
  ...offered(POWER_FILES),
  ...offered(EFI_FILES),
  { path: "/sys/devices/system/cpu/online", text: () => cpuList(onlineCpus()) },
  { path: "/sys/kernel/debug/asi/exits", text: asiExitsText },
  { path: "/proc/meminfo", text: () => `MemFree:        ${String(nrFreePages() * 4).padStart(8)} kB\n` },
];
