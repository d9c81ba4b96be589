// Where each CPU's area is, and which CPUs run. A CPU's area is one unit of the direct map: the static variables, then room for
// dynamic ones, so that one offset reaches a variable in every unit.
import { array, PER_CPU_STATIC_BYTES, struct, u32, virtual } from "../../hardware/index.ts";
import { spinlock } from "../spinlock.ts";
import { staticBytes, staticStruct } from "../static-data.ts";
import { NR_CPUS } from "./layout.ts";

/** Bytes of each area for dynamic variables (kernel: PERCPU_DYNAMIC_RESERVE, larger). */
export const PERCPU_DYNAMIC_BYTES = 49152;
/** One CPU's area. */
export const PERCPU_UNIT_BYTES = PER_CPU_STATIC_BYTES + PERCPU_DYNAMIC_BYTES;
/** Granule of dynamic variables. */
export const PERCPU_GRANULE_BYTES = 64;
const GRANULES = PERCPU_DYNAMIC_BYTES / PERCPU_GRANULE_BYTES;

export const PerCpuAreas = struct("pcpu_chunk", {
  /** Base of each CPU's area (kernel: __per_cpu_offset, pcpu_base_addr). */
  base: array(virtual, NR_CPUS),
  count: u32,
  lock: spinlock,
  /** One bit per granule of the dynamic part: set = in use; and one that marks where an object ends. */
  used: array(u32, GRANULES / 32),
  last: array(u32, GRANULES / 32),
});
export const PERCPU_GRANULES = GRANULES;
export const perCpuAreas = staticStruct("pcpu_first_chunk", PerCpuAreas);

/** One bit per CPU that runs (kernel: cpu_online_mask). */
export const cpuOnlineMask = staticBytes("cpu_online_mask", 4, 4);
