// What address space isolation stands in for on this CPU and with this selection, told beside the reports of the other mitigations: for
// each bug how isolation meets it, and whether the conventional mitigation is in force as well. The posted series reports nothing.
import type { CpuBug } from "./cpu-bugs.ts";
import type { Reported } from "./vulnerabilities.ts";

/** Which parts of isolation are on. */
export interface AsiState {
  readonly isOn: boolean;
  /** Guests are entered from domains. */
  readonly hasKvm: boolean;
  /** Processes run in domains. */
  readonly hasUserspace: boolean;
  /** Option flush_taints: what is else cleared at every entry and exit follows the taints. */
  readonly flushTaints: boolean;
  /** Option core_sched is in force. */
  readonly siblingsApart: boolean;
}

export interface Replacement {
  /** Name of the file in vulnerabilities/, or what it is about. */
  readonly name: string;
  readonly text: string;
}

type Line = readonly [name: string, bug: CpuBug, covered: boolean, how: string, conventional: string | undefined];

/** One entry for each bug that the CPU has and isolation bears on. */
export function asiReplacements({ cpu, selection, state }: Reported, asi: AsiState): readonly Replacement[] {
  if (!asi.isOn) return [];
  const { choices, features } = selection;
  const both = asi.hasKvm && asi.hasUserspace;
  const partly = both ? "" : asi.hasKvm ? " (guests only)" : asi.hasUserspace ? " (processes only)" : "";
  const some = asi.hasKvm || asi.hasUserspace;
  const buffers = features.has("CLEAR_CPU_BUF") && !(asi.flushTaints && asi.hasUserspace) ? "VERW at every exit" : undefined;
  const v2 = choices.spectre_v2 === "NONE" ? undefined : choices.spectre_v2;
  const v2Name = v2 === "IBRS" ? "IBRS at every entry" : v2 === undefined ? undefined : "enhanced IBRS";
  const history = features.has("CLEAR_BHB_LOOP") && !asi.flushTaints ? "history cleared at every entry" : undefined;
  const flushed = "data flush before entering a domain that must not see what ran";
  const mapped = "speculation in a domain reaches nothing secret";
  const barrier = "barrier and return-stack fill on leaving a domain";
  const lines: readonly Line[] = [
    ["meltdown", "CPU_MELTDOWN", asi.hasUserspace, "kernel secrets are not mapped in a process's domain, instead of PTI", undefined],
    ["l1tf", "L1TF", asi.hasKvm, flushed, asi.flushTaints ? undefined : "KVM's L1D flush"],
    ["mds", "MDS", some, flushed + partly, buffers],
    ["tsx_async_abort", "TAA", some, flushed + partly, choices.taa === "TSX_DISABLED" ? "TSX disabled" : buffers],
    ["mmio_stale_data", "MMIO_STALE_DATA", some, flushed + partly, buffers],
    ["spectre_v1", "SPECTRE_V1", some, mapped + partly, choices.spectre_v1 === "AUTO" ? "barriers" : undefined],
    ["spectre_v2", "SPECTRE_V2", some, barrier + partly, v2Name],
    ["retbleed", "RETBLEED", some, barrier + partly, v2Name],
    ["branch history", "BHI", some, mapped + partly, history],
    ["indirect_target_selection", "ITS", some, mapped + partly, undefined],
    [
      "vmscape",
      "VMSCAPE",
      asi.hasKvm,
      "barrier before a monitor that a guest trained",
      choices.vmscape === "NONE" ? undefined : "IBPB before exit to userspace",
    ],
    ["spec_store_bypass", "SPEC_STORE_BYPASS", false, "within one address space", choices.ssb === "NONE" ? undefined : "prctl"],
    ["gather_data_sampling", "GDS", false, "registers are not cleared", choices.gds === "FULL" ? "microcode" : undefined],
  ];
  const found = lines
    .filter(([, bug]) => cpu.hasBug(bug))
    .map(([name, , covered, how, conventional]): Replacement => {
      const also = conventional === undefined ? "" : `; also ${conventional}`;
      return { name, text: `${covered ? "Covered" : "Not covered"}: ${how}${also}` };
    });
  // Every line above is about one CPU after another. What two threads of a core have at the same time, no flush at an entry clears.
  const open = "Not covered: what one leaves in the core's caches and buffers the other may sample";
  const apart = "Covered: one domain at a time on a core, the other thread stopped or quiet";
  const siblings = state.isSmtActive ? (asi.siblingsApart ? apart : open) : "None online";
  return cpu.isSmtPossible ? [...found, { name: "siblings", text: siblings }] : found;
}

/** The file `/sys/devices/system/cpu/asi`: which classes are on, then a line for each bug. */
export function asiReportText(reported: Reported, asi: AsiState): string {
  if (!asi.isOn) return "off\n";
  const classes = [...(asi.hasKvm ? ["KVM"] : []), ...(asi.hasUserspace ? ["userspace"] : [])].join(", ");
  const lines = asiReplacements(reported, asi).map(({ name, text }) => `${name}: ${text}`);
  return `${[`on: ${classes === "" ? "no class" : classes}`, ...lines].join("\n")}\n`;
}
