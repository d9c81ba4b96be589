// Which kernel functions run, by the kernel's names: read off the host's own stack, so that it costs the simulated machine nothing. For
// observers alone: the kernel itself never asks.

/** Functions of ours that are part of one of the kernel's: split off where a path may go on from a cut point. */
const PARTS: ReadonlyMap<string, string> = new Map([
  ["finishRun", "kvm_arch_vcpu_ioctl_run"],
  ["kvmRunResume", "kvm_arch_vcpu_ioctl_run"],
]);

/** A kernel name from ours: `kvmArchVcpuIoctlRun` is kvm_arch_vcpu_ioctl_run. */
export function kernelName(name: string): string {
  return PARTS.get(name) ?? name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** Of the fault path and of reporting itself. */
const LEFT_OUT = new Set(["asiExit", "excPageFault", "handlePageFault", "trace", "warn", "effect"]);

/** Files whose functions hand out memory: what they allocate is allocated by who called them. */
const ALLOCATORS = /[/\\]mm[/\\](?:page-alloc|slab|vmalloc|vmap-area|percpu|kernel-map|buddy|async-free|kmap)\.[jt]s/;
const KERNEL = /[/\\]kernel[/\\]/;
const THIS_FILE = /[/\\]running-functions\.[jt]s/;
/** Deep enough for a handler on top of a system call. */
const FRAMES = 40;

/** For observers, inside their `allocated()`: the kernel function that asked for the memory, by its kernel name. */
export function allocationSite(): string {
  return runningFunctions(1, ALLOCATORS)[0] ?? "";
}

/**
 * For observers, inside their `trace()`: the kernel functions that are running, innermost first, by kernel names; those of the fault
 * path itself left out. A nested handler's callers are there too, because delivery nests. At most `count` names.
 */
export function kernelCallers(count: number): readonly string[] {
  return runningFunctions(count, undefined);
}

/** A function on the host's stack. */
export interface RunningFrame {
  readonly name: string;
  /** It is the kernel's, not a machine's. */
  readonly isKernel: boolean;
}

/** For observers, inside a step: everything that runs, innermost first, under its own names. */
export function runningFrames(): readonly RunningFrame[] {
  return callSites()
    .filter((frame) => !THIS_FILE.test(frame.getFileName() ?? ""))
    .map((frame) => ({
      name: frame.getFunctionName()?.split(".").at(-1) ?? "",
      isKernel: KERNEL.test(frame.getFileName() ?? ""),
    }));
}

function runningFunctions(count: number, leftOutFiles: RegExp | undefined): readonly string[] {
  const names: string[] = [];
  for (const frame of callSites()) {
    const file = frame.getFileName() ?? "";
    if (!KERNEL.test(file) || THIS_FILE.test(file) || leftOutFiles?.test(file) === true) continue;
    const name = frame.getFunctionName()?.split(".").at(-1) ?? "";
    if (name === "" || LEFT_OUT.has(name)) continue;
    names.push(kernelName(name));
    if (names.length === count) break;
  }
  return names;
}

/** The host's stack as V8 gives it, without making text of it. https://v8.dev/docs/stack-trace-api */
function callSites(): readonly NodeJS.CallSite[] {
  const { prepareStackTrace, stackTraceLimit } = Error;
  let sites: readonly NodeJS.CallSite[] = [];
  Error.stackTraceLimit = FRAMES;
  Error.prepareStackTrace = (_error, frames) => {
    sites = frames;
    return "";
  };
  void new Error().stack;
  Error.stackTraceLimit = stackTraceLimit;
  if (prepareStackTrace === undefined) Reflect.deleteProperty(Error, "prepareStackTrace");
  else Error.prepareStackTrace = prepareStackTrace;
  return sites;
}
