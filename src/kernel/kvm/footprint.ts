// The real path of a VM exit walks through more memory than ours: trace and statistics structures, timers, the lists of the run queue,
// kernel text. It is charged and touched where the exit is handled, so that caches see it.
import { staticBytes } from "../static-data.ts";

/** Bytes touched per exit. Assumed: 48 lines. */
export const KVM_EXIT_FOOTPRINT_BYTES = 3072;
export const kvmExitFootprint = staticBytes("kvm_exit_footprint", KVM_EXIT_FOOTPRINT_BYTES, 4096);
