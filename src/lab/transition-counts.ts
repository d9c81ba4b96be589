// Transitions and flushes, counted from the kernel's trace points.
import {
  FLUSH_CONTROL,
  TRACE_ASI_ENTER,
  TRACE_ASI_EXIT,
  TRACE_FLUSH,
  TRACE_L1D_FLUSH,
  TRACE_RETURN_STACK_FILLED,
  TRACE_TLB_KEPT,
} from "../kernel/index.ts";

export interface TransitionCounts {
  /** Into and out of restricted address spaces, or from one to another. */
  readonly transitions: number;
  /** Prediction barriers. */
  readonly controlFlushes: number;
  readonly returnStackFills: number;
  /** Of L1D and buffers, KVM's own included. */
  readonly dataFlushes: number;
  /** CR3 writes of transitions that dropped translations. */
  readonly tlbFlushes: number;
}

export class TransitionCounter implements TransitionCounts {
  transitions = 0;
  controlFlushes = 0;
  returnStackFills = 0;
  dataFlushes = 0;
  tlbFlushes = 0;

  /** Hears a trace event with its first value. */
  hear(event: number, a: number): void {
    if (event === TRACE_ASI_ENTER || event === TRACE_ASI_EXIT) {
      this.transitions++;
      this.tlbFlushes++;
    } else if (event === TRACE_TLB_KEPT) this.tlbFlushes--;
    else if (event === TRACE_RETURN_STACK_FILLED) this.returnStackFills++;
    else if (event === TRACE_L1D_FLUSH) this.dataFlushes++;
    else if (event === TRACE_FLUSH) {
      if (a === FLUSH_CONTROL) this.controlFlushes++;
      else this.dataFlushes++;
    }
  }

  /** The counts alone. */
  counts(): TransitionCounts {
    const { transitions, controlFlushes, returnStackFills, dataFlushes, tlbFlushes } = this;
    return { transitions, controlFlushes, returnStackFills, dataFlushes, tlbFlushes };
  }
}
