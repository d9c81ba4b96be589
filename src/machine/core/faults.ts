// Recording a fault for the dispatcher to deliver. Nothing is thrown: the code that met it returns LEAVE_FAULT.
import { CPU_FAULT_ERROR, CPU_FAULT_NONCANONICAL, CPU_FAULT_TERMINAL, CPU_FAULT_VECTOR, LEAVE_FAULT } from "./layout.gen.ts";

export function fault(vector: u32, error: u32): i32 {
  store<u32>(CPU_FAULT_VECTOR, vector);
  store<u32>(CPU_FAULT_ERROR, error);
  store<u32>(CPU_FAULT_NONCANONICAL, 0);
  store<u32>(CPU_FAULT_TERMINAL, 0);
  return LEAVE_FAULT;
}
