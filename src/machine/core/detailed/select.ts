// The active CPU's core: copies of its addresses at fixed places, so that the fast paths need no pointer chase. And what it means that
// another CPU goes on: its times are its own, so nothing of the last one's pipeline is left.
import {
  CACHE_BASE,
  CACHE_LATENCY,
  CACHE_MASK,
  CACHE_SHIFT,
  CORE_BYTES,
  CORE_DIRECTIONS,
  CORE_FILL_BUFFERS,
  CORE_L1D,
  CORE_L1I,
  CORE_L2,
  CORE_TARGETS,
  CORES_REGION,
  CPU_CYCLES,
  CPU_FLAGS_READY,
  CPU_NOW,
  CPU_READY,
  CPU_RETIRE,
  DETAILED_CODE_PAGE,
  DETAILED_CORE,
  DETAILED_CPU,
  DETAILED_DIRECTIONS,
  DETAILED_FETCHED_LINE,
  DETAILED_FILL_BUFFERS,
  DETAILED_L1D,
  DETAILED_L1D_BASE,
  DETAILED_L1D_LATENCY,
  DETAILED_L1I,
  DETAILED_L1I_BASE,
  DETAILED_L1I_MASK,
  DETAILED_L1I_SHIFT,
  DETAILED_L2,
  DETAILED_RING_INDEX,
  DETAILED_TARGETS,
  DETAILED_THREADS,
  RING_REGION,
  RING_REGION_BYTES,
} from "../layout.gen.ts";

/** Makes the core of logical CPU `cpu` the active one. The CPU block is in place already. */
export function selectCore(cpu: u32): void {
  const number = cpu / load<u32>(DETAILED_THREADS);
  const core: usize = CORES_REGION + number * CORE_BYTES;
  const l1d: usize = core + CORE_L1D;
  const l1i: usize = core + CORE_L1I;
  store<u32>(DETAILED_CPU, cpu);
  store<u32>(DETAILED_CORE, number);
  store<u32>(DETAILED_L1D, l1d as u32);
  store<u32>(DETAILED_L1I, l1i as u32);
  store<u32>(DETAILED_L2, (core + CORE_L2) as u32);
  store<u32>(DETAILED_L1D_BASE, load<u32>(l1d, CACHE_BASE));
  store<u32>(DETAILED_L1D_LATENCY, load<u32>(l1d, CACHE_LATENCY));
  store<u32>(DETAILED_L1I_BASE, load<u32>(l1i, CACHE_BASE));
  store<u32>(DETAILED_L1I_MASK, load<u32>(l1i, CACHE_MASK));
  store<u32>(DETAILED_L1I_SHIFT, load<u32>(l1i, CACHE_SHIFT));
  store<u32>(DETAILED_FILL_BUFFERS, load<u32>(core, CORE_FILL_BUFFERS));
  store<u32>(DETAILED_DIRECTIONS, load<u32>(core, CORE_DIRECTIONS));
  store<u32>(DETAILED_TARGETS, load<u32>(core, CORE_TARGETS));
  store<u32>(DETAILED_CODE_PAGE, 0);
  store<u32>(DETAILED_FETCHED_LINE, u32.MAX_VALUE);
  clearPipeline();
}

/** The pipeline is empty, and the CPU's time is not before its cycle counter (which the architectural gear may have moved). */
export function clearPipeline(): void {
  const cycles = (load<u64>(CPU_CYCLES) << 2) as i64;
  if (load<i64>(CPU_NOW) < cycles) store<i64>(CPU_NOW, cycles);
  drain();
  memory.fill(RING_REGION, 0, RING_REGION_BYTES);
  store<u32>(DETAILED_RING_INDEX, 0);
}

/** Waits until everything has retired: what a serializing event does (SDM vol. 3, 9.3), and every exit to the host. */
export function drain(): void {
  const retired = load<i64>(CPU_RETIRE);
  if (load<i64>(CPU_NOW) < retired) store<i64>(CPU_NOW, retired);
  store<u64>(CPU_CYCLES, (load<i64>(CPU_NOW) >> 2) as u64);
  store<i64>(CPU_FLAGS_READY, 0);
  memory.fill(CPU_READY, 0, CPU_READY_BYTES);
}

/** READY and XMM_READY. */
const CPU_READY_BYTES: usize = (32 + 16) * 8;
