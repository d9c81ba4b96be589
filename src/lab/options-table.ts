// What each option beyond the posted series saves: transitions and flushes per 1,000 operations of small workloads, counted from the kernel's
// trace points on the simulated machine. Counts, not times: the same on every host.
import { SYS } from "../abi/index.ts";
import { type CpuModel, fail, PUPPET_STATE, type Puppet, silentObserver } from "../hardware/index.ts";
import { ASI_OPTIONS, buildKernelImage, type ProcessConfig, TRACE_SYSCALL, TRACE_VM_EXIT } from "../kernel/index.ts";
import { SimulatedMachine } from "../machine/index.ts";
import { encodeVmmArguments, type GuestImage, VMM_PUPPET, vmmPuppet } from "../vmm/index.ts";
import { TransitionCounter, type TransitionCounts } from "./transition-counts.ts";

/** What happened during `OPERATIONS` operations of a workload. */
export type OptionCounts = TransitionCounts;

export interface OptionRow {
  readonly workload: string;
  /** What the 1,000 are. */
  readonly unit: string;
  /** Changed against preset cordon: `cordon.NAME=on|off`; empty for the preset itself; "cordon-fast" for all. */
  readonly option: string;
  readonly counts: OptionCounts;
}

/** Operations that are counted, after WARM_UP others. */
export const OPERATIONS = 1000;
const WARM_UP = 100;
const LIMIT = 400_000_000;
const GUEST_BYTES = 4 * 2 ** 20;
const HOST_BYTES = 96 * 2 ** 20;

interface Workload {
  readonly name: string;
  readonly unit: string;
  /** Event that each operation emits once. */
  readonly operation: number;
  readonly processes: readonly ProcessConfig[];
}

const CODE_START = 0x100000;

/** A guest without a compiler: `code` at 1 MiB. */
function guest(code: readonly number[]): GuestImage {
  const bytes = Uint8Array.from(code);
  return { entry: CODE_START, segments: [{ address: CODE_START, bytes, memoryBytes: bytes.length }], symbols: new Map() };
}

// MOV AL, 'A'; OUT 0xe9, AL; JMP back: each exit is the monitor's.
const CONSOLE_GUEST = guest([0xb0, 0x41, 0xe6, 0xe9, 0xeb, 0xfa]);
// MOV EAX, 1 (KVM_HC_VAPIC_POLL_IRQ); VMCALL; JMP back: each exit is the kernel's.
const HYPERCALL_GUEST = guest([0xb8, 0x01, 0x00, 0x00, 0x00, 0x0f, 0x01, 0xc1, 0xeb, 0xf6]);

function monitor(image: GuestImage): ProcessConfig {
  return { name: "vmm", puppet: VMM_PUPPET, args: encodeVmmArguments({ image, memoryBytes: GUEST_BYTES, commandLine: "" }) };
}

const caller: Puppet = () => ({ kind: "syscall", number: SYS.getppid, args: [] });
const yielder: Puppet = () => ({ kind: "syscall", number: SYS.sched_yield, args: [] });
/** Sleeps for 2 microseconds each time: the idle task runs in between. */
const SLEEP_NANOSECONDS = 2000;
const sleeper: Puppet = ({ state }) => {
  state.setUint32(8, SLEEP_NANOSECONDS, true);
  return { kind: "syscall", number: SYS.nanosleep, args: [PUPPET_STATE, 0] };
};

const WORKLOADS: readonly Workload[] = [
  { name: "guest, hypercalls", unit: "VM exits", operation: TRACE_VM_EXIT, processes: [monitor(HYPERCALL_GUEST)] },
  { name: "guest, console", unit: "VM exits", operation: TRACE_VM_EXIT, processes: [monitor(CONSOLE_GUEST)] },
  { name: "getppid", unit: "system calls", operation: TRACE_SYSCALL, processes: [{ name: "caller", puppet: "caller" }] },
  {
    name: "two processes in turn",
    unit: "system calls",
    operation: TRACE_SYSCALL,
    processes: [
      { name: "one", puppet: "yielder" },
      { name: "other", puppet: "yielder" },
    ],
  },
  { name: "short sleeps", unit: "system calls", operation: TRACE_SYSCALL, processes: [{ name: "sleeper", puppet: "sleeper" }] },
];

/** Runs one workload with `commandLine`. */
function measure(workload: Workload, model: CpuModel, commandLine: string): OptionCounts {
  let operations = 0;
  const counter = new TransitionCounter();
  const count = (event: number, a: number): void => {
    if (event === workload.operation) {
      operations++;
      if (operations === WARM_UP + OPERATIONS) machine.stop({ kind: "limit" });
    }
    if (operations <= WARM_UP || operations > WARM_UP + OPERATIONS) return;
    counter.hear(event, a);
  };
  const machine: SimulatedMachine = new SimulatedMachine({
    model,
    memoryBytes: HOST_BYTES,
    cpus: 1,
    gear: "architectural",
    image: buildKernelImage({
      preset: "cordon",
      processes: workload.processes,
      puppets: new Map([
        [VMM_PUPPET, vmmPuppet(() => undefined)],
        ["caller", caller],
        ["yielder", yielder],
        ["sleeper", sleeper],
      ]),
    }),
    commandLine,
    observer: { ...silentObserver, trace: count },
    console: () => undefined,
  });
  machine.run(LIMIT);
  if (operations < WARM_UP + OPERATIONS) fail(`${workload.name} with ${commandLine}: ${operations} operations`);
  return counter.counts();
}

/** Rows for preset cordon, for each option alone as cordon-fast has it, and for all together; workload by workload. */
export function measureOptions(model: CpuModel): readonly OptionRow[] {
  const changes = ASI_OPTIONS.filter(({ isOnByDefault }) => isOnByDefault.cordon !== isOnByDefault["cordon-fast"]).map(
    ({ name, isOnByDefault }) => `cordon.${name}=${isOnByDefault["cordon-fast"] ? "on" : "off"}`,
  );
  const lines: readonly (readonly [option: string, commandLine: string])[] = [
    ["", ""],
    ...changes.map((change): readonly [string, string] => [change, change]),
    ["cordon-fast", changes.join(" ")],
  ];
  return WORKLOADS.flatMap((workload) =>
    lines.map(([option, extra]) => ({
      workload: workload.name,
      unit: workload.unit,
      option,
      counts: measure(workload, model, `asi=on ${extra}`),
    })),
  );
}

const COLUMNS: readonly (readonly [keyof OptionCounts, string])[] = [
  ["transitions", "transitions"],
  ["controlFlushes", "control flushes"],
  ["returnStackFills", "return-stack fills"],
  ["dataFlushes", "data flushes"],
  ["tlbFlushes", "TLB flushes"],
];

/** The rows as a Markdown table: preset cordon of each workload, and the options that change anything there. */
export function optionsTable(rows: readonly OptionRow[]): string {
  const lines = [
    `| per 1,000 | workload | option | ${COLUMNS.map(([, title]) => title).join(" | ")} |`,
    `|---|---|---|${COLUMNS.map(() => "--:").join("|")}|`,
  ];
  let base: OptionCounts | undefined;
  for (const { workload, unit, option, counts } of rows) {
    if (option === "") base = counts;
    else if (COLUMNS.every(([key]) => counts[key] === base?.[key])) continue;
    const what = option === "" ? "preset cordon" : option === "cordon-fast" ? "preset cordon-fast" : `\`${option}\``;
    lines.push(`| ${unit} | ${workload} | ${what} | ${COLUMNS.map(([key]) => counts[key]).join(" | ")} |`);
  }
  return `${lines.join("\n")}\n`;
}
